"""Log-probs with their gradient made in place, against softmax and autograd."""

import pytest
import torch

from rlhf.modeling import packed_logprobs


def make(n: int = 7, width: int = 5, vocab: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(n, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    bias = torch.randn(vocab, requires_grad=True)
    return hidden, weight, bias, torch.randint(0, vocab, (n,))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("block", [1, 22, 2**18])
def test_logprobs_entropies_and_gradients_are_those_of_a_softmax(
    has_bias: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.modeling.packed_head.BLOCK_CELLS", block)
    hidden, weight, bias, targets = make()
    bias = bias if has_bias else None
    leaves = [hidden, weight] + ([bias] if has_bias else [])
    weights = torch.randn(7)
    logprobs, entropy = packed_logprobs(hidden, weight, bias, targets, 0.7)
    found = torch.autograd.grad((logprobs * weights).sum(), leaves)
    distribution = torch.distributions.Categorical(logits=torch.nn.functional.linear(hidden, weight, bias) / 0.7)
    expected = torch.autograd.grad((distribution.log_prob(targets) * weights).sum(), leaves)
    torch.testing.assert_close(logprobs, distribution.log_prob(targets), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, distribution.entropy(), atol=1e-5, rtol=1e-5)
    assert not entropy.requires_grad
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_without_gradients_the_logits_are_made_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets = make()
    expected = packed_logprobs(hidden, weight, bias, targets, 1.0)
    monkeypatch.setattr("rlhf.modeling.packed_head.CHUNK_CELLS", 22)
    with torch.no_grad():
        found = packed_logprobs(hidden, weight, bias, targets, 1.0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden, weight, _, targets = make()
    packed_logprobs(hidden, weight.requires_grad_(False), None, targets, 1.0)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, _, targets = make()
    logprobs, entropy = packed_logprobs(hidden * 1e4, weight, None, targets, 1.0)
    assert bool(torch.isfinite(logprobs).all())
    assert bool((entropy >= -1e-6).all())


def test_bfloat16_products_are_followed_by_a_float32_softmax() -> None:
    hidden, weight, bias, targets = make()
    expected = packed_logprobs(hidden, weight, bias, targets, 1.0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, entropy = packed_logprobs(hidden, weight, bias, targets, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=0.05, rtol=0.02)
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_no_tokens_give_no_logprobs() -> None:
    hidden, weight, _, targets = make()
    logprobs, entropy = packed_logprobs(hidden[:0], weight, None, targets[:0], 1.0)
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
