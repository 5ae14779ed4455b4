"""Rounds: the policy writes, people are asked where the reward model is unsure, and both are trained anew.

Round 1 is the file as it stands. Every later one runs labels, reward, ppo and eval once more, with what the rounds
before have made put into their configs. Imports no torch.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from rlhf.config import Section
from rlhf.datasets import DataConfig
from rlhf.pipeline.labels_config import SelectSection
from rlhf.tracking import Figure, FigureSeries, Mark

NEEDED = ("sft", "labels", "reward", "ppo")
"""Stages without which there is nothing to go round."""

LEARNERS = ("reward", "dpo")
"""Stages that learn from answers."""

AGAINST_LAST = "eval_last"
"""The evaluation against the policy of the round before."""

Artefacts = Mapping[str, str]
"""Stage -> the ref of what one round's stage has published."""


class RoundsSection(Section):
    """How often the loop is gone round, and how. `rounds: 3` is `rounds: {num: 3}`."""

    num: Annotated[int, Field(ge=1, le=100)] = 1
    ppo_from: Literal["sft", "last"] = "sft"
    """What PPO starts from in later rounds. From the SFT model, nothing that an earlier reward model had wrong is
    carried on, and every policy is as far from it as `kl_coef` lets it be; `last` goes on from the round before. The
    reference is the SFT model's distribution either way."""
    select: SelectSection = SelectSection()
    """How tasks of later rounds are chosen; `select.ref` left out is the reward model of the round before."""
    data: DataConfig | None = None
    """Prompts of later rounds; those of the labels stage when left out. None is asked about twice."""


def problems_with(rounds: RoundsSection, stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why a file's stages cannot be gone round with; no line for one round."""
    if rounds.num == 1:
        return []
    missing = [name for name in NEEDED if name not in stages]
    if missing:
        return [f"rounds: needs the stages {', '.join(NEEDED)}; missing: {', '.join(missing)}"]
    problems = []
    if rounds.data is None and stages["labels"].get("num_tasks") is None:
        problems.append(
            "rounds: round 1 asks about every prompt there is, and none is left for round 2: set "
            "stages.labels.num_tasks, or give rounds.data"
        )
    if rounds.select.by == "disagreement" and rounds.select.ref is None and not stages["reward"].get("ensemble"):
        problems.append(
            "rounds.select.by = 'disagreement': stages.reward trains no ensemble whose members could disagree; add "
            "`ensemble: {num_members: 4}` to it, or set rounds.select.by: random"
        )
    return problems


def later_round(
    stages: Mapping[str, dict[str, Any]], rounds: RoundsSection, made: Sequence[Artefacts]
) -> dict[str, dict[str, Any]]:
    """The configs of the next round's stages, by what the rounds so far have made.

    Args:
        stages: the file's, names not pinned.
        rounds: how.
        made: of each round so far.

    Returns:
        The stages after sft, and AGAINST_LAST beside `eval`; not yet the export, which takes what the last round made.
    """
    last = made[-1]
    found = {name: copy.deepcopy(stages[name]) for name in stages if name not in ("sft", "export")}
    labels = found["labels"]
    labels["model"] = {**labels["model"], "ref": last["ppo"]}
    labels["without"] = [*labels.get("without", []), *(one["labels"] for one in made)]
    labels["select"] = rounds.select.model_dump(exclude_none=True)
    if rounds.select.by == "disagreement":
        labels["select"].setdefault("ref", last["reward"])
    if rounds.data is not None:
        labels["data"] = rounds.data.model_dump(exclude_unset=True)
    labels.pop("held_out", None)  # judged once, in round 1: every reward model is measured by the same
    for name, config in found.items():
        if name != "labels" and isinstance(config.get("data"), dict):
            _answers_of_all_rounds(config["data"], _name(stages["labels"]), made, learns=name in LEARNERS)
    if rounds.ppo_from == "last":
        ppo = found["ppo"]
        ppo.setdefault("reference", ppo["model"]["ref"])
        ppo["model"] = {**ppo["model"], "ref": last["ppo"]}
    if "eval" in found:
        found[AGAINST_LAST] = _against_last(found["eval"], last["ppo"])
    return found


def _answers_of_all_rounds(data: dict[str, Any], answers: str, made: Sequence[Artefacts], *, learns: bool) -> None:
    """What learns from answers learns from all rounds'; what is measured, and prompts, stay those of round 1.

    Of later answers nothing is held out: they are about prompts that were chosen where an earlier reward model was
    unsure, written to by another policy, and with them in it each round would be measured by something else.
    """
    later = [*(one["labels"] for one in made[1:]), answers]
    held_out = {"held_out": False} if data.get("dev_fraction") else {}
    for key in ("sources", "dev"):
        expanded = []
        for source in data.get(key) or []:
            if source.get("path") != answers:
                expanded.append(source)
                continue
            expanded.append({**source, "path": made[0]["labels"]})
            if learns and key == "sources" and source.get("split") != "dev":
                expanded += [{**source, "path": ref, **held_out} for ref in later]
        if expanded:
            data[key] = expanded


def _against_last(evaluation: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """The evaluation of the candidate against the round before; its divergence is still that from the baseline."""
    beside = ("candidates", "sft_data", "checkpoints")  # measured once, in the other
    found = {key: copy.deepcopy(value) for key, value in evaluation.items() if key not in beside}
    found.setdefault("reference", found["baseline"])
    output = {**found["output"], "name": f"{found['output']['name']}-last", "alias": None}
    return {**found, "baseline": policy, "output": output}


def what_came_of(number: int, results: Mapping[str, Mapping[str, Any]], artefacts: Artefacts) -> dict[str, Any]:
    """One round in the summary: what was asked, how good the reward model is, what the policy has gained."""
    labels, reward, ppo, judged = (results.get(name, {}) for name in ("labels", "reward", "ppo", "eval"))
    last = results.get(AGAINST_LAST, {})
    found = {
        "round": number,
        **_some(labels, "num_rankings", "num_pool", "num_by_disagreement", "agreement", "simulated"),
        **_some(reward, "accuracy", "accuracy_ci", "num_train_rankings"),
        **_some(ppo, "score_before", "score_after", "kl"),
        **_some(judged, "win_rate", "win_rate_ci", "score_candidate", "score_candidate_ci", "num_prompts"),
        **_some(judged, "judge", "judge_is_training_reward"),
        **{f"{key}_over_last": last[key] for key in ("win_rate", "win_rate_ci") if key in last},
    }
    if "win_rate_ci_over_last" in found:
        found["win_rate_over_last_ci"] = found.pop("win_rate_ci_over_last")
    return {**found, "artefacts": dict(artefacts)}


def _some(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values[key] for key in keys if values.get(key) is not None}


def _name(stage: Mapping[str, Any]) -> str:
    return str(stage["output"]["name"])


def figures(found: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Win rate and held-out accuracy by round, as far as they were measured."""
    wins = [
        _series("against SFT", found, "win_rate"),
        _series("against the round before", found, "win_rate_over_last"),
    ]
    accuracy = [_series("held-out accuracy", found, "accuracy")]
    simulated = " The annotators were simulated." if any(one.get("simulated") for one in found) else ""
    one_judge = len({one["judge"] for one in found if "judge" in one}) < 2
    judged = "" if one_judge else " Each round has a judge of its own, so that rounds do not compare."
    if any(one.get("judge_is_training_reward") for one in found):
        judged += " A judge that the policy was trained on favours it."
    figures = [
        Figure(
            name="rounds_win_rate",
            title="What each round has gained",
            description="Share of held-out prompts on which the judge prefers the round's policy, with its interval; "
            f"at a half, nothing was gained.{judged}{simulated}",
            kind="lines" if one_judge else "points",
            x="round",
            y="win rate",
            series=tuple(series for series in wins if series.x),
            marks=(Mark(label="no gain", y=0.5),),
        ),
        Figure(
            name="rounds_accuracy",
            title="How good each round's reward model is",
            description="Share of held-out pairs that the round's reward model, trained on all answers so far, puts "
            f"the way annotators do, with its interval.{simulated}",
            kind="lines",
            x="round",
            y="accuracy",
            series=tuple(series for series in accuracy if series.x),
        ),
    ]
    return [figure for figure in figures if figure.series]


def _series(name: str, found: Sequence[Mapping[str, Any]], key: str) -> FigureSeries:
    rows = [one for one in found if key in one and f"{key}_ci" in one]
    return FigureSeries(
        name=name,
        x=tuple(float(one["round"]) for one in rows),
        y=tuple(one[key] for one in rows),
        low=tuple(one[f"{key}_ci"][0] for one in rows),
        high=tuple(one[f"{key}_ci"][1] for one in rows),
    )
