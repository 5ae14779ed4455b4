"""PPOConfig: the fields, names and defaults of TRL 1.12's, and what came on top."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from rlhf.errors import UserError
from rlhf.ppo.field_kinds import wrong_kinds
from rlhf.trl_compat import BaseConfig

STEPPED_BY_EVALUATION = ("reduce_lr_on_plateau", "greedy")
"""Schedules that look at `metric_for_best_model`."""

INHERITED = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "max_grad_norm",
    "seed",
    "data_seed",
)
"""Fields of `TrainingArguments` that are looked at as our own are: what they say is used before any of theirs is."""

CHOICES: dict[str, tuple[str | None, ...]] = {
    "generation": ("hf", "vllm"),
    "kl_in": ("reward", "loss"),
    "reward_ensemble": (None, "mean", "worst", "mean_minus_std"),
    "score_normalization": ("none", "running", "reference"),
    "monitor": ("off", "warn", "stop", "rollback"),
}
"""What these fields may be."""


def _refuse(problems: Iterable[tuple[str, str]]) -> None:
    """Raise UserError if there are any."""
    lines = [f"{name}: {text}" for name, text in problems]
    if lines:
        raise UserError(lines)


@dataclass
class PPOConfig(BaseConfig):
    """Settings of `PPOTrainer`: these, and every field of `transformers.TrainingArguments`.

    One update collects `per_device_train_batch_size * gradient_accumulation_steps` episodes, then passes over them
    `num_ppo_epochs` times in `num_mini_batches` optimizer steps each. `per_device_train_batch_size` is the size of a
    forward and backward pass alone: the result does not depend on it. `max_grad_norm` bounds the gradient of policy
    and critic, each for itself. `bf16` is mixed precision by autocast over fp32 weights, on the CPU as well.

    Differs from `TrainingArguments`: learning_rate 3e-6, gradient_checkpointing on, bf16 on unless fp16 is set, and
    logging_steps 1 (TRL's PPO logged every update, whatever `logging_steps` said; here it is obeyed). Where the best
    model or a schedule needs a `metric_for_best_model`, it is `objective/scores`, and a higher one is better; of
    `objective/kl` a lower one is.
    """

    logging_steps: float = field(default=1, metadata={"help": "Log every so many updates, averaged over them."})
    learning_rate: float = field(default=3e-6, metadata={"help": "Initial learning rate of policy and critic."})
    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "Kept for TRL's scripts; prompts are read in one process."}
    )
    num_mini_batches: int = field(default=1, metadata={"help": "Optimizer steps in one pass over a batch."})
    total_episodes: int | None = field(
        default=None,
        metadata={"help": "Completions to train on in all; default num_train_epochs times the prompts."},
    )
    local_rollout_forward_batch_size: int = field(
        default=64, metadata={"help": "Rows in one generation or gradient-free forward pass."}
    )
    num_sample_generations: int = field(
        default=10,
        metadata={"help": "How often in a run to show completions of evaluation prompts; 0 for never."},
    )
    response_length: int = field(default=53, metadata={"help": "Longest completion, in tokens."})
    stop_token: Literal["eos"] | None = field(
        default=None,
        metadata={"help": "'eos' ends a completion at the EOS tokens; None lets all run to response_length."},
    )
    stop_token_id: int | None = field(
        default=None, metadata={"help": "A token id that ends a completion, instead of stop_token."}
    )
    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature, of all log-probabilities too."})
    missing_eos_penalty: float | None = field(
        default=None,
        metadata={"help": "Subtracted from the score of a completion without an EOS token; positive."},
    )
    sft_model_path: str = field(
        default="EleutherAI/pythia-160m", metadata={"help": "Kept for TRL's scripts: their SFT model."}
    )
    world_size: int | None = field(default=None, metadata={"help": "Set by the trainer: number of processes."})
    num_total_batches: int | None = field(default=None, metadata={"help": "Set by the trainer: number of updates."})
    micro_batch_size: int | None = field(
        default=None, metadata={"help": "Set by the trainer: rows of one backward pass."}
    )
    local_batch_size: int | None = field(
        default=None, metadata={"help": "Set by the trainer: episodes per update and process."}
    )
    batch_size: int | None = field(default=None, metadata={"help": "Set by the trainer: episodes per update."})
    local_mini_batch_size: int | None = field(
        default=None, metadata={"help": "Set by the trainer: episodes per optimizer step and process."}
    )
    mini_batch_size: int | None = field(
        default=None, metadata={"help": "Set by the trainer: episodes per optimizer step."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the policy to the Hub."})
    reward_model_path: str = field(
        default="EleutherAI/pythia-160m", metadata={"help": "Kept for TRL's scripts: their reward model."}
    )
    model_adapter_name: str | None = field(
        default=None, metadata={"help": "Adapter of a PEFT policy to train, when it has several."}
    )
    ref_adapter_name: str | None = field(
        default=None,
        metadata={"help": "Adapter of a PEFT policy that is the reference, when it has several."},
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each batch."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale per-token rewards to unit variance."})
    kl_coef: float = field(
        default=0.05, metadata={"help": "KL coefficient; the first one if kl_controller is adaptive."}
    )
    kl_estimator: Literal["k1", "k2", "k3"] = field(
        default="k1", metadata={"help": "KL estimator in the reward (http://joschu.net/blog/kl-approx.html)."}
    )
    cliprange: float = field(default=0.2, metadata={"help": "Clip range of the probability ratio."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Clip range of the value."})
    gamma: float = field(default=1.0, metadata={"help": "Discount factor."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of the advantage estimate."})
    ds3_gather_for_generation: bool = field(
        default=True, metadata={"help": "With DeepSpeed ZeRO-3, gather the weights for generation."}
    )

    # What TRL 1.12 did not have.
    critic: Literal["separate", "shared", "adapter", "head"] = field(
        default="separate",
        metadata={
            "help": "A model of its own as in TRL, a head on the policy's trunk, an adapter of the frozen base, or a "
            "small network on the frozen reward model."
        },
    )
    critic_init: Literal["reward", "policy"] | None = field(
        default=None,
        metadata={"help": "What the critic starts from; None is the reward model where that can serve."},
    )
    critic_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Initial learning rate of the critic; left out it is learning_rate, ten times that for a shared "
            "one and for an adapter beside a policy without one, 3e-3 for a head."
        },
    )
    critic_trunk_gradient: float = field(
        default=1.0,
        metadata={"help": "Share of the value gradient that a shared critic sends on into the policy's trunk."},
    )
    critic_warmup_updates: int = field(
        default=0,
        metadata={"help": "Updates of the critic alone, before the first of the policy; their episodes count."},
    )
    kl_controller: Literal["fixed", "adaptive"] = field(
        default="fixed",
        metadata={"help": "'adaptive' steers the KL towards kl_target (Ziegler et al. 2019)."},
    )
    kl_target: float = field(default=6.0, metadata={"help": "Target of the adaptive controller, nats per sequence."})
    kl_horizon: int = field(default=10000, metadata={"help": "Horizon of the adaptive controller, in episodes."})
    kl_in: Literal["reward", "loss"] = field(
        default="reward", metadata={"help": "Whether KL is taken off the rewards, or is a term of the policy's loss."}
    )
    kl_budget: float | None = field(
        default=None,
        metadata={"help": "KL that the policy must keep within, nats per sequence; see docs/ppo.md for how."},
    )
    max_approx_kl: float | None = field(
        default=None,
        metadata={"help": "End an update early where policy/approxkl_avg of a minibatch is above this."},
    )
    reward_at: Literal["eos", "trl"] = field(
        default="eos",
        metadata={"help": "Where the score is paid: at the last token, or one past it as TRL did."},
    )
    reward_weights: list[float] | None = field(
        default=None,
        metadata={"help": "Weights of reward_model and reward_funcs, in this order; default 1 each."},
    )
    reward_ensemble: Literal["mean", "worst", "mean_minus_std"] | None = field(
        default=None,
        metadata={
            "help": "How several reward models, or an artefact's members, make one score, functions apart; None adds "
            "models up, and combines an artefact's members as it says itself."
        },
    )
    reward_ensemble_coef: float = field(
        default=1.0, metadata={"help": "Standard deviations that mean_minus_std takes off the mean."}
    )
    reward_timeout: float | None = field(
        default=None, metadata={"help": "Seconds that one call of a reward function may take; None waits for ever."}
    )
    score_normalization: Literal["none", "running", "reference"] = field(
        default="none",
        metadata={
            "help": "Scale scores by mean and deviation of all so far ('running'), or of the reference's samples."
        },
    )
    score_clip: float | None = field(
        default=None, metadata={"help": "Bound of a score's size, after penalties and normalization."}
    )
    length_penalty: float = field(
        default=0.0, metadata={"help": "Subtracted from the score for each token beyond length_penalty_after."}
    )
    length_penalty_after: int = field(default=0, metadata={"help": "Tokens of a completion that cost nothing."})
    ptx_coef: float = field(
        default=0.0, metadata={"help": "Weight of the SFT loss on ptx_dataset (InstructGPT's gamma, PPO-ptx)."}
    )
    generation: Literal["hf", "vllm"] = field(
        default="hf", metadata={"help": "What samples completions: the model itself, or a vLLM engine beside it."}
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.3, metadata={"help": "Share of the accelerator's memory that the vLLM engine takes."}
    )
    stop_strings: list[str] | None = field(
        default=None, metadata={"help": "Texts that end a completion, beside the stop tokens."}
    )
    monitor: Literal["off", "warn", "stop", "rollback"] = field(
        default="warn",
        metadata={"help": "What an alarm of the watchmen does: say so, stop, or go back to the last good checkpoint."},
    )
    monitor_thresholds: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Other levels for single watchmen: {'kl': {'warn': 10, 'stop': 20}, 'entropy': 'off'}."},
    )
    max_rollbacks: int = field(default=3, metadata={"help": "Rollbacks in one run; at the next alarm it stops."})
    max_tokens_per_micro_batch: int | None = field(
        default=None,
        metadata={
            "help": "Tokens, padding counted, of one backward pass, instead of per_device_train_batch_size rows."
        },
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "Longest prompt, in tokens; default what the context leaves."}
    )
    truncate_prompts: bool = field(
        default=False, metadata={"help": "Cut the beginning off longer prompts instead of refusing them."}
    )

    def __post_init__(self) -> None:
        _refuse(
            wrong_kinds(self, (*INHERITED, *PPOConfig.__annotations__))
        )  # first, for what is no number cannot be compared with one
        if not torch.cuda.is_available() and not torch.xpu.is_available():
            # TrainingArguments refuses bf16 without a GPU unless told that the CPU is meant.
            if not self.use_cpu:  # type: ignore[has-type]
                self.bf16 = bool(self.bf16)  # type: ignore[has-type]
            self.use_cpu = self.use_cpu or bool(self.bf16)  # type: ignore[has-type]
        if getattr(self, "activation_checkpointing", False) is None:
            # Newer transformers call it so and warn of the old name, TRL's default for which nobody wrote.
            self.activation_checkpointing = self.gradient_checkpointing
            self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs
        self._choose_best_metric()
        super().__post_init__()
        if self.lr_scheduler_type in STEPPED_BY_EVALUATION:
            # Their own mode is always "min".
            mode = "max" if self.greater_is_better else "min"  # type: ignore[has-type]
            self.lr_scheduler_kwargs = {"mode": mode, **(self.lr_scheduler_kwargs or {})}  # type: ignore[has-type]
        _refuse(self._problems())

    def _choose_best_metric(self) -> None:
        """`TrainingArguments` would take the loss, which evaluation does not report, and of the KL the highest."""
        needed = self.load_best_model_at_end or self.save_strategy == "best"  # type: ignore[has-type]
        metric: str | None = self.metric_for_best_model  # type: ignore[has-type]
        if metric is None and (needed or self.lr_scheduler_type in STEPPED_BY_EVALUATION):
            metric = "objective/scores"
        if self.greater_is_better is None and (metric or "").endswith("objective/kl"):  # type: ignore[has-type]
            self.greater_is_better = False
        self.metric_for_best_model = metric

    def _problems(self) -> list[tuple[str, str]]:
        """Every setting that cannot be meant, with what to do about it."""
        problems: list[tuple[str, str]] = []

        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                problems.append((name, f"found {getattr(self, name)!r}; {rule}"))

        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "num_mini_batches",
            "num_ppo_epochs",
            "response_length",
            "local_rollout_forward_batch_size",
            "kl_horizon",
        ):
            need(getattr(self, name) >= 1, name, "give a whole number of at least 1")
        for name in ("learning_rate", "max_grad_norm"):
            need(getattr(self, name) >= 0, name, "give 0 or more")
        for name in ("temperature", "cliprange", "cliprange_value", "kl_target"):
            need(getattr(self, name) > 0, name, "give a number above 0")
        for name in ("kl_coef", "vf_coef", "num_sample_generations", "reward_ensemble_coef", "length_penalty_after"):
            need(getattr(self, name) >= 0, name, "give 0 or more")
        for name in ("ptx_coef", "max_rollbacks"):
            need(getattr(self, name) >= 0, name, "give 0 or more")
        for name in ("kl_budget", "max_approx_kl", "score_clip", "reward_timeout"):
            need(getattr(self, name) is None or getattr(self, name) > 0, name, "give a number above 0, or leave it out")
        for name in ("gamma", "lam", "critic_trunk_gradient"):
            need(0 <= getattr(self, name) <= 1, name, "give a number from 0 to 1")
        need(self.kl_estimator in {"k1", "k2", "k3"}, "kl_estimator", "use k1, k2 or k3")
        need(self.kl_controller in {"fixed", "adaptive"}, "kl_controller", "use fixed or adaptive")
        for name, choices in CHOICES.items():
            need(getattr(self, name) in choices, name, f"use {', '.join(str(c) for c in choices)}")
        share = self.vllm_gpu_memory_utilization
        need(0 < share <= 1, "vllm_gpu_memory_utilization", "give a share of the memory, above 0 and up to 1")
        need(self.stop_strings is None or all(self.stop_strings), "stop_strings", "give texts that are not empty")
        need(self.reward_at in {"eos", "trl"}, "reward_at", "use eos or trl")
        need(
            self.critic in {"separate", "shared", "adapter", "head"}, "critic", "use separate, shared, adapter or head"
        )
        need(self.critic_init in {None, "reward", "policy"}, "critic_init", "use reward or policy")
        need(self.critic_warmup_updates >= 0, "critic_warmup_updates", "give 0 or more")
        need(
            self.critic == "shared" or self.critic_trunk_gradient == 1,
            "critic_trunk_gradient",
            "only a shared critic has its trunk in common with the policy; set critic to shared, or leave it out",
        )
        rate = self.critic_learning_rate
        need(rate is None or rate > 0, "critic_learning_rate", "give a number above 0, or leave it out")
        need(
            self.critic != "shared" or self.critic_init != "reward",
            "critic_init",
            "a shared critic starts as a head on the policy's trunk; set policy, or leave it out",
        )
        need(
            self.critic != "head" or self.critic_init != "policy",
            "critic_init",
            "a head is one on the reward model; set reward, or leave it out",
        )
        need(self.stop_token in {None, "eos"}, "stop_token", "use 'eos' or None")
        need(
            self.stop_token is None or self.stop_token_id is None,
            "stop_token_id",
            "set this or stop_token, not both",
        )
        for name in ("total_episodes", "max_prompt_length", "max_tokens_per_micro_batch"):
            need(
                getattr(self, name) is None or getattr(self, name) >= 1,
                name,
                "give at least 1, or leave it out",
            )
        if self.eval_strategy == "no" and (self.load_best_model_at_end or self.save_strategy == "best"):
            problems.append(
                ("eval_strategy", "found 'no'; the best model is found by evaluating: set it to steps or epoch")
            )
        penalty = self.missing_eos_penalty
        need(penalty is None or penalty > 0, "missing_eos_penalty", "give a number above 0, or leave it out")
        need(not self.fp16, "fp16", "PPO trains in fp32 or bf16; set bf16 instead")
        if self.kl_controller == "adaptive":
            need(
                self.kl_coef > 0,
                "kl_coef",
                "an adaptive coefficient cannot grow from 0; give a number above 0",
            )
        return problems
