"""Which metrics stand in one figure, and what stages are called."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """Metrics that belong in one figure.

    Attributes:
        name: file name of the PNG.
        title: heading of the figure.
        axis: label of the vertical axis, unit included.
        keys: the lines, in this order.
        band: `std` draws one standard deviation around the first line; `range` fills between two keys; None
            draws lines alone.
        band_keys: the keys that the band is made of.
        primary: shown at once; the others wait behind a fold.
    """

    name: str
    title: str
    axis: str
    keys: tuple[str, ...]
    band: Literal["std", "range"] | None = None
    band_keys: tuple[str, ...] = ()
    primary: bool = False


FAMILIES: tuple[Family, ...] = (
    Family(
        "score",
        "Training reward",
        "reward",
        ("objective/scores", "eval_objective/scores"),
        "std",
        ("objective/score_std",),
        True,
    ),
    Family(
        "kl", "Divergence from the reference", "nats per answer", ("objective/kl", "eval_objective/kl"), primary=True
    ),
    Family("judge", "Held-out judge", "score", ("eval_objective/judge",), "std", ("eval_objective/judge_se",), True),
    Family(
        "rlhf_reward",
        "Score minus KL penalty",
        "reward per answer",
        ("objective/rlhf_reward", "objective/non_score_reward"),
        primary=True,
    ),
    Family(
        "length", "Answer length", "tokens", ("completions/mean_length", "eval_completions/mean_length"), primary=True
    ),
    Family("loss", "Loss", "loss", ("loss", "eval_loss"), primary=True),
    Family("accuracy", "Accuracy on judged pairs", "share of pairs", ("accuracy", "eval_accuracy"), primary=True),
    Family(
        "token_accuracy",
        "Next-token accuracy",
        "share of tokens",
        ("mean_token_accuracy", "eval_mean_token_accuracy"),
        primary=True,
    ),
    Family("reward", "Training reward", "reward", ("reward", "eval_reward"), "std", ("reward_std",), True),
    Family("kl_per_token", "Divergence from the reference", "nats per token", ("kl", "eval_kl"), primary=True),
    Family(
        "implied_accuracy",
        "Accuracy of the implied reward",
        "share of pairs",
        ("rewards/accuracies", "eval_rewards/accuracies"),
        primary=True,
    ),
    Family(
        "implied_margin",
        "Margin of the implied reward",
        "reward",
        ("rewards/margins", "eval_rewards/margins"),
        primary=True,
    ),
    Family("implied_rewards", "Implied rewards", "reward", ("rewards/chosen", "rewards/rejected")),
    Family("logps", "Log-probability of answers", "nats per answer", ("logps/chosen", "logps/rejected")),
    Family("margin", "Margin between preferred and rejected", "score", ("margin", "eval_margin")),
    Family("reward_range", "Scores in a batch", "score", ("mean_reward",), "range", ("min_reward", "max_reward")),
    Family("policy_loss", "Policy loss", "loss", ("loss/policy_avg",)),
    Family("value_loss", "Value loss", "loss", ("loss/value_avg",)),
    Family("approxkl", "Size of policy updates", "nats per token", ("policy/approxkl_avg",)),
    Family("clipfrac", "Clipped updates", "share of tokens", ("policy/clipfrac_avg", "val/clipfrac_avg")),
    Family("ratio", "Probability ratio", "new / old", ("val/ratio",)),
    Family("explained_variance", "Critic: explained variance", "1 is perfect", ("val/explained_variance",)),
    Family(
        "policy_entropy",
        "Policy entropy",
        "nats per token",
        ("policy/entropy_avg", "entropy", "eval_entropy"),
    ),
    Family("eos_share", "Answers that end by themselves", "share of answers", ("completions/eos_share",)),
    Family("clipped_answers", "Answers cut off", "share of answers", ("completions/clipped_ratio",)),
    Family("without_difference", "Prompts without a difference", "share of prompts", ("frac_reward_zero_std",)),
    Family(
        "sampler_gap",
        "Sampler against trained model",
        "nats per token",
        ("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"),
    ),
    Family("kl_coef", "KL coefficient", "coefficient", ("objective/kl_coef",)),
    Family("grad_norm", "Gradient norm", "norm", ("grad_norm", "policy/grad_norm", "value/grad_norm")),
    Family("learning_rate", "Learning rate", "learning rate", ("learning_rate", "lr")),
)


STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft": ("Supervised fine-tuning", ("perplexity",)),
    "labels": ("Preferences", ("num_rankings",)),
    "reward": ("Reward model", ("accuracy",)),
    "ppo": ("Policy optimisation", ("score_after",)),
    "dpo": ("Direct preference optimisation", ("rewards/accuracies", "eval_loss")),
    "rloo": ("Policy optimisation by RLOO", ("score_after", "reward")),
    "eval": ("Evaluation", ("win_rate", "accuracy")),
    "eval_last": ("Evaluation against the round before", ("win_rate",)),
    "eval_policy": ("Evaluation of the policy", ("win_rate",)),
    "eval_reward": ("Evaluation of the reward model", ("accuracy",)),
    "export": ("Export", ("path",)),
    "run": ("All stages", ()),
}
"""What people call a stage, and the result by which it is known: the first of these that it has."""
