"""PPOTrainer: TRL 1.12's constructor and metrics on transformers' Trainer of today."""

import contextlib
import inspect
import logging
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput, set_seed

from rlhf.errors import StoppedByMonitor
from rlhf.generation import eval_mode
from rlhf.modeling import context_length, warn_of_low_precision
from rlhf.ppo import checkpointing
from rlhf.ppo import state as files
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.critic import AdapterCritic, build_critic, put_on_scale
from rlhf.ppo.evaluation import build_judge, evaluate_sets, reference_scores
from rlhf.ppo.experience import collect, score, shape
from rlhf.ppo.kl import build_kl_controller
from rlhf.ppo.lifecycle import OnlineTrainer
from rlhf.ppo.losses import (
    advantages_towards_reference,
    gae,
    masked_whiten,
    per_token_kl,
    per_token_rewards,
    score_positions,
)
from rlhf.ppo.metrics import Scores, rollout_metrics, sampler_gap, training_metrics
from rlhf.ppo.models import PolicyAndValue, disable_dropout
from rlhf.ppo.monitor import Monitor
from rlhf.ppo.optimizing import kl_before, make_steps, within_budget
from rlhf.ppo.prompts import DataCollator, PromptOrder, PromptSet
from rlhf.ppo.ptx import build_ptx
from rlhf.ppo.reference import build_reference
from rlhf.ppo.rollout import Prompts, Rollout
from rlhf.ppo.samples import show_samples
from rlhf.ppo.setup import (
    DatasetLike,
    PromptReader,
    RewardFunc,
    attach_adapter,
    build_sampling,
    build_scorer,
    check_best_metric,
    check_given,
    data_seed,
    set_batch_sizes,
    with_engine,
)
from rlhf.ppo.shaping import ScoreShaper
from rlhf.ppo.update import Experience, require_finite_weights

logger = logging.getLogger(__name__)


class PPOTrainer(OnlineTrainer):
    """Proximal policy optimisation with a KL penalty (Ziegler et al. 2019, Ouyang et al. 2022).

    The arguments of TRL 1.12's PPOTrainer in their order, then four of our own:
    `reward_funcs`: one or more `fn(prompts, completions, **columns) -> list[float]` or `rlhf.scoring.Scorer`, added to
    `reward_model` (either may be left out) with `args.reward_weights`.
    `reward_processing_class`: the reward model's tokenizer where it is not the policy's; completions are then decoded
    and tokenised again, conversations under that tokenizer's chat template.
    `judge`: scorers of evaluation alone, which PPO does not optimise; their sum is `eval_objective/judge`.
    `ptx_dataset`: demonstrations for the PTX loss, with `args.ptx_coef`.

    `ref_model` None stands for the policy as it is given (a PEFT policy: see `build_reference`). `value_model` None
    stands for the critic that `args.critic` and `args.critic_init` ask for (see `build_critic`).
    Datasets hold `input_ids`, or `prompt` as text or messages; further columns are passed to `reward_funcs`.
    Raises UserError for what cannot be trained, before anything is run.
    """

    _tag_names = ["ppo", "rlhf"]
    _name = "PPO"
    _paper = {
        "title": "Fine-Tuning Language Models from Human Preferences",
        "id": "1909.08593",
        "citation": "@article{ziegler2019finetuning, title={Fine-Tuning Language Models from Human Preferences}, "
        "author={Daniel M. Ziegler and Nisan Stiennon and Jeffrey Wu and Tom B. Brown and Alec Radford and "
        "Dario Amodei and Paul Christiano and Geoffrey Irving}, year={2019}, eprint={arXiv:1909.08593}}",
    }

    def __init__(
        self,
        args: PPOConfig,
        processing_class: PreTrainedTokenizerBase,
        model: nn.Module,
        ref_model: nn.Module | None,
        reward_model: nn.Module | None,
        train_dataset: DatasetLike,
        value_model: nn.Module | None = None,
        data_collator: DataCollator | None = None,
        eval_dataset: DatasetLike | dict[str, DatasetLike] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        callbacks: list[TrainerCallback] | None = None,
        peft_config: Any = None,
        *,
        reward_funcs: Sequence[RewardFunc] | RewardFunc | None = None,
        reward_processing_class: PreTrainedTokenizerBase | None = None,
        judge: Sequence[RewardFunc] | RewardFunc | None = None,
        ptx_dataset: DatasetLike | None = None,
    ) -> None:
        models = {"model": model, "ref_model": ref_model, "reward_model": reward_model, "value_model": value_model}
        check_given(args, processing_class, models, train_dataset, eval_dataset)
        set_batch_sizes(args, len(train_dataset), PartialState().num_processes)
        set_seed(args.seed)  # a new adapter's weights are drawn here

        # The models.
        policy = attach_adapter(model, peft_config, args)
        self.scorer = build_scorer(reward_model, reward_funcs, policy, processing_class, reward_processing_class, args)
        reference = build_reference(policy, ref_model, args.ref_adapter_name, fresh_adapter=peft_config is not None)
        if reward_model is not None:
            reward_model.requires_grad_(False).eval()
        value_model = build_critic(args, policy, reference, value_model, self.scorer, processing_class)
        host = value_model.stack.host if isinstance(value_model, AdapterCritic) else None
        for part in (policy, reference.model, value_model, reward_model, host):
            if part is not None:
                disable_dropout(part)
        use_cache = cast(Any, policy).config.use_cache
        super().__init__(
            model=PolicyAndValue(policy, value_model),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if hasattr(policy, "add_model_tags"):
            policy.add_model_tags(self._tag_names)
        cast(Any, policy).config.use_cache = use_cache  # the Trainer turns the cache off in the config that is saved
        self.scorer.to(args.device)
        reference.to(args.device)
        if reward_model is not None:
            reward_model.to(args.device)
        self.reference = reference
        self.ref_model = reference.model
        self.reward_model = reward_model
        self.value_model = value_model
        self.policy_model = policy
        self.is_peft_model = isinstance(policy, PeftModel)
        warn_of_low_precision(self.model, args.learning_rate)

        # Sampling, prompts, KL.
        self.sampling = build_sampling(policy, processing_class, args)
        others = {"ref_model": reference.host, "critic": self.model.critic_host}
        self._read = PromptReader(policy, processing_class, args, data_collator, others)
        self.prompts = self._read(train_dataset, "train_dataset")
        self.order = PromptOrder(len(self.prompts), cast(int, args.batch_size), data_seed(args))
        self.eval_prompts = self._read.sets(eval_dataset)
        every = (self.prompts, *self.eval_prompts.values())
        self.sampling = with_engine(self.sampling, policy, self.accelerator, every, args)
        self.judge = build_judge(judge, self.eval_prompts, args)
        check_best_metric(args, list(self.eval_prompts), [s.name for s in self.scorer.scorers], self.judge is not None)
        self.scorer.prepare(self.prompts.columns, args.reward_timeout)
        self.ptx = build_ptx(ptx_dataset, processing_class, args, context_length(policy))
        self.shaper = ScoreShaper(args)
        self.kl_controller = build_kl_controller(args)
        self.monitor = Monitor(args.monitor, cast(int, args.batch_size), args.monitor_thresholds)
        self.on_alarm, self.on_samples, self.own_checkpoints, self.taken_back = [], [], [], None
        self.state = self._new_state()

    # ---- Training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train for `args.num_total_batches` updates, or go on from a checkpoint to that number.

        `resume_from_checkpoint`: a folder, or True for the newest intact one in `args.output_dir`. Raises
        NonFiniteError before a step that would ruin the weights, StoppedByMonitor for an alarm if `args.monitor` says
        so, ScorerError for a scorer that fails, UserError for a checkpoint that cannot be continued.
        """
        if kwargs:
            raise TypeError(f"train() takes resume_from_checkpoint alone, found {', '.join(kwargs)}")
        while True:
            try:
                return self._train(resume_from_checkpoint)
            except StoppedByMonitor as error:
                resume_from_checkpoint = self._roll_back(error)  # or raise it

    def _train(self, resume_from_checkpoint: str | bool | None) -> TrainOutput:
        args = self.args
        num_updates = self._begin(resume_from_checkpoint)
        start_time, first_update = time.time(), self.state.global_step
        losses: list[float] = []
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        self._tell_of_rollback()
        self._make_up_for_evaluation()
        if self.shaper.needs_reference:
            self.shaper.measure(reference_scores(self, self.prompts.batch(self.order.rows(0))))
            put_on_scale(self.value_model, self.shaper.moments.mean, self.shaper.moments.std)
        if args.eval_on_start and first_update == 0:
            self._evaluate(None, None, skip_scheduler=True)

        for update in range(first_update, num_updates):
            if self.control.should_training_stop:
                break
            if update % self.order.batches_per_epoch == 0:
                self.control = self.callback_handler.on_epoch_begin(args, self.state, self.control)
            self.control = self.callback_handler.on_step_begin(args, self.state, self.control)

            # 1. Draw the prompts, sample a completion for each, measure it under policy, reference and critic.
            clock, random_state = [time.perf_counter()], files.rng_state()
            rollout = self.collect(self.prompts.batch(self.order.rows(update)))
            clock.append(time.perf_counter())

            # 2. Score the completions; take off penalties, normalise, clip.
            with checkpointing.kept_if_a_scorer_fails(self, random_state):
                scores, each_score = score(rollout, self.scorer, args, self.sampling)
            shaped, rollout = shape(rollout, scores, self.shaper, self.value_model)
            clock.append(time.perf_counter())

            # 3. Reward each token: minus the KL penalty (unless it is in the loss), and the score at the end.
            penalty = per_token_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask, args.kl_estimator)
            kl_coef = self.kl_controller.value
            in_reward, in_loss = (kl_coef, 0.0) if args.kl_in == "reward" else (0.0, kl_coef)
            rewards = per_token_rewards(penalty, shaped, score_positions(rollout.mask, args.reward_at), in_reward)
            if args.whiten_rewards:
                rewards = masked_whiten(rewards, rollout.value_mask, shift_mean=False)

            # 4. Estimate advantages and returns; where the budget of KL is spent, nothing but KL counts.
            advantages, returns = gae(rewards, rollout.values, args.gamma, args.lam)
            kl = kl_before(self, rollout)
            spent = self.kl_controller.is_spent(kl)
            if spent:
                advantages = advantages_towards_reference(rollout.logprobs, rollout.ref_logprobs, rollout.mask)
            experience = Experience(rollout, masked_whiten(advantages, rollout.mask), returns, in_loss)

            # 5. Several passes over the batch in shuffled minibatches, one optimizer step each, until KL forbids more.
            #    The first `critic_warmup_updates` train the critic alone.
            warming_up = update < args.critic_warmup_updates
            with self.model.policy_held() if warming_up else within_budget(self, rollout, kl):
                steps = make_steps(self, experience, update, spent)
            require_finite_weights(self.model, f"update {update + 1}")
            clock.append(time.perf_counter())

            # 6. Report, and steer the KL coefficient and the learning rate.
            said = Scores(scores, each_score, shaped, self.scorer.spread(each_score))
            metrics = rollout_metrics(rollout, penalty, said, args, kl_coef, self.sampling.eos_ids)
            metrics |= sampler_gap(rollout) | training_metrics(steps, rollout, returns)
            metrics |= dict(zip(("time/rollout", "time/score", "time/train"), np.diff(clock).tolist(), strict=True))
            losses.append(metrics["loss/policy_avg"] + args.vf_coef * metrics["loss/value_avg"])
            self.state.global_step += 1
            self.state.episode += cast(int, args.batch_size)
            self.state.epoch = self.state.episode / len(self.prompts)
            metrics["lr"] = self.lr_scheduler.get_last_lr()[0]
            metrics["episode"] = self.state.episode
            metrics["eps"] = len(losses) * cast(int, args.batch_size) / (time.time() - start_time)
            metrics["objective/kl_coef"] = kl_coef
            self.watch(metrics)
            self.metric_log.add(metrics)
            if not warming_up:
                self.kl_controller.update(metrics["objective/kl"], cast(int, args.batch_size))
            if "metrics" not in inspect.signature(self.lr_scheduler.step).parameters:  # else evaluation steps it
                self.lr_scheduler.step()

            # 7. Callbacks decide on logging, evaluation, saving and stopping.
            self.control = self.callback_handler.on_step_end(args, self.state, self.control)
            self._log_evaluate_save()
            if (update + 1) % self.order.batches_per_epoch == 0:
                self.control = self.callback_handler.on_epoch_end(args, self.state, self.control)
                self._log_evaluate_save()
            if args.num_sample_generations > 0 and update % max(1, num_updates // args.num_sample_generations) == 0:
                with checkpointing.kept_if_a_scorer_fails(self, files.rng_state()):
                    self.generate_completions(sampling=True)

        return self._end(start_time, losses)

    def collect(self, prompts: Prompts) -> Rollout:
        """Sample and measure a completion for each prompt; raises NonFiniteError."""
        with eval_mode(self.model), self.autocast():
            return collect(self.model, self.reference, prompts, self.sampling)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """bf16 arithmetic over fp32 weights if `args.bf16`, on any device."""
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=bool(self.args.bf16))

    # ---- Evaluation ----

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Sample completions of held-out prompts as training does, and report score, KL, length and EOS share.

        Draws from its own seeded generator: two evaluations differ by the policy alone, and training goes on as if
        there had been none. Keys are the training keys after `metric_key_prefix`, such as `eval_objective/scores`. The
        monitor looks at evaluations of the trainer's own sets alone.
        """
        metrics = evaluate_sets(self, self._sets_of(eval_dataset), metric_key_prefix)
        if eval_dataset is None and metric_key_prefix == "eval":
            self.watch(metrics)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _sets_of(self, eval_dataset: Any) -> dict[str, PromptSet]:
        """The prompts to evaluate on by their names: the trainer's own, one of them, or others."""
        if isinstance(eval_dataset, str):
            return {"": self.eval_prompts[eval_dataset]}
        return self.eval_prompts if eval_dataset is None else self._read.sets(eval_dataset)

    def generate_completions(self, sampling: bool = False) -> None:
        """Show greedy completions of evaluation prompts with their scores; of the first batch alone if `sampling`."""
        for prompts in self.eval_prompts.values():
            rows = range(min(self.args.per_device_eval_batch_size, len(prompts)) if sampling else len(prompts))
            show_samples(self, prompts.batch(rows))
