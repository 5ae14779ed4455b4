"""What the trainer's constructor works out from its arguments: batch sizes, policy, scorers, sampling."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation import VLLMSampler, padding_id, stop_token_ids
from rlhf.modeling import adapters_at_work, context_length
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import Sampling, TokenRewardScorer
from rlhf.ppo.forward import check_writes
from rlhf.ppo.metrics import EVALUATION_KEYS, JUDGE_KEYS
from rlhf.ppo.prompts import DataCollator, PromptSet, require_rows
from rlhf.ppo.reference import put_back_to_training
from rlhf.scoring import Ensemble, FunctionScorer, RewardModelScorer, Scorer, WeightedScorer

DatasetLike = Sequence[Mapping[str, Any]]
RewardFunc = Callable[..., Sequence[float]] | Scorer


def check_given(
    args: PPOConfig,
    tokenizer: object,
    models: Mapping[str, object],
    train_dataset: object,
    eval_dataset: DatasetLike | dict[str, DatasetLike] | None,
) -> None:
    """Raise UserError where something is missing or is no such thing, before anything is made of it.

    `models` are `model`, `ref_model`, `reward_model` and `value_model`, None for one that is not given.
    """
    for name, given in models.items():
        if given is not None and not isinstance(given, nn.Module):
            kind = "AutoModelForCausalLM" if name in {"model", "ref_model"} else "AutoModelForSequenceClassification"
            if isinstance(given, list | tuple) and given and isinstance(given[0], nn.Module):
                raise UserError(
                    f"{name}: expected one model, found {len(given)}; give several as reward_funcs=[RewardModelScorer("
                    "model, tokenizer, name), ...], each with a name of its own"
                )
            raise UserError(f"{name}: expected a model, found {given!r:.60}; load it with {kind}.from_pretrained")
    policy, value_model = models["model"], models["value_model"]
    if policy is None:
        raise UserError("model: it is missing; give the policy to train, loaded with AutoModelForCausalLM")
    check_writes(cast(nn.Module, policy), "model")
    if models["ref_model"] is policy:
        raise UserError("ref_model: it is the same object as model; pass a copy, or None for a copy to be made")
    if value_model is not None and value_model is models["reward_model"]:
        raise UserError(
            "value_model: it is the same object as reward_model, which must not be trained; pass a copy, or None"
        )
    if not hasattr(tokenizer, "eos_token_id"):
        raise UserError(
            f"processing_class: expected the policy's tokenizer, found {tokenizer!r:.60}; load it with "
            "AutoTokenizer.from_pretrained"
        )
    if train_dataset is None:
        raise UserError("train_dataset: it is missing; give a data set of prompts")
    require_rows(train_dataset, "train_dataset")
    if args.eval_strategy != "no" and (eval_dataset is None or eval_dataset == {}):
        raise UserError(
            f"eval_strategy: found {str(getattr(args.eval_strategy, 'value', args.eval_strategy))!r}, and there is no "
            "eval_dataset to evaluate on; give one, or set it to no"
        )


def set_batch_sizes(args: PPOConfig, num_prompts: int, world_size: int) -> None:
    """Fill in the sizes that `args` leaves to the trainer, under TRL's names; UserError where they do not divide."""
    if world_size > 1:
        raise UserError(f"PPOTrainer: started with {world_size} processes; it runs in one, start it without a launcher")
    args.world_size = world_size
    if args.total_episodes is None:
        args.total_episodes = max(1, int(args.num_train_epochs * num_prompts))
    args.local_batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    args.micro_batch_size = args.per_device_train_batch_size * world_size
    args.batch_size = args.local_batch_size * world_size
    if args.batch_size % args.num_mini_batches:
        raise UserError(
            f"num_mini_batches: {args.num_mini_batches} does not divide the batch of {args.batch_size} episodes "
            "(per_device_train_batch_size * gradient_accumulation_steps); change one of the three"
        )
    args.mini_batch_size = args.batch_size // args.num_mini_batches
    args.local_mini_batch_size = args.local_batch_size // args.num_mini_batches
    if args.whiten_rewards and args.local_mini_batch_size < 8:
        raise UserError(
            f"whiten_rewards: minibatches of {args.local_mini_batch_size} episodes are too small for it; use 8 or more"
        )
    args.num_total_batches = args.max_steps if args.max_steps > 0 else math.ceil(args.total_episodes / args.batch_size)
    if args.critic_warmup_updates >= args.num_total_batches:
        raise UserError(
            f"critic_warmup_updates: {args.critic_warmup_updates} of the run's {args.num_total_batches} updates "
            f"({args.total_episodes} episodes in batches of {args.batch_size}) leave none for the policy; lower it, or "
            "raise total_episodes"
        )


def data_seed(args: PPOConfig) -> int:
    """The seed of the order of prompts: `data_seed`, or else `seed`."""
    return args.seed if args.data_seed is None else args.data_seed


def attach_adapter(policy: nn.Module, peft_config: Any, args: PPOConfig) -> nn.Module:
    """The policy to train: wrapped with `peft_config` if one is given, with the adapter that `args` names active."""
    if peft_config is not None:
        if not isinstance(peft_config, PeftConfig):
            raise UserError(
                f"peft_config: expected a peft.PeftConfig such as LoraConfig, found "
                f"{type(peft_config).__name__}; give one, or leave it out"
            )
        if isinstance(policy, PeftModel):
            raise UserError(
                "peft_config: the model has an adapter already; leave peft_config out to train it, or merge it first"
            )
        policy = get_peft_model(cast(Any, policy), peft_config)
    elif args.model_adapter_name is not None and args.model_adapter_name not in getattr(policy, "peft_config", {}):
        raise UserError(f"model_adapter_name: the model has no adapter {args.model_adapter_name!r}")
    if isinstance(policy, PeftModel):
        at_work = adapters_at_work(policy)
        if len(at_work) > 1 and args.model_adapter_name is None:
            put_back_to_training(policy, at_work)  # one that stands on others, see rlhf.modeling.load_on_one_base
        else:
            # Makes it trainable too: a PeftModel loaded from a folder is frozen by default.
            policy.set_adapter(args.model_adapter_name or policy.active_adapter)
    return policy


def build_scorer(
    reward_model: nn.Module | None,
    reward_funcs: Sequence[RewardFunc] | RewardFunc | None,
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    reward_tokenizer: PreTrainedTokenizerBase | None,
    args: PPOConfig,
) -> WeightedScorer:
    """The reward model, then the functions, with `args.reward_weights`; UserError when there is neither."""
    scorers: list[Scorer] = []
    batch_size = args.local_rollout_forward_batch_size
    if reward_model is not None and (reward_tokenizer is None or reward_tokenizer is tokenizer):
        sizes = [cast(Any, model).config.get_text_config().vocab_size for model in (reward_model, policy)]
        if sizes[0] < sizes[1]:
            raise UserError(
                f"reward_model: its vocabulary of {sizes[0]} tokens is smaller than the policy's {sizes[1]}; "
                "pass its tokenizer as reward_processing_class"
            )
        scorers.append(TokenRewardScorer(reward_model, tokenizer, batch_size=batch_size))
    elif reward_model is not None:
        scorers.append(RewardModelScorer(reward_model, cast(Any, reward_tokenizer), batch_size=batch_size))
    if reward_funcs is not None and not isinstance(reward_funcs, (list, tuple)):
        reward_funcs = [cast(RewardFunc, reward_funcs)]
    scorers += [f if isinstance(f, Scorer) else FunctionScorer(f) for f in reward_funcs or []]
    if not scorers:
        raise UserError("reward_model: there is nothing to score with; give reward_model, reward_funcs or both")
    whole = _flat(WeightedScorer(scorers, args.reward_weights))
    ensemble = Ensemble(args.reward_ensemble, args.reward_ensemble_coef) if args.reward_ensemble else None
    return WeightedScorer(whole.scorers, whole.weights, ensemble=ensemble)


def _flat(scorer: WeightedScorer) -> WeightedScorer:
    """Mixes within the mix taken apart, so that each scorer is reported by its own name."""
    parts: list[tuple[Scorer, float]] = []
    for part, weight in zip(scorer.scorers, scorer.weights, strict=True):
        if isinstance(part, WeightedScorer):
            inner = _flat(part)
            parts += [(s, weight * w) for s, w in zip(inner.scorers, inner.weights, strict=True)]
        else:
            parts.append((part, weight))
    return WeightedScorer([s for s, _ in parts], [w for _, w in parts])


def check_best_metric(
    args: PPOConfig, eval_sets: Sequence[str], scorers: Sequence[str], has_judge: bool = False
) -> None:
    """Raise UserError when `args.metric_for_best_model` is not among what evaluation will report.

    `eval_sets` are the names of the held-out sets ("" for one without a name), `scorers` those of the scorers.
    """
    if args.metric_for_best_model is None or not eval_sets:
        return
    keys = [*EVALUATION_KEYS, *(f"objective/scores/{name}" for name in scorers)]
    keys += [*JUDGE_KEYS] if has_judge else []
    known = [f"{name}_{key}" if name else key for name in eval_sets for key in keys]
    given = args.metric_for_best_model.removeprefix("eval_")
    if given not in known:
        close = difflib.get_close_matches(given, known, n=1) or known
        raise UserError(
            f"metric_for_best_model: {given!r} is not among what an evaluation reports ({', '.join(known)}); "
            f"did you mean {close[0]!r}?"
        )


def build_sampling(policy: nn.Module, tokenizer: PreTrainedTokenizerBase, args: PPOConfig) -> Sampling:
    """Stop tokens and the rest of how completions are drawn. Raises UserError for a token id the vocabulary lacks."""
    vocab_size = cast(Any, policy).config.get_text_config().vocab_size
    stop_ids: tuple[int, ...] = ()
    if args.stop_token == "eos":  # noqa: S105
        stop_ids = tuple(stop_token_ids(policy, tokenizer))
    elif args.stop_token_id is not None:
        stop_ids = (args.stop_token_id,)
    for token_id in stop_ids:
        if not 0 <= token_id < vocab_size:
            raise UserError(f"stop token {token_id}: the model's vocabulary has {vocab_size} tokens, from 0 on")
        if token_id >= len(tokenizer):
            raise UserError(
                f"stop token {token_id}: the tokenizer has {len(tokenizer)} tokens, and none of that number; take the "
                "model's own tokenizer, or set stop_token_id"
            )
    eos_id = tokenizer.eos_token_id
    eos_ids = stop_ids or (() if eos_id is None else (int(eos_id),))
    if args.missing_eos_penalty is not None and not eos_ids:
        raise UserError("missing_eos_penalty: the tokenizer has no EOS token, so every completion would pay; set one")
    pad_id = padding_id(tokenizer, vocab_size)
    if pad_id is None:
        pad_id = eos_ids[0] if eos_ids else 0
    return Sampling(
        max_new_tokens=args.response_length,
        temperature=args.temperature + 1e-7,  # TRL's guard against 0, kept so that log-probs agree with it
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        stop_strings=tuple(args.stop_strings or ()),
        eos_ids=eos_ids,
        pad_id=int(pad_id),
        batch_size=args.local_rollout_forward_batch_size,
        reward_at=args.reward_at,
    )


@dataclass(frozen=True)
class PromptReader:
    """Reads data sets of prompts for one policy; UserError names the rows that cannot be used."""

    policy: nn.Module
    tokenizer: PreTrainedTokenizerBase
    args: PPOConfig
    collator: DataCollator | None
    others: Mapping[str, nn.Module]
    """What else reads prompts and completions as the policy's tokens, by the names that errors call them."""

    def __call__(self, dataset: DatasetLike, name: str) -> PromptSet:
        """The prompts of `dataset`, which errors call `name`."""
        prompts = PromptSet(
            dataset,
            self.tokenizer,
            name=name,
            max_new_tokens=self.args.response_length,
            context_length=context_length(self.policy),
            vocab_size=cast(Any, self.policy).config.get_text_config().vocab_size,
            max_prompt_length=self.args.max_prompt_length,
            truncate=self.args.truncate_prompts,
            collator=self.collator,
        )
        longest = prompts.longest + self.args.response_length
        for other, model in self.others.items():
            context = context_length(model)
            if context is not None and longest > context:
                raise UserError(
                    f"{other}: it reads {context} tokens, and {name} has a prompt of {prompts.longest}, which with "
                    f"response_length makes {longest}; lower response_length or max_prompt_length, or take one that "
                    "reads as many as the policy"
                )
        return prompts

    def sets(self, eval_dataset: DatasetLike | dict[str, DatasetLike] | None) -> dict[str, PromptSet]:
        """Sets to evaluate on by their names, "" for one without a name; none of None."""
        if eval_dataset is None:
            return {}
        named = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
        return {key: self(data, f"eval_dataset {key}".strip()) for key, data in named.items()}


def with_engine(
    sampling: Sampling, policy: nn.Module, accelerator: Any, prompts: Iterable[PromptSet], args: PPOConfig
) -> Sampling:
    """`sampling` by what `args.generation` names. Raises UserError where a vLLM engine cannot be had."""
    if args.generation == "hf":
        return sampling
    longest = max(some.longest for some in prompts)
    engine = VLLMSampler(
        policy,
        accelerator,
        sampling.tokenizer,
        max_prompt_tokens=args.max_prompt_length or longest,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        stop_ids=sampling.stop_ids,
        stop_strings=sampling.stop_strings,
        pad_id=sampling.pad_id,
        gpu_memory_utilization=args.vllm_gpu_memory_utilization,
    )
    return replace(sampling, engine=engine)
