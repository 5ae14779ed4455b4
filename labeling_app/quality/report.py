"""Everything that the dashboard and `rlhf label status` say about quality, worked out in one go."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime
from typing import Any

from labeling_app.quality.agreement import (
    Agreement,
    GradeAgreement,
    TwoPeople,
    agreement_by_annotator,
    agreement_of_two,
    grade_agreement_by_annotator,
    pairwise_agreement,
    with_gold,
    with_others,
)
from labeling_app.quality.alpha import Alpha, krippendorff_alpha
from labeling_app.quality.careless import Signal, careless_signals, contradicting, falling, guessing
from labeling_app.quality.drift import Block, blocks, drift_by_week
from labeling_app.quality.habits import Place, Times, longest_wins, position_bias, time_per_task
from labeling_app.quality.intervals import Share
from labeling_app.quality.panel import panel_of
from labeling_app.quality.reliability import Reliability, reliability_weights
from labeling_app.store import Judgement


@dataclass(frozen=True)
class AnnotatorQuality:
    """What is known of one annotator.

    Attributes:
        imported: the answers came in a file; nobody logs in under this name.
        others: agreement on pairs with those who are not quarantined.
        gold: agreement with what is known to be right.
        grades: the same for grades (mode `rate`), with others and with gold.
        places: by shown place, how often the best stood there.
        longest: how often the longer of two was preferred.
        reliability: None for the quarantined, whose answers count nowhere.
        drift: in blocks of 50 answers.
        signals: what speaks for carelessness.
    """

    name: str
    imported: bool
    simulated: bool
    quarantined: bool
    num_answers: int
    others: Agreement
    gold: Agreement
    grades: tuple[GradeAgreement, GradeAgreement]
    times: Times
    places: list[Place]
    longest: Share
    reliability: Reliability | None
    drift: list[Block]
    signals: list[Signal]


@dataclass(frozen=True)
class Quality:
    """How far the judgements can be trusted. The quarantined are described, and left out of all common figures.

    Attributes:
        num_judgements: of those who are not quarantined.
        num_simulated: how many of these are by simulated annotators.
        num_tasks: tasks that have such a judgement.
        num_tasks_of_several: of these, those judged by at least two, gold not counted.
        alpha_places: Krippendorff's alpha, ordinal, of places in full orders.
        alpha_pairs: nominal, of votes on pairs.
        alpha_grades: ordinal, of grades.
        pairwise: agreement of two people on a pair.
    """

    num_judgements: int
    num_simulated: int
    num_tasks: int
    num_tasks_of_several: int
    alpha_places: Alpha
    alpha_pairs: Alpha
    alpha_grades: Alpha
    pairwise: Agreement
    longest: Share
    places: list[Place]
    times: Times
    drift: list[tuple[date, Block]]
    annotators: list[AnnotatorQuality]
    twos: list[TwoPeople]


def assess(judgements: Sequence[Judgement]) -> Quality:
    """All figures; give the quarantined people's judgements too, so that they are described.

    10,000 rankings of four take about a second. Nothing is drawn but the bootstrap of alpha, whose seed is fixed.
    """
    panel = panel_of(judgements)
    others, gold = with_others(panel), with_gold(panel)
    agreement, grades = agreement_by_annotator(panel), grade_agreement_by_annotator(panel)
    reliability, signals, pairwise = reliability_weights(panel), careless_signals(panel), pairwise_agreement(panel)
    counts: dict[int, int] = {}
    active = [judgement for judgement in panel.judgements if not judgement.quarantined]
    for judgement in active:
        counts[judgement.task_id] = counts.get(judgement.task_id, 0) + (1 if judgement.gold is None else 0)
    annotators = []
    for person, name in enumerate(panel.people):
        own = [panel.judgements[index] for index in (panel.person == person).nonzero()[0]]
        drift = blocks(panel, name, others, gold)
        worth = contradicting(*agreement[name]) or guessing(reliability.get(name), agreement[name][0], pairwise)
        annotators.append(
            AnnotatorQuality(
                name=name,
                imported=own[0].is_imported,
                simulated=own[0].simulated,
                quarantined=own[0].quarantined,
                num_answers=len(own),
                others=agreement[name][0],
                gold=agreement[name][1],
                grades=grades[name],
                times=time_per_task(panel, name),
                places=position_bias(panel, name),
                longest=longest_wins(panel, name),
                reliability=reliability.get(name),
                drift=drift,
                signals=signals[name] + [signal for signal in (worth, falling(drift)) if signal is not None],
            )
        )
    return Quality(
        num_judgements=len(active),
        num_simulated=sum(judgement.simulated for judgement in active),
        num_tasks=len(counts),
        num_tasks_of_several=sum(count > 1 for count in counts.values()),
        alpha_places=krippendorff_alpha(panel, "places"),
        alpha_pairs=krippendorff_alpha(panel, "pairs"),
        alpha_grades=krippendorff_alpha(panel, "grades"),
        pairwise=pairwise,
        longest=longest_wins(panel),
        places=position_bias(panel),
        times=time_per_task(panel),
        drift=drift_by_week(panel),
        annotators=annotators,
        twos=agreement_of_two(panel),
    )


def as_json(value: Any) -> Any:
    """Dataclasses, dates and numbers as JSON holds them; what is not a finite number becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    assert value is None or isinstance(value, str | int), f"no JSON for {type(value).__name__}"
    return value
