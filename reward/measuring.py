"""How good a reward model is on the held-out judgements of its run."""

from collections.abc import Sequence
from typing import Any

from reward.preparing import compared
from rlhf.evaluation.publishing import rounded
from rlhf.evaluation.rewards import accuracy_figures, all_pairs, score_pairs
from rlhf.evaluation.statistics import rank_correlation
from rlhf.records import Preference, Ranking, Rating, Record, exchange
from rlhf.scoring import RewardModelScorer


def held_out_figures(scorer: RewardModelScorer, records: Sequence[Record], seed: int) -> dict[str, Any]:
    """Accuracy on pairs, and the correlation with ratings, of whatever `records` have.

    Pairs that follow from ratings are among them. `rating_correlation` is Spearman's, over all ratings.
    """
    figures: dict[str, Any] = {}
    comparisons = compared(records)
    if any(isinstance(one, Preference) or (isinstance(one, Ranking) and one.pairs()) for one in comparisons):
        pairs = all_pairs(comparisons)
        figures |= accuracy_figures(pairs, *score_pairs(scorer, pairs), seed=seed)
    ratings = [record for record in records if isinstance(record, Rating)]
    if ratings:
        texts = [exchange(rating.prompt, rating.completion) for rating in ratings]
        scores = scorer.score([prompt for prompt, _ in texts], [text for _, text in texts]).numpy()
        correlation = rank_correlation([rating.rating for rating in ratings], scores)
        if correlation is not None:
            figures["rating_correlation"] = correlation
    return rounded(figures)
