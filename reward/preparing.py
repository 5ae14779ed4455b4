"""What a run learns from, worked out before anything is loaded or written."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reward.config import RewardStageConfig
from reward.data import Encode, Rows, Weigh, to_dataset, total_weights
from reward.grades import GradeScale
from reward.judgements import Gathered, gather, num_contradictions, rankings_by_grade
from reward.weights import Annotator, annotator_weights, members_of
from rlhf.datasets import Loaded
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking, Rating, Record

logger = logging.getLogger(__name__)

_LEFT_OUT = {
    "num_without_order": "rankings place no completion above another one, and were left out",
    "num_lone_ratings": "ratings stand alone among their annotator's of the prompt, and were left out",
    "num_equal_pairs": "pairs are of texts that the model reads as the same, and were left out",
    "num_weightless": "rankings are by annotators of weight 0, and were left out",
}


@dataclass(frozen=True)
class Learnable:
    """The judgements of a run. There is a `scale` for losses that learn grades, `annotators` where they are weighed."""

    train: Gathered
    dev: Gathered
    scale: GradeScale | None
    annotators: dict[str, Annotator] | None
    weigh: Weigh
    weigh_dev: Weigh

    def rows(self, encode: Encode) -> tuple[Rows, Rows]:
        """To train on and to evaluate on.

        A held-out judgement counts by its annotator's weight, for every member alike, whatever the member has drawn:
        the loss that early stopping watches is the one that is trained, on what was not.

        Raises:
            UserError: nothing is left to train on.
        """
        grade = self.scale or float
        train = to_dataset(self.train.groups, encode, self.weigh, grade)
        if train.dataset is None:
            raise UserError(
                "data: nothing to learn from is left: nobody whose answers have a weight placed one completion above "
                f"another that the model reads differently ({train.num_equal_pairs} pairs of equal texts, "
                f"{train.num_weightless} rankings without weight)"
            )
        empty = [member for member, total in enumerate(total_weights(train.dataset).tolist()) if not total]
        if empty:
            raise UserError(
                f"ensemble.resample: {len(empty)} of the members have drawn nothing to learn from; draw 'prompts', or "
                "take 'none'"
            )
        return train, to_dataset(self.dev.groups, encode, self.weigh_dev, grade)

    def figures(self, train: Rows, dev: Rows) -> dict[str, Any]:
        """For the run's summary: what was said both ways, what was of no use, who was trusted how far."""
        parts = (self.train, self.dev)
        figures: dict[str, Any] = {
            "num_contradictions": num_contradictions(self.train.groups),
            "num_without_order": sum(part.num_without_order for part in parts),
            "num_lone_ratings": sum(part.num_lone_ratings for part in parts),
            "num_equal_pairs": sum(part.num_equal_pairs for part in (*parts, train, dev)),
            "num_weightless": train.num_weightless,
        }
        if self.annotators is not None:
            figures["annotators"] = {
                name: {key: round(value, 4) for key, value in asdict(one).items()}
                for name, one in self.annotators.items()
            }
        for key, what in _LEFT_OUT.items():
            if figures[key]:
                logger.warning("%d %s", figures[key], what)
        return figures


def learnable(config: RewardStageConfig, data: Loaded) -> Learnable:
    """What the loss of `config` learns from `data`.

    Raises:
        UserError: nothing; the text says what was found and which loss would take it.
    """
    loss = config.loss
    train, dev = gather(data.train, loss), gather(data.dev, loss)
    ratings = [record for record in data.train if isinstance(record, Rating)]
    if loss.kind in ("regression", "ordinal") and not ratings:
        raise UserError(
            f"loss.kind = {loss.kind!r}: learns from ratings, and the data has none; take 'bradley_terry' for rankings "
            "and pairs"
        )
    if not train.groups:
        alone = (
            f" ({train.num_lone_ratings} ratings, none of which an annotator gave beside another of the same prompt; "
            "loss.kind = 'ordinal' learns from single ratings)"
            if train.num_lone_ratings
            else ""
        )
        raise UserError(
            f"data: no ranking places one completion above another, so there is nothing to learn from{alone}"
        )
    rankings = [record for record in data.train if isinstance(record, Ranking)]
    if loss.margin == "strength" and not any(ranking.strength for ranking in rankings):
        raise UserError(
            f"loss.margin = 'strength': none of {len(rankings)} rankings says how much better its best is; "
            "give them a `strength`, or take 'tiers'"
        )
    scale = None
    if loss.kind in ("regression", "ordinal"):
        scale = GradeScale([rating.rating for rating in ratings], loss.kind)  # type: ignore[arg-type]
    annotators = annotator_weights(data.train) if loss.weights == "reliability" else None
    weights = {name: one.weight for name, one in (annotators or {}).items()}
    num_members = config.ensemble.num_members if config.ensemble else 1
    return Learnable(
        train,
        dev,
        scale,
        annotators,
        members_of(config.ensemble, data.train, weights, seed=config.seed),
        lambda _, annotator: [weights.get(annotator or "", 1.0)] * num_members,
    )


def compared(records: Sequence[Record]) -> list[Record]:
    """Rankings and pairs, those among them that follow from ratings: what held-out accuracy is measured by."""
    made, _ = rankings_by_grade(record for record in records if isinstance(record, Rating))
    return [*(record for record in records if isinstance(record, Ranking | Preference)), *made]
