"""`rlhf label results`: what came of a blind A/B, and how far the people who judged agree."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from labeling_app.comparing import compare_models
from labeling_app.converting import last_of_each_question
from labeling_app.exporting import judged_in
from labeling_app.quality.agreement import agreement_by_annotator, pairwise_agreement
from labeling_app.quality.intervals import Share
from labeling_app.store import Judgement, Store
from rlhf.errors import UserError


def ab_results(store: Store, queue: str) -> dict[str, Any]:
    """Which model people prefer, overall and each of them, and how often two of them agree.

    Left out, as in an export, are gold tasks, quarantined annotators, and what somebody judged again later.

    Returns:
        `comparisons`, one for every two models, as `compare_models` has them with `by_annotator` added; `agreement`
        of two people on a pair, a tie and an order agreeing by half, with its interval; None where no pair was judged
        by two.

    Raises:
        UserError: there is no such queue, or nothing in it was judged in mode `ab`.
    """
    every = store.read(judged_in, [queue])
    kept = last_of_each_question([one for one in every if not one.quarantined and one.gold is None])
    compared = [one for one in kept if one.mode == "ab"]
    comparisons = compare_models(compared)
    if not comparisons:
        raise UserError(
            f"queue {queue}: no answer to a blind A/B of two models yet ({len(kept):,} other answers); put questions "
            "in with `rlhf label add --prompts FILE --compare A B --queue NAME`"
        )
    by_person: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in compared:
        by_person[judgement.user].append(judgement)
    agreement = pairwise_agreement(compared).with_ties
    agreements = agreement_by_annotator(compared)
    for found in comparisons:
        found["by_annotator"] = {
            name: _of_one(found, by_person[name], agreements[name][0].with_ties) for name in sorted(by_person)
        }
    return {
        "queue": queue,
        "comparisons": comparisons,
        **_shown(agreement, "agreement"),
        "num_annotators": len(by_person),
        "simulated": any(judgement.simulated for judgement in compared),
        "num_quarantined_left_out": sum(one.quarantined for one in every),
    }


def _of_one(found: dict[str, Any], judgements: Sequence[Judgement], agreement: Share) -> dict[str, Any]:
    """One person's own win rate of the model that is preferred by all together, and agreement with the others."""
    own: dict[str, Any] = {"win_rate": None, "num_judgements": 0, "num_ties": 0}
    for one in compare_models(judgements):
        if {one["preferred"], one["to"]} == {found["preferred"], found["to"]}:
            same = one["preferred"] == found["preferred"]
            low, high = one["win_rate_ci"]
            own = {
                "win_rate": one["win_rate"] if same else round(1 - one["win_rate"], 4),
                "win_rate_ci": [low, high] if same else [round(1 - high, 4), round(1 - low, 4)],
                "num_judgements": one["num_judgements"],
                "num_ties": one["num_ties"],
            }
    return own | _shown(agreement, "agreement_with_others")


def _shown(share: Share, name: str) -> dict[str, Any]:
    if share.value is None or share.low is None or share.high is None:
        return {name: None, f"{name}_ci": None}
    return {name: round(share.value, 4), f"{name}_ci": [round(share.low, 4), round(share.high, 4)]}
