"""Every metric a run can show: what people call it, what it means, how it is written, which figure it is in.

This is the one table; a key that is not in it is shown under its own name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Format = Literal["number", "score", "share", "count", "seconds"]


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        label: its name for people.
        explanation: one line for somebody who is not a specialist.
        format: `score` is written with two decimals, `share` as a percentage, `count` without decimals, `seconds`
            as a duration, `number` to three significant digits.
        unit: stands behind the number.
    """

    label: str
    explanation: str = ""
    format: Format = "number"
    unit: str = ""


_DISTINCT = "Distinct word pairs as a share of all: variety of wording."

METRICS: dict[str, Metric] = {
    # supervised fine-tuning
    "loss": Metric("Training loss", "What the optimiser lowers, on the data it learns from."),
    "train_loss": Metric("Training loss, mean", "Mean over the whole of training."),
    "eval_loss": Metric("Held-out loss", "The same loss on data the model has not seen. Lower is better."),
    "eval_loss_before": Metric("Held-out loss before", "The held-out loss before any training."),
    "perplexity": Metric(
        "Perplexity",
        "Between how many tokens the model hesitates on average, on held-out data. Lower is better.",
    ),
    "perplexity_before": Metric("Perplexity before", "The perplexity before any training."),
    "mean_token_accuracy": Metric(
        "Token accuracy", "How often the most likely next token is the right one, in training.", "share"
    ),
    "eval_mean_token_accuracy": Metric(
        "Held-out token accuracy", "How often the most likely next token is the right one.", "share"
    ),
    "token_accuracy": Metric(
        "Held-out token accuracy", "How often the most likely next token is the right one.", "share"
    ),
    "entropy": Metric("Token entropy", "How undecided the model is about the next token.", unit="nats"),
    "eval_entropy": Metric("Held-out token entropy", "The same on held-out data.", unit="nats"),
    # reward model
    "accuracy": Metric(
        "Reward-model accuracy",
        "Share of judged pairs in which the preferred answer gets the higher score.",
        "share",
    ),
    "eval_accuracy": Metric("Held-out accuracy", "The same share on pairs the model has not seen.", "share"),
    "accuracy_longest": Metric(
        "Accuracy of “longest wins”",
        "What always preferring the longer answer would score on the same pairs: the bar to clear.",
        "share",
    ),
    "margin": Metric(
        "Score margin", "Mean difference between the scores of preferred and rejected answers.", format="score"
    ),
    "eval_margin": Metric(
        "Held-out score margin", "The same difference on pairs the model has not seen.", format="score"
    ),
    "mean_reward": Metric("Mean score", "Mean of all scores the reward model gives in a batch.", format="score"),
    "min_reward": Metric("Lowest score", "Lowest score in a batch.", format="score"),
    "max_reward": Metric("Highest score", "Highest score in a batch.", format="score"),
    "ece": Metric("Calibration error", "How far stated confidence is from observed accuracy.", "share"),
    "num_train": Metric("Training records", format="count"),
    "num_dev": Metric("Held-out records", format="count"),
    "num_pairs": Metric("Judged pairs", format="count"),
    "num_dev_pairs": Metric("Held-out pairs", format="count"),
    "num_dev_prompts": Metric("Held-out prompts", format="count"),
    "score_offset": Metric(
        "Score offset", "Taken off every score, so that what the reference writes scores 0 on average.", "score"
    ),
    "centred_on": Metric("Centred on", "The model whose answers score 0 on average."),
    # PPO
    "score_before": Metric("Score before", "Mean training reward on held-out prompts before PPO.", format="score"),
    "score_after": Metric("Score after", "Mean training reward on held-out prompts after PPO.", format="score"),
    "kl": Metric(
        "KL divergence",
        "How far the policy has moved from its reference, per answer. PPO’s figure and the evaluation’s differ, since "
        "prompts, sampling temperature and samples do.",
        unit="nats",
    ),
    "objective/scores": Metric(
        "Score", "Mean training reward of the sampled answers. Higher is better.", format="score"
    ),
    "objective/score_std": Metric("Spread of scores", "Standard deviation of the scores within a batch."),
    "objective/kl": Metric(
        "KL divergence", "How far the policy has moved from its reference, per answer.", unit="nats"
    ),
    "objective/kl_se": Metric("Standard error of the divergence", "Of its estimate from one batch.", unit="nats"),
    "objective/shaped_scores": Metric("Score as it is paid", "After normalisation and clipping.", format="score"),
    "objective/scorer_std": Metric("Spread of the scorers", "Of the scorer that tells a batch apart the most."),
    "objective/score_max_abs": Metric("Largest score", "In size, in a batch."),
    "objective/score_length_corr": Metric(
        "Score by length", "Rank correlation of score and length: near 1, length is what pays."
    ),
    "objective/score_ref_corr": Metric(
        "Score by likelihood", "Rank correlation of score and the reference's log-probs: near -1, gibberish pays."
    ),
    "objective/score_ensemble_std": Metric(
        "Disagreement of reward models", "Standard deviation over an ensemble, mean over answers."
    ),
    "objective/judge": Metric("Judge", "Mean score by the held-out judge, which training does not see.", "score"),
    "objective/judge_se": Metric("Standard error of the judge", "Of its mean over held-out prompts."),
    "objective/judge_corr": Metric("Score and judge", "Rank correlation of the two on held-out answers."),
    "completions/distinct_2": Metric("Distinct token pairs", "As a share of all in a batch.", "share"),
    "completions/repeated_4grams": Metric("Repeated 4-grams", "Share that stood in the same answer before.", "share"),
    "loss/ptx_avg": Metric("SFT loss beside PPO's", "On demonstrations.", unit="nats"),
    "policy/kl_avg": Metric("Divergence during the update", "From the reference, per answer.", unit="nats"),
    "policy/num_steps": Metric("Optimiser steps of an update", format="count"),
    "monitor/alarms": Metric("Alarms", "How many are on.", format="count"),
    "objective/kl_coef": Metric("KL coefficient", "What one nat of divergence costs."),
    "objective/rlhf_reward": Metric("Score minus KL penalty", "What PPO maximises."),
    "objective/non_score_reward": Metric("KL penalty", "The part of the reward that is the price of divergence."),
    "objective/entropy": Metric("Sequence entropy", "Surprise of the sampled answers, per answer.", unit="nats"),
    "policy/entropy_avg": Metric("Token entropy", "How undecided the policy is about the next token.", unit="nats"),
    "policy/approxkl_avg": Metric("Step size", "Approximate KL between the policies before and after an update."),
    "policy/clipfrac_avg": Metric("Policy clip fraction", "Share of tokens whose update was clipped.", "share"),
    "val/clipfrac_avg": Metric("Value clip fraction", "Share of tokens whose value update was clipped.", "share"),
    "val/ratio": Metric("Probability ratio", "Mean ratio of new to old probabilities; stays near 1."),
    "val/ratio_var": Metric("Variance of the ratio", "Spread of that ratio over the steps of an update."),
    "val/explained_variance": Metric("Explained variance", "How well the critic foresees returns; 1 is perfect."),
    "val/mean": Metric("Mean value", "Mean of the critic's estimates."),
    "val/num_eos_tokens": Metric("Finished answers", "Number of end tokens in a batch.", "count"),
    "loss/policy_avg": Metric("Policy loss"),
    "loss/value_avg": Metric("Value loss"),
    "policy/grad_norm": Metric("Policy gradient norm", "Before clipping."),
    "value/grad_norm": Metric("Value gradient norm", "Before clipping."),
    "completions/mean_length": Metric("Answer length", "Mean length of the sampled answers.", unit="tokens"),
    "completions/eos_share": Metric("Answers that end by themselves", "Share with an end token in time.", "share"),
    "episode": Metric("Episodes", "Answers sampled so far.", "count"),
    "length_before": Metric("Answer length before", "Mean length on held-out prompts.", unit="tokens"),
    "length_after": Metric("Answer length after", "The same after PPO.", unit="tokens"),
    "eos_share_before": Metric("Answers that ended by themselves, before", "Before training.", "share"),
    "eos_share_after": Metric("Answers that end by themselves", "Share with an end token in time.", "share"),
    "num_updates": Metric("Updates", format="count"),
    "num_episodes": Metric("Episodes", "Answers sampled in training.", "count"),
    # evaluation and export
    "win_rate": Metric(
        "Win rate", "Share of held-out prompts on which the candidate's answer is preferred; ties count half.", "share"
    ),
    "confidence": Metric("Confidence of the intervals", "Share of such intervals that hold the true figure.", "share"),
    "wins": Metric("Wins", format="count"),
    "ties": Metric("Ties", format="count"),
    "losses": Metric("Losses", format="count"),
    "order_disagreement": Metric(
        "Order disagreement", "Share of pairs that are judged differently when shown the other way round.", "share"
    ),
    "candidate": Metric("Candidate"),
    "baseline": Metric("Baseline"),
    "reference": Metric("Reference", "What the divergence is measured from."),
    "judge": Metric("Judge"),
    "model": Metric("Model"),
    "kl_se": Metric("Standard error of the divergence", unit="nats"),
    "score_candidate": Metric("Score, candidate", "Mean score by the judge.", "score"),
    "score_baseline": Metric("Score, baseline", "Mean score by the judge.", "score"),
    "length_candidate": Metric("Answer length, candidate", unit="tokens"),
    "length_baseline": Metric("Answer length, baseline", unit="tokens"),
    "distinct_2_candidate": Metric("Distinct word pairs, candidate", _DISTINCT, "share"),
    "distinct_2_baseline": Metric("Distinct word pairs, baseline", _DISTINCT, "share"),
    "ends_with_eos_candidate": Metric("Answers that end by themselves, candidate", format="share"),
    "ends_with_eos_baseline": Metric("Answers that end by themselves, baseline", format="share"),
    "judge_is_training_reward": Metric(
        "Judge is a training reward", "Whether the candidate was trained on what now judges it."
    ),
    "path": Metric("Folder"),
    "format": Metric("Format"),
    "kind": Metric("Kind of model"),
    "dtype": Metric("Precision", "Of the weights."),
    "num_parameters": Metric("Parameters", format="count"),
    "bytes": Metric("Size", "Of all files.", "count", "bytes"),
    "sha256": Metric("SHA-256"),
    # labels
    "num_rankings": Metric("Rankings", format="count"),
    "num_annotators": Metric("Annotators", format="count"),
    "agreement": Metric("Agreement", "How often two annotators prefer the same answer of two.", "share"),
    "num_train_rankings": Metric("Training rankings", format="count"),
    "num_train_pairs": Metric("Training pairs", "Pairs of answers that the training rankings put in order.", "count"),
    "num_without_choice": Metric("Prompts without a choice", "All sampled answers were the same.", "count"),
    "simulated": Metric("Simulated annotators", "A program judged, not people."),
    # any stage
    "learning_rate": Metric("Learning rate"),
    "lr": Metric("Learning rate"),
    "grad_norm": Metric("Gradient norm", "Before clipping."),
    "num_tokens": Metric("Tokens seen", format="count"),
    "num_prompts": Metric("Prompts", format="count"),
    "num_set_aside": Metric("Rows set aside", "Rows that could not be used; the run folder lists them.", "count"),
    "num_truncated": Metric("Rows cut to fit the context", format="count"),
    "num_overlong": Metric("Prompts too long for the context", format="count"),
    "steps": Metric("Optimiser steps", format="count"),
    "num_steps": Metric("Optimiser steps", format="count"),
    "eos_share": Metric("Answers that end by themselves", "Share with an end token in time.", "share"),
    "run": Metric("Run"),
    "status": Metric("Status"),
    "artefact": Metric("Published"),
    "artefacts": Metric("Published"),
    "ref": Metric("Model"),
    "error": Metric("Error"),
    "stopped": Metric("Stopped"),
    "report": Metric("Report"),
    "seconds": Metric("Duration", format="seconds"),
}


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
    Family("kl_coef", "KL coefficient", "coefficient", ("objective/kl_coef",)),
    Family("grad_norm", "Gradient norm", "norm", ("grad_norm", "policy/grad_norm", "value/grad_norm")),
    Family("learning_rate", "Learning rate", "learning rate", ("learning_rate", "lr")),
)


STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft": ("Supervised fine-tuning", ("perplexity",)),
    "labels": ("Preferences", ("num_rankings",)),
    "reward": ("Reward model", ("accuracy",)),
    "ppo": ("Policy optimisation", ("score_after",)),
    "eval": ("Evaluation", ("win_rate", "accuracy")),
    "export": ("Export", ("path",)),
    "run": ("All stages", ()),
}
"""What people call a stage, and the result by which it is known: the first of these that it has."""


def describe(key: str) -> Metric:
    """What is known of `key`; its own name where nothing is. `eval_x` is `x` on held-out data."""
    if key in METRICS:
        return METRICS[key]
    if key.endswith("_ci") and key.removesuffix("_ci") in METRICS:
        of = METRICS[key.removesuffix("_ci")]
        return replace(of, label=f"{of.label}, interval")
    held_out = METRICS.get(key.removeprefix("eval_"))
    if held_out is not None:
        return replace(held_out, label=f"{held_out.label}, held-out")
    if key.startswith("objective/scores/"):
        return Metric(f"Score by {key.removeprefix('objective/scores/')}", format="score")
    return Metric(key)


def format_value(key: str, value: Any, interval: Sequence[float] | None = None) -> str:
    """`value` as people read it, with its unit and, where there is one, its interval."""
    metric = describe(key)
    text = _plain(metric, value)
    if interval is not None and len(interval) == 2:
        low, high = (_plain(metric, bound) for bound in interval)
        text += f" [{low.removesuffix('%').strip() if low.endswith('%') else low}, {high}]"
    return f"{text} {metric.unit}" if metric.unit and _is_number(value) else text


def interval_name(confidence: Any) -> str:
    """What an interval is called: "95% interval", or "interval" where nobody has said how sure it is."""
    return f"{100 * confidence:g}% interval" if _is_number(confidence) else "interval"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(metric: Metric, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if not _is_number(value):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if metric.format == "share":
        return f"{signed(100 * value, 1)}%"
    if metric.format == "count" or (metric.format == "number" and isinstance(value, int)):
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    if metric.format == "seconds":
        return duration(value)
    if metric.format == "score":
        return signed(value, 2)
    return signed(value)


def signed(value: float, decimals: int | None = None) -> str:
    """A number with a real minus sign, to `decimals` places or three significant digits."""
    if decimals is not None:
        text = f"{value:.{decimals}f}"
    elif value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"
    else:
        text = f"{value:.2e}"
    return text.replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """Seconds as people say them: `48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
