"""Metrics as people read them; a key that is in no table is shown under its own name."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlhf.report.metrics.metric import Metric
from rlhf.report.metrics.policies import PPO, RLOO
from rlhf.report.metrics.results import ANY, EXPORT, FRONTIER, LABELS, POLICY_EVALUATION, REWARD_EVALUATION
from rlhf.report.metrics.training import DPO, REWARD_MODEL, SUPERVISED

METRICS: dict[str, Metric] = {
    **SUPERVISED,
    **REWARD_MODEL,
    **DPO,
    **PPO,
    **RLOO,
    **REWARD_EVALUATION,
    **POLICY_EVALUATION,
    **FRONTIER,
    **EXPORT,
    **LABELS,
    **ANY,
}

_ENDINGS = {
    "_ci": "interval",
    "_se": "standard error",
    "_upper": "upper bound",
    "_candidate": "candidate",
    "_baseline": "baseline",
    "_reference": "reference",
    "_over_last": "against the round before",
    "_scaled": "after temperature scaling",
}
"""What stands behind the name of a metric of which more than one figure is given."""


def describe(key: str) -> Metric:
    """What is known of `key`; its own name where nothing is. `eval_x` is `x` on held-out data."""
    return _known(key) or Metric(key)


def _known(key: str) -> Metric | None:
    if key in METRICS:
        return METRICS[key]
    for ending, words in _ENDINGS.items():
        if key.endswith(ending) and (of := _known(key.removesuffix(ending))) is not None:
            return replace(of, label=f"{of.label}, {words}")
    for beginning in ("eval_", "held_out/"):
        if key.startswith(beginning) and (of := _known(key.removeprefix(beginning))) is not None:
            return replace(of, label=f"{of.label}, held-out")
    if key.startswith("objective/scores/"):
        return Metric(f"Score by {key.removeprefix('objective/scores/')}", format="score")
    if key.startswith("rewards/") and key.endswith(("/mean", "/std")):  # TRL's, one of each scorer
        name, _, kind = key.removeprefix("rewards/").rpartition("/")
        return Metric(f"Reward by {name}" if kind == "mean" else f"Spread of rewards by {name}", format="score")
    return None


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
