"""Several scorers as one: a weighted sum, and reward models that check each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.errors import UserError
from rlhf.generation import Messages
from rlhf.scoring.base import Columns, Scorer
from rlhf.scoring.ensemble import Ensemble, spread
from rlhf.scoring.functions import FunctionScorer, ObjectScorer
from rlhf.scoring.models import RewardModelScorer


@dataclass(frozen=True)
class _Term:
    """One summand: a score, or several that an ensemble makes one of; weights are applied before."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    ensemble: Ensemble | None

    def weighted(self, scores: Mapping[str, Tensor]) -> Tensor:
        """[M, B] of the M scores that it is made of."""
        return torch.stack([w * scores[name] for name, w in zip(self.names, self.weights, strict=True)])

    def __call__(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The summand [B]."""
        weighted = self.weighted(scores)
        return weighted[0] if self.ensemble is None else self.ensemble(weighted)


class WeightedScorer:
    """The weighted sum of several scorers; with an `ensemble`, the reward models among them are one of its terms.

    An artefact of M members counts as M reward models there. Without an `ensemble` each such artefact is a term of its
    own, combined as it says itself.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        weights: Sequence[float] | None = None,
        name: str = "score",
        ensemble: Ensemble | None = None,
    ) -> None:
        """Weights default to 1; a reward model's is applied before the ensemble.

        Raises UserError when their number is not that of the scorers, names repeat, or fewer than two reward models
        are to be an ensemble.
        """
        weights = [1.0] * len(scorers) if weights is None else list(weights)
        if len(weights) != len(scorers):
            raise UserError(f"reward_weights: {len(weights)} weights for {len(scorers)} scorers; give one for each")
        columns = [_columns(scorer) for scorer in scorers]
        names = [name for scorer, own in zip(scorers, columns, strict=True) for name in {scorer.name, *own}]
        if len(set(names)) != len(names):
            given = ", ".join(scorer.name for scorer in scorers)
            raise UserError(f"reward: two scorers have one name ({given}); give each its own, as `name`")
        self.scorers = [_looked_after(scorer) for scorer in scorers]
        self.weights = weights
        self.name = name
        self.ensemble = ensemble
        self._terms: list[_Term] = []
        pooled: list[tuple[str, float]] = []
        for scorer, own, weight in zip(scorers, columns, weights, strict=True):
            if ensemble and isinstance(scorer, RewardModelScorer):
                pooled += [(column, weight) for column in own]
            else:
                combine = scorer.combine if isinstance(scorer, RewardModelScorer) else None
                self._terms.append(_Term(own, (weight,) * len(own), combine))
        if ensemble and len(pooled) < 2:
            raise UserError(
                f"reward_ensemble = {ensemble.kind}: it takes two or more reward models, and there are "
                f"{len(pooled)}; give more, or leave it out"
            )
        if ensemble:
            self._terms.append(_Term(tuple(n for n, _ in pooled), tuple(w for _, w in pooled), ensemble))

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """The weighted sum [B], float32."""
        return self.combine(self.score_each(prompts, completions, columns))

    def to(self, device: torch.device) -> None:
        """Move the models of those scorers that have one."""
        for scorer in self.scorers:
            if isinstance(scorer, RewardModelScorer | WeightedScorer):
                scorer.to(device)

    def score_each(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> dict[str, Tensor]:
        """Each scorer's own unweighted scores [B] by its name.

        Of an ensemble that is the mean of its members, and theirs stand beside it as `<name>/0`, `<name>/1`, ...
        """
        found: dict[str, Tensor] = {}
        for scorer in self.scorers:
            if isinstance(scorer, RewardModelScorer) and scorer.num_members > 1:
                members = scorer.score_members(prompts, completions, columns)
                found[scorer.name] = members.double().mean(1).to(members.dtype)
                found |= dict(zip(_columns(scorer), members.T, strict=True))
            else:
                found[scorer.name] = scorer.score(prompts, completions, columns)
        return found

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum [B] of `score_each`'s result, an ensemble as one term."""
        return torch.stack([term(scores) for term in self._terms]).sum(0)

    def spread(self, scores: Mapping[str, Tensor]) -> Tensor | None:
        """What the members of an ensemble disagree by, [B], weights applied; None without an ensemble.

        It is their standard deviation. Of several ensembles it is that of a sum whose summands err independently.
        """
        spreads = [spread(term.weighted(scores)) for term in self._terms if len(term.names) > 1]
        if len(spreads) > 1:
            return torch.stack(spreads).square().sum(0).sqrt()
        return spreads[0] if spreads else None

    @property
    def shares(self) -> dict[str, float]:
        """What a scorer's own score counts, by its name, where every ensemble counts as the mean of its members."""
        shares: dict[str, float] = {}
        for scorer, weight in zip(self.scorers, self.weights, strict=True):
            own = _columns(scorer)
            term = next(term for term in self._terms if own[0] in term.names)
            shares[scorer.name] = weight * len(own) / len(term.names)
        return shares

    def prepare(self, columns: Iterable[str], timeout: float | None = None) -> None:
        """Tell the functions how long a call may take, and raise UserError for one that needs another column."""
        for scorer in self.scorers:
            if isinstance(scorer, FunctionScorer | ObjectScorer):
                scorer.timeout = timeout
            if isinstance(scorer, FunctionScorer):
                scorer.check_columns(columns)
            elif isinstance(scorer, WeightedScorer):
                scorer.prepare(columns, timeout)


def _looked_after(scorer: Scorer) -> Scorer:
    """Ours as it is; one that a user wrote as what looks at its scores."""
    is_ours = isinstance(scorer, FunctionScorer | ObjectScorer | RewardModelScorer | WeightedScorer)
    return scorer if is_ours else ObjectScorer(scorer)


def _columns(scorer: Scorer) -> tuple[str, ...]:
    """What the scores that a scorer gives a completion are called: its own name, or a name for each member."""
    if isinstance(scorer, RewardModelScorer) and scorer.num_members > 1:
        return tuple(f"{scorer.name}/{i}" for i in range(scorer.num_members))
    return (scorer.name,)
