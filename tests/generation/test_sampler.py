"""Drawing tokens: the inverse CDF against a plain one, frequencies, and the corners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from rlhf.generation.sampler import BLOCK, draw, keep_likely, pick, uniforms

NEARLY_ONE = 1 - 2.0**-53


def plain_pick(weights: list[float], uniform: float) -> int:
    """One walk along the CDF in exact arithmetic, for weights that are multiples of a power of two."""
    target, so_far = uniform * math.fsum(weights), 0.0
    for token, weight in enumerate(weights):
        so_far += weight
        if so_far > target:
            return token
    raise AssertionError("the target lies past the end")


def tokens_of(weights: Tensor, numbers: list[float]) -> list[int]:
    rows = weights.expand(len(numbers), -1).contiguous()
    return pick(rows, torch.tensor(numbers, dtype=torch.float64))[0].tolist()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.25, 0.5, 0.25], {0.0: 0, 0.2499: 0, 0.25: 1, 0.7499: 1, 0.75: 2, NEARLY_ONE: 2}),
        ([0.0, 1.0, 0.0], {0.0: 1, 0.5: 1, NEARLY_ONE: 1}),
        ([0.0, 0.0, 0.5, 0.0, 0.5, 0.0], {0.0: 2, 0.4999: 2, 0.5: 4, NEARLY_ONE: 4}),
        ([2.0, 6.0], {0.2499: 0, 0.25: 1}),
        ([0.5] + [0.0] * 300 + [0.5] + [0.0] * 300, {0.0: 0, 0.4999: 0, 0.5: 301, NEARLY_ONE: 301}),
        ([0.0] * (2 * BLOCK) + [1.0], {0.0: 2 * BLOCK, NEARLY_ONE: 2 * BLOCK}),
        ([1.0] + [0.0] * (2 * BLOCK - 1), {0.0: 0, NEARLY_ONE: 0}),
    ],
)
def test_the_token_is_the_first_whose_cdf_exceeds_the_uniform_number(
    weights: list[float], expected: dict[float, int]
) -> None:
    assert tokens_of(torch.tensor(weights), list(expected)) == list(expected.values())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_the_plain_walk_along_the_cdf(data: st.DataObject) -> None:
    # whole numbers and numbers between the borders, so that rounding decides nothing
    size = data.draw(st.sampled_from([1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]))
    counts = data.draw(st.lists(st.sampled_from([0, 0, 1, 2, 5]), min_size=size, max_size=size))
    total = sum(counts)
    if total == 0:
        counts[data.draw(st.integers(0, size - 1))] = total = 1
    numbers = [(place + 0.5) / total for place in range(0, total, max(1, total // 50))]
    weights = [float(count) for count in counts]
    assert tokens_of(torch.tensor(weights), numbers) == [plain_pick(weights, number) for number in numbers]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 40, 1.0), (1.0, 0, 0.8), (0.9, 100, 0.9)]
)
def test_frequencies_are_the_probabilities(temperature: float, top_k: int, top_p: float) -> None:
    size, count = 300, 200_000
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 2
    logits[[3, 299]] = -torch.inf
    number = uniforms(11, 1, count)[0]
    drawn = torch.cat([draw(logits.repeat(len(u), 1), u, temperature, top_k, top_p)[0] for u in number.split(20_000)])
    scaled = (logits / temperature)[None]
    expected = keep_likely(scaled, top_k, top_p).softmax(1)[0].double()
    counts = torch.bincount(drawn, minlength=size)
    assert int(counts[expected == 0].sum()) == 0
    kept = expected > 0
    result = chisquare(counts[kept].numpy(), (expected[kept] / expected[kept].sum() * count).numpy())
    assert result.pvalue > 0.01


def test_logprobs_are_those_of_the_whole_distribution_at_the_temperature() -> None:
    logits = torch.randn(50, 700, generator=torch.Generator().manual_seed(1)) * 5
    for top_k, top_p in ((0, 1.0), (5, 1.0), (0, 0.5)):
        tokens, logprobs = draw(logits.clone(), uniforms(2, 50, 1)[:, 0], 0.7, top_k, top_p)
        expected = (logits.double() / 0.7).log_softmax(1).gather(1, tokens[:, None]).squeeze(1)
        torch.testing.assert_close(logprobs.double(), expected, atol=2e-6, rtol=2e-6)


def test_temperature_0_takes_the_first_of_the_most_likely() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [-torch.inf, -5.0, -torch.inf]])
    tokens, logprobs = draw(logits.clone(), torch.zeros(2, dtype=torch.float64), 0.0)
    assert tokens.tolist() == [1, 1]
    torch.testing.assert_close(logprobs, logits.log_softmax(1)[:, 1])


def test_many_rows_of_a_large_vocabulary_are_drawn_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, number = torch.randn(7, 200), uniforms(4, 7, 1)[:, 0]
    whole = draw(logits.clone(), number, 0.8)
    monkeypatch.setattr("rlhf.generation.sampler.MAX_ELEMENTS", 400)
    pieces = draw(logits.clone(), number, 0.8)
    assert torch.equal(whole[0], pieces[0])
    assert torch.equal(whole[1], pieces[1])


def test_the_likely_ones_are_those_that_transformers_keeps() -> None:
    logits = torch.randn(20, 90, generator=torch.Generator().manual_seed(5)).round(decimals=1)  # with ties
    ids = torch.zeros(20, 1, dtype=torch.long)
    assert torch.equal(keep_likely(logits, 7, 1.0), TopKLogitsWarper(7)(ids, logits))
    assert torch.equal(keep_likely(logits, 0, 0.6), TopPLogitsWarper(0.6)(ids, logits))
    both = TopPLogitsWarper(0.6)(ids, TopKLogitsWarper(7)(ids, logits))
    assert torch.equal(keep_likely(logits, 7, 0.6), both)
    assert keep_likely(logits, 90, 1.0) is logits


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [-math.inf] * 3])
def test_what_cannot_be_drawn_from_has_no_finite_logprob(bad: list[float], temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], bad])
    tokens, logprobs = draw(logits, torch.full((2,), 0.5, dtype=torch.float64), temperature)
    assert torch.isfinite(logprobs).tolist() == [True, False]
    assert 0 <= int(tokens[1]) < 3


def test_a_uniform_number_depends_on_key_row_and_step_alone() -> None:
    table = uniforms(123, 6, 10)
    assert torch.equal(uniforms(123, 9, 4)[:6], table[:, :4])
    assert len({*table.flatten().tolist(), *uniforms(124, 6, 10).flatten().tolist()}) == 120
    assert table.dtype == torch.float64
    assert 0 <= float(table.min()) < float(table.max()) < 1
    # Philox4x64-10 under this key, as NumPy has it: a release that changes it changes every seeded run.
    assert table[1, :2].tolist() == [0.8538285001368465, 0.09565730546731921]
