"""The watchmen: look at the metrics of updates and evaluations, say what is wrong, stop before it is too late."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rlhf.errors import StoppedByMonitor
from rlhf.ppo.watchmen import NON_FINITE, Watchman, watchmen

Mode = Literal["off", "warn", "stop", "rollback"]
Level = Literal[0, 1, 2]
"""Quiet, warning, beyond the level that stops."""

SMOOTHED_OVER, COMPARED_OVER = 128, 256
"""Completions that a smoothed signal is a mean over, at least: batches of 64 are too noisy. One that is compared with
its start has the noise of both, and so both are means over more."""
LR_FACTOR, KL_FACTOR = 0.5, 2.0
"""What a rollback does to the learning rate and to the KL coefficient."""
_OF_A_JUDGE = (
    ("the judge cannot score one of these completions: an empty one, one that is too long, one it cannot read",),
    ("call the judge by hand on held-out completions", "let it return a number for every completion"),
)


@dataclass(frozen=True)
class Alarm:
    """One alarm, ready to be shown."""

    name: str
    level: Level
    step: int
    seen: str
    """What was seen, with the value and the level it is beyond."""
    causes: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it, in a few lines."""
        causes = "; ".join(f"({i}) {cause}" for i, cause in enumerate(self.causes, start=1))
        remedies = "; ".join(f"({i}) {remedy}" for i, remedy in enumerate(self.remedies, start=1))
        return f"update {self.step}: {self.seen}\n  likely causes: {causes}\n  to try: {remedies}"


@dataclass
class _Judged:
    """What evaluations on one set of prompts have said."""

    step: int
    """Of the last one."""
    best: dict[str, float]
    """The figures of the one that the judge liked best."""
    falls: int = 0
    """Evaluations running in which the judge has fallen while the score rose."""


@dataclass
class _Watch:
    """How one watchman's signal has been of late."""

    beyond_warn: int = 0
    beyond_stop: int = 0
    said: Level = 0
    start: list[float] = field(default_factory=list)
    """The first values, of which the mean is the start."""
    recent: list[float] = field(default_factory=list)


class Monitor:
    """Counts per signal, the start that some are compared with, and the alarms that are on; all of it is state."""

    def __init__(self, mode: Mode, batch_size: int, thresholds: Mapping[str, Any] | str | None = None) -> None:
        """`batch_size`: completions of one update. Raises UserError for thresholds that there are not."""
        self.mode = mode
        self.table = watchmen(thresholds)
        self.window, self.start_window = (math.ceil(size / batch_size) for size in (SMOOTHED_OVER, COMPARED_OVER))
        self.rollbacks = 0
        """How often training has been taken back."""
        self._watches: dict[str, _Watch] = {}
        """By the watchman's name, and of an evaluation by that of its set as well."""
        self._judged: dict[str, _Judged] = {}
        """By the name of the evaluation set."""
        self._stop_for: list[str] = []

    @property
    def level(self) -> Level:
        """The highest level at which an alarm is on; a state is good while it is 0."""
        return max((watch.said for watch in self._watches.values()), default=0)

    @property
    def num_alarms(self) -> int:
        """How many alarms are on."""
        return sum(watch.said > 0 for watch in self._watches.values())

    def observe(self, metrics: Mapping[str, float], step: int) -> list[Alarm]:
        """Take in the metrics of update `step`, or of an evaluation after it; returns what is new.

        Evaluations are looked at if there is a judge, each set for itself and one evaluation of a step.
        """
        if self.mode == "off":
            return []
        if any(name.startswith("eval") for name in metrics):
            sets = {name: seen for name, seen in _judged_sets(metrics).items() if self._is_new(name, step)}
            for name, seen in sets.items():
                seen["judge_against_score"] = self._num_falls(name, seen, step)
        else:
            sets = {"": _of_update(metrics)}
        found = [
            alarm
            for name, seen in sets.items()
            for each in self.table
            if each.signal in seen and (alarm := self._look(each, seen[each.signal], step, name)) is not None
        ]
        self._stop_for += [alarm.text for alarm in found if alarm.level == 2]
        return found

    def not_finite(self, error: Exception, step: int) -> Alarm:
        """The alarm for a NaN or an infinity."""
        return Alarm(NON_FINITE.name, 2, step, str(error), NON_FINITE.causes, NON_FINITE.remedies)

    def unjudged(self, error: Exception, step: int) -> list[Alarm]:
        """The alarm for a judge that gave no numbers; the evaluation is without one, and training goes on."""
        if self.mode == "off":
            return []
        return [Alarm("judge_not_finite", 1, step, f"the held-out judge gave no figure: {error}", *_OF_A_JUDGE)]

    def act(self) -> None:
        """Raise StoppedByMonitor where an alarm has come up that stops, unless the mode is to warn."""
        stop_for, self._stop_for = self._stop_for, []
        if stop_for and self.mode in ("stop", "rollback"):
            raise StoppedByMonitor("\n".join(stop_for))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "watches": {name: asdict(watch) for name, watch in self._watches.items()},
            "judged": {name: asdict(judged) for name, judged in self._judged.items()},
            "rollbacks": self.rollbacks,
            "level": self.level,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """Put back what `state_dict` gave; returns how many rollbacks there have been since then."""
        known = {name: _Watch(**watch) for name, watch in state["watches"].items()}
        self._judged = {name: _Judged(**judged) for name, judged in state.get("judged", {}).items()}
        if self.mode != "warn":  # a checkpoint may have been saved between the alarm and the stop: it is said again
            for watch in known.values():
                watch.said = min(watch.said, 1)
        self._watches = known
        self._stop_for = []
        since = self.rollbacks - int(state["rollbacks"])
        self.rollbacks = max(self.rollbacks, int(state["rollbacks"]))
        return max(since, 0)

    def _look(self, watchman: Watchman, value: float, step: int, eval_set: str) -> Alarm | None:
        """Let one watchman look at one value."""
        name = f"{watchman.name} on {eval_set}" if eval_set else watchman.name
        watch = self._watches.setdefault(name, _Watch())
        wanted = self.start_window if watchman.relative else self.window
        window = wanted if watchman.smooth else 1
        num_start = wanted if watchman.relative else window
        if len(watch.start) < num_start:
            watch.start.append(value)
        watch.recent = [*watch.recent, value][-window:]
        start = sum(watch.start) / len(watch.start)
        scale = max(start, watchman.floor) if watchman.relative else 1.0
        latest, value = value / scale, sum(watch.recent) / len(watch.recent) / scale
        stops = not (watchman.forgiving and watchman.beyond(start, watchman.stop))
        level: Level = 0
        bound = watchman.warn
        if len(watch.start) >= num_start:
            watch.beyond_warn = watch.beyond_warn + 1 if watchman.beyond(value, watchman.warn) else 0
            watch.beyond_stop = watch.beyond_stop + 1 if stops and watchman.beyond(value, watchman.stop) else 0
            if watch.beyond_stop and watch.beyond_stop >= watchman.stop_count:
                level, bound = 2, watchman.stop
            elif watch.beyond_warn and watch.beyond_warn >= watchman.warn_count:
                level = 1
        elif watchman.relative or watchman.forgiving:
            return None  # there is nothing yet to compare with
        if level < 2 and stops and watchman.beyond(latest, watchman.at_once):
            level, bound, value = 2, watchman.at_once, latest  # smoothed, a single value would not be seen as it is
        new = level > watch.said
        watch.said = level if new or not watch.beyond_warn else watch.said
        if not new:
            return None
        side, verb = "above" if watchman.above else "below", "stops" if level == 2 else "warns"
        seen = f"{name}: {watchman.says} is {value:.4g} ({verb} {side} {bound:g})"
        return Alarm(watchman.name, level, step, seen, watchman.causes, watchman.remedies)

    def _is_new(self, eval_set: str, step: int) -> bool:
        """Whether these prompts have not been evaluated at this step before: the same figures again say nothing."""
        return eval_set not in self._judged or self._judged[eval_set].step != step

    def _num_falls(self, eval_set: str, seen: Mapping[str, float], step: int) -> float:
        """Evaluations running in which the score was above and the judge below what they were at the judge's best."""
        now = {name: seen[f"objective/{name}"] for name in ("scores", "score_se", "judge", "judge_se")}
        judged = self._judged.get(eval_set)
        if judged is None or now["judge"] > judged.best["judge"]:
            self._judged[eval_set] = _Judged(step, now)
            return 0.0
        best, judged.step = judged.best, step
        up = now["scores"] - best["scores"] > math.hypot(now["score_se"], best["score_se"])
        down = best["judge"] - now["judge"] > math.hypot(now["judge_se"], best["judge_se"])
        judged.falls = judged.falls + 1 if up and down else 0
        return float(judged.falls)


def _of_update(metrics: Mapping[str, float]) -> dict[str, float]:
    """The signals of an update by the names of the table."""
    seen = dict(metrics)
    if "objective/kl_se" in seen:
        seen["objective/kl_upper"] = seen["objective/kl"] + 2 * seen["objective/kl_se"]
    return seen


def _judged_sets(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The signals of an evaluation by the name of its set ("" for one without a name), where a judge gave numbers.

    Those that training has as well are left to it.
    """
    kept = {f"objective/{name}" for name in ("scores", "score_se", "judge", "judge_se", "judge_corr", "judge_corr_se")}
    sets: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        before, _, name = key.partition("objective/")
        if f"objective/{name}" in kept:
            sets.setdefault(before.removeprefix("eval").strip("_"), {})[f"objective/{name}"] = value
    judged = {name: seen for name, seen in sets.items() if math.isfinite(seen.get("objective/judge", math.nan))}
    for seen in judged.values():
        if "objective/judge_corr" in seen:
            seen["objective/judge_corr_upper"] = seen["objective/judge_corr"] + 2 * seen["objective/judge_corr_se"]
    return judged
