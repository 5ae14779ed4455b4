"""What the monitor looks at: one row a signal, with the levels at which it warns and stops, and what to say then."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rlhf.errors import UserError


@dataclass(frozen=True)
class Watchman:
    """One signal and its levels.

    Attributes:
        name: what an alarm and `monitor_thresholds` call it.
        signal: the metric it reads; of evaluations, with `eval_` taken off.
        says: what the value is, for people.
        warn: level of a warning; None for none.
        stop: level at which training stops; None for never.
        above: whether values above a level are the bad ones.
        warn_count: how many observations running it takes.
        stop_count: the same for stopping.
        at_once: a level at which one observation stops.
        relative: the value is divided by that of the start (the first 256 completions or more).
        floor: the least that it is divided by.
        smooth: the value is a mean over the last 128 completions or more, 256 where it is relative.
        forgiving: a start that is beyond the stop level already only warns.
        causes: likely ones, the likeliest first.
        remedies: what to try, in order.
    """

    name: str
    signal: str
    says: str
    warn: float | None
    stop: float | None
    above: bool = True
    warn_count: int = 1
    stop_count: int = 1
    at_once: float | None = None
    relative: bool = False
    floor: float = 1e-6
    smooth: bool = True
    forgiving: bool = False
    causes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()

    def beyond(self, value: float, level: float | None) -> bool:
        """Whether `value` is on the bad side of `level`."""
        return level is not None and (value > level if self.above else value < level)


_STEP_SIZE = (
    "the learning rate is too high",
    "too many passes over one batch (num_ppo_epochs)",
    "a critic that is still cold gives noisy advantages",
)
_SMALLER_STEPS = (
    "halve learning_rate",
    "lower num_ppo_epochs or set max_approx_kl: 0.05",
    "raise the batch (gradient_accumulation_steps)",
)
_HACKED = "the reward model likes what people do not, and the policy has found it"
_ANCHOR = ("raise kl_coef or set kl_budget", "retrain the reward model on completions of this policy")

WATCHMEN: tuple[Watchman, ...] = (
    Watchman(
        name="kl",
        signal="objective/kl",
        says="KL from the reference, nats per sequence",
        warn=6.0,
        stop=10.0,
        stop_count=3,
        at_once=20.0,
        causes=(_HACKED, *_STEP_SIZE[:2], "kl_coef is small beside the scores"),
        remedies=("raise kl_coef, or set kl_controller: adaptive or kl_budget", *_SMALLER_STEPS[:2]),
    ),
    Watchman(
        name="negative_kl",
        signal="objective/kl_upper",
        says="KL from the reference plus two standard errors, nats per sequence",
        warn=-0.1,
        stop=-1.0,
        stop_count=3,
        above=False,
        causes=(
            "the completions were not drawn from the distribution that log-probs are taken of",
            "policy and reference are of different precision, or dropout is on",
            "the policy became very sure of one completion",
        ),
        remedies=(
            "leave top_k, top_p and repetition penalties out of sampling",
            "load both models with the same dtype",
            "look at the samples",
        ),
    ),
    Watchman(
        name="ratio_high",
        signal="val/ratio",
        says="mean ratio of new to old probabilities",
        warn=1.25,
        stop=2.0,
        smooth=False,
        causes=_STEP_SIZE,
        remedies=_SMALLER_STEPS,
    ),
    Watchman(
        name="ratio_low",
        signal="val/ratio",
        says="mean ratio of new to old probabilities",
        warn=0.8,
        stop=0.5,
        above=False,
        smooth=False,
        causes=_STEP_SIZE,
        remedies=_SMALLER_STEPS,
    ),
    Watchman(
        name="approxkl",
        signal="policy/approxkl_avg",
        says="KL between the policies before and after an update, nats per token",
        warn=0.1,
        warn_count=5,
        stop=1.5,
        smooth=False,
        causes=_STEP_SIZE,
        remedies=_SMALLER_STEPS,
    ),
    Watchman(
        name="clipfrac",
        signal="policy/clipfrac_avg",
        says="share of tokens whose update was clipped",
        warn=0.3,
        warn_count=5,
        stop=0.5,
        stop_count=5,
        smooth=False,
        causes=_STEP_SIZE,
        remedies=_SMALLER_STEPS,
    ),
    Watchman(
        name="entropy",
        signal="policy/entropy_avg",
        says="entropy of the next token, as a share of that at the start",
        warn=0.4,
        stop=0.2,
        above=False,
        relative=True,
        causes=(
            "the policy settles on a few completions: " + _HACKED,
            "the learning rate is too high",
            "kl_coef is small",
        ),
        remedies=("look at the samples", "raise kl_coef", "halve learning_rate"),
    ),
    Watchman(
        name="judge",
        signal="judge_against_score",
        says="evaluations running in which the score was up and the held-out judge down, each by a standard error",
        warn=0.5,
        stop=2.5,
        smooth=False,
        causes=(
            _HACKED,
            "too many updates: past the peak (Gao et al. 2023)",
            "judge and reward model want different things",
        ),
        remedies=("take the checkpoint with the best judge (metric_for_best_model: objective/judge)", *_ANCHOR),
    ),
    Watchman(
        name="judge_agreement",
        signal="objective/judge_corr_upper",
        says="rank correlation of score and held-out judge on held-out completions, plus two standard errors",
        warn=0.0,
        stop=-0.2,
        stop_count=2,
        above=False,
        smooth=False,
        causes=(
            "the reward model prefers what the judge dislikes: labels or their sign are wrong",
            "the reward model was not trained on completions like these",
            "a function among the rewards outweighs the model",
        ),
        remedies=("see how the scorer ranks held-out pairs: rlhf eval", "look at the weights under reward", _ANCHOR[1]),
    ),
    Watchman(
        name="ensemble_std",
        signal="objective/score_ensemble_std",
        says="disagreement of the reward models, as a multiple of that at the start",
        warn=1.5,
        stop=2.0,
        relative=True,
        causes=("the policy writes what the reward models were not trained on", "one of them is being exploited"),
        remedies=("set reward_ensemble: worst or mean_minus_std", *_ANCHOR),
    ),
    Watchman(
        name="score_by_length",
        signal="objective/score_length_corr",
        says="rank correlation of score and length",
        warn=0.5,
        stop=0.7,
        warn_count=3,
        stop_count=3,
        causes=("the reward model goes by length", "completions that are cut off score badly"),
        remedies=("set length_penalty", "balance lengths in the preference data", "raise response_length"),
    ),
    Watchman(
        name="score_by_surprise",
        signal="objective/score_ref_corr",
        says="rank correlation of score and the reference's mean log-prob",
        warn=-0.5,
        stop=-0.7,
        warn_count=3,
        stop_count=3,
        above=False,
        causes=(
            "the reward model prefers what the reference finds unlikely: gibberish, or another language",
            "the sign of the scores or of a weight is wrong",
            "the reference does not know the task",
        ),
        remedies=("look at the samples with the highest scores", "look at the signs of the weights", *_ANCHOR),
    ),
    Watchman(
        name="length",
        signal="completions/mean_length",
        says="mean length, as a multiple of that at the start",
        warn=1.3,
        stop=1.6,
        relative=True,
        causes=(
            "the reward model goes by length",
            "the policy has learned not to end: a cold critic and scores below 0",
        ),
        remedies=("set length_penalty", "set missing_eos_penalty", "warm the critic up and normalise scores"),
    ),
    Watchman(
        name="distinct_2",
        signal="completions/distinct_2",
        says="share of distinct token pairs, as a share of that at the start",
        warn=0.8,
        stop=0.6,
        above=False,
        relative=True,
        causes=("the policy writes the same to every prompt, or repeats itself: " + _HACKED, "kl_coef is small"),
        remedies=("look at the samples", *_ANCHOR),
    ),
    Watchman(
        name="repetition",
        signal="completions/repeated_4grams",
        says="share of repeated 4-grams, as a multiple of that at the start",
        warn=2.0,
        stop=4.0,
        relative=True,
        floor=0.05,
        causes=("the policy repeats itself because the reward model does not mind", "completions are too long for it"),
        remedies=("look at the samples", *_ANCHOR),
    ),
    Watchman(
        name="eos",
        signal="completions/eos_share",
        says="share of completions that end",
        warn=0.7,
        stop=0.4,
        above=False,
        forgiving=True,
        causes=(
            "the reward model goes by length",
            "a cold critic and scores below 0: the policy puts the score off",
            "response_length is too short",
        ),
        remedies=("set missing_eos_penalty: 1.0", "warm the critic up and normalise scores", "raise response_length"),
    ),
    Watchman(
        name="score_spread",
        signal="objective/scorer_std",
        says="standard deviation of a batch's scores, of the scorer that tells them apart the most",
        warn=1e-7,
        stop=1e-7,
        stop_count=10,
        above=False,
        smooth=False,
        causes=("the scorer gives every completion the same", "all completions are the same", "scores are clipped"),
        remedies=("call the scorer by hand on two different completions", "look at the samples", "raise score_clip"),
    ),
    Watchman(
        name="score_size",
        signal="objective/score_max_abs",
        says="largest score in size",
        warn=1e3,
        stop=1e6,
        smooth=False,
        causes=("a scorer returns numbers that are no scores (a product, a division by almost 0)", "an overflow"),
        remedies=("call the scorer by hand on the samples", "set score_clip", "set score_normalization: running"),
    ),
)

NON_FINITE = Watchman(
    name="not_finite",
    signal="",
    says="a NaN or an infinity",
    warn=None,
    stop=None,
    causes=(
        "a scorer returned it, or the gradient of a large score overflowed",
        "the learning rate is too high",
        "weights of low precision",
    ),
    remedies=("call the scorer by hand on the prompts of that batch", "set score_clip", "halve learning_rate"),
)
"""Not in the table: it is found before the step it would spoil, and always stops."""

_LEVELS = ("warn", "stop", "at_once", "warn_count", "stop_count")


def watchmen(overrides: Mapping[str, Any] | str | None = None) -> tuple[Watchman, ...]:
    """The table with `monitor_thresholds` in it: `{"kl": {"warn": 10}, "entropy": "off"}`, as a mapping or JSON.

    Raises:
        UserError: a name or a level that there is not, or a level that is no number.
    """
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides)
        except ValueError as error:
            raise UserError(f"monitor_thresholds: found {overrides!r:.60}, which is not JSON ({error})") from None
    overrides = overrides or {}
    if not isinstance(overrides, Mapping):
        raise UserError(f"monitor_thresholds: found {overrides!r:.60}; give a mapping such as {{kl: {{warn: 10}}}}")
    given = {str(name): _levels(str(name), value) for name, value in overrides.items()}
    table = (replace(each, **given[each.name]) if each.name in given else each for each in WATCHMEN)
    return tuple(table)


def _levels(name: str, value: Any) -> dict[str, Any]:
    """What an override changes of a row."""
    names = [each.name for each in WATCHMEN]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1) or names
        raise UserError(
            f"monitor_thresholds: there is no watchman {name!r}; did you mean {close[0]!r}? ({', '.join(names)})"
        )
    if value == "off" or value is False:  # a bare `off` is YAML 1.1 for false
        return {"warn": None, "stop": None, "at_once": None}
    if not isinstance(value, Mapping) or not set(value) <= set(_LEVELS):
        raise UserError(f"monitor_thresholds.{name}: found {value!r:.60}; give 'off', or any of {', '.join(_LEVELS)}")
    bad = [
        key
        for key, level in value.items()
        if not (level is None or _is_number(level)) or (level is None and "count" in key)
    ]
    if bad:
        raise UserError(f"monitor_thresholds.{name}.{bad[0]}: found {value[bad[0]]!r}; give a number")
    return dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


assert set(_LEVELS) <= {field.name for field in fields(Watchman)}
