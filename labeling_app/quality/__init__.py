"""How far judgements can be trusted: agreement, bias, drift, and what each annotator is worth.

Pure functions of `labeling_app.store.Judgement`s. Nothing is ever NaN: what cannot be said is None. `assess` gives all
of it at once, `as_json` makes it JSON.
"""

from labeling_app.quality.agreement import (
    Agreement,
    GradeAgreement,
    TwoPeople,
    agreement_by_annotator,
    agreement_of_two,
    grade_agreement_by_annotator,
    pairwise_agreement,
)
from labeling_app.quality.alpha import Alpha, krippendorff_alpha
from labeling_app.quality.careless import Signal, careless_signals
from labeling_app.quality.drift import Block, drift_by_answers, drift_by_week
from labeling_app.quality.habits import Place, Times, longest_wins, position_bias, time_per_task
from labeling_app.quality.intervals import Share
from labeling_app.quality.pace import Pace, pace
from labeling_app.quality.reliability import Reliability, reliability_weights
from labeling_app.quality.report import AnnotatorQuality, Quality, as_json, assess

__all__ = [
    "Agreement",
    "Alpha",
    "AnnotatorQuality",
    "Block",
    "GradeAgreement",
    "Pace",
    "Place",
    "Quality",
    "Reliability",
    "Share",
    "Signal",
    "Times",
    "TwoPeople",
    "agreement_by_annotator",
    "agreement_of_two",
    "as_json",
    "assess",
    "careless_signals",
    "drift_by_answers",
    "drift_by_week",
    "grade_agreement_by_annotator",
    "krippendorff_alpha",
    "longest_wins",
    "pace",
    "pairwise_agreement",
    "position_bias",
    "reliability_weights",
    "time_per_task",
]
