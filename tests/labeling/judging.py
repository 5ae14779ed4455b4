"""Judgements for the tests of quality, without a store."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from labeling_app.answers import Answer
from labeling_app.store import Judgement, Response

START = datetime(2026, 11, 2, 9, tzinfo=UTC)  # a Monday

Tiers = Sequence[Sequence[int]]


class Sheet:
    """Collects judgements; each is a minute after the one before."""

    def __init__(self) -> None:
        self.judgements: list[Judgement] = []

    def add(
        self,
        user: str,
        task: int,
        tiers: Tiers = (),
        *,
        ratings: Mapping[int, int] | None = None,
        presented: Sequence[int] | None = None,
        gold: Mapping[str, Any] | None = None,
        texts: Mapping[int, str] | None = None,
        seconds: float = 30.0,
        wall_seconds: float | None = None,
        at: datetime | None = None,
        revised_at: datetime | None = None,
        quarantined: bool = False,
        simulated: bool = False,
        revision: int = 1,
        responses: Sequence[int] | None = None,
    ) -> None:
        """Say that `user` gave this answer; responses are named 1, 2, ... within their task."""
        ids = sorted(responses or ratings or [response for tier in tiers for response in tier])
        number = len(self.judgements)
        self.judgements.append(
            Judgement(
                submission_id=number + 1,
                task_id=task,
                queue="default",
                mode="rate" if ratings is not None else "pair" if len(ids) == 2 else "rank",
                prompt="Why?",
                responses=[Response(each, (texts or {}).get(each, "text"), []) for each in ids],
                presented=list(presented or ids),
                answer=Answer(tiers=[list(tier) for tier in tiers], ratings=None if ratings is None else dict(ratings)),
                revision=revision,
                user_id=1,
                user=user,
                simulated=simulated,
                quarantined=quarantined,
                gold=None if gold is None else dict(gold),
                origin={},
                guidelines_version=None,
                created_at=revised_at or at or START + timedelta(minutes=number),
                first_at=at or START + timedelta(minutes=number),
                active_ms=round(1000 * seconds),
                wall_ms=round(1000 * (seconds + 5 if wall_seconds is None else wall_seconds)),
            )
        )


def simulated(
    seed: int,
    people: Mapping[str, float | str],
    *,
    num_tasks: int = 300,
    num_responses: int = 4,
    overlap: int = 2,
    gold_share: float = 0.0,
) -> list[Judgement]:
    """What people say who see the responses' worth (standard normal) with noise of a known standard deviation.

    Instead of a number: "careless" answers at random, "first" takes the order shown, "malicious" turns an honest
    order round, "ties" calls all alike.
    """
    rng = np.random.default_rng(seed)
    sheet = Sheet()
    names = list(people)
    for task in range(num_tasks):
        worth = rng.normal(size=num_responses)
        ids = np.arange(1, num_responses + 1)
        is_gold = rng.random() < gold_share
        gold = {"tiers": [[int(each)] for each in ids[np.argsort(-worth)]]} if is_gold else None
        for name in names if is_gold else rng.choice(names, size=overlap, replace=False).tolist():
            presented = rng.permutation(ids)
            tiers = _tiers(rng, people[name], worth, ids, presented)
            sheet.add(name, task, tiers, presented=[int(each) for each in presented], gold=gold)
    return sheet.judgements


def _tiers(rng: np.random.Generator, kind: float | str, worth: Any, ids: Any, presented: Any) -> list[list[int]]:
    if kind == "ties":
        return [[int(each) for each in ids]]
    if kind == "first":
        return [[int(each)] for each in presented]
    if kind == "careless":
        return [[int(each)] for each in rng.permutation(ids)]
    noise = rng.normal(size=len(ids))
    seen = -(worth + noise * 0.7) if kind == "malicious" else worth + noise * float(kind)
    return [[int(each)] for each in ids[np.argsort(-seen)]]
