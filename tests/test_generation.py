import random
from typing import Any

import numpy as np
import pytest
import torch
from ppo.tiny import CHAT_TEMPLATE, EOS, PAD, make_policy, make_tokenizer
from transformers import GenerationConfig

from rlhf.errors import UserError
from rlhf.generation import (
    SampledTokens,
    check_lengths,
    decode_completion,
    encode_prompt,
    left_pad,
    sample,
    sample_tokens,
    stop_token_ids,
)

PROMPTS = ["w1 w2", "w3", "w4 w5 w6 w7", "w8 w9 w10"]


def texts(**changes: Any) -> list[str]:
    settings: dict[str, Any] = {"max_new_tokens": 6, "seed": 3} | changes
    return [c.text for c in sample(make_policy(), make_tokenizer(), PROMPTS, **settings)]


def test_prompts_are_padded_on_the_left() -> None:
    ids, mask = left_pad([[5, 6, 7], torch.tensor([8])], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_a_pad_token_that_is_sampled_is_a_token_like_any_other() -> None:
    def sampled(pad_id: int) -> SampledTokens:
        torch.manual_seed(0)
        prompts = [torch.tensor([5, 6])] * 64
        how: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "stop_ids": [EOS], "batch_size": 64}
        return sample_tokens(make_policy(), prompts, pad_id=pad_id, **how)

    found, other = sampled(9), sampled(PAD)
    assert torch.equal(found.mask, other.mask)
    assert torch.equal(found.ids[found.mask], other.ids[found.mask])
    is_pad = (found.ids == 9) & found.mask
    assert int((is_pad[:, :-1] & found.mask[:, 1:]).sum()) > 5  # and the completion goes on behind it


def test_stop_tokens_are_those_of_tokenizer_and_generation_config() -> None:
    model = make_policy()
    model.generation_config.eos_token_id = [EOS, 7]
    assert stop_token_ids(model, make_tokenizer()) == [EOS, 7]
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="no EOS token"):
        stop_token_ids(model, tokenizer)


def test_greedy_tokens_are_the_most_likely_ones_whatever_the_padding() -> None:
    model, tokenizer = make_policy(), make_tokenizer()
    encoded = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    together = sample_tokens(model, encoded, max_new_tokens=5, temperature=0.0, stop_ids=[], pad_id=PAD, batch_size=4)
    for row, ids in zip(together.ids, encoded, strict=True):
        expected = list(ids)
        for _ in range(5):
            expected.append(int(model(torch.tensor([expected])).logits[0, -1].argmax()))
        assert row.tolist() == expected[len(ids) :]


def test_samples_follow_the_models_distribution() -> None:
    model, tokenizer = make_policy(), make_tokenizer()
    # What a chat model's own generation config brings along; a plain sample must not be touched by it.
    own = GenerationConfig(do_sample=True, top_k=2, top_p=0.5, repetition_penalty=3.0, eos_token_id=EOS)
    model.generation_config = own
    drawn = sample(model, tokenizer, ["w1"], max_new_tokens=1, num_return=4000, batch_size=4000, temperature=0.7)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in drawn]), minlength=32) / 4000
    expected = (model(torch.tensor([[4]])).logits[0, -1].detach() / 0.7).softmax(0)
    assert float((counts - expected).abs().max()) < 0.03
    assert model.generation_config is own


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    assert texts() == texts()
    assert texts() != texts(seed=4)


def test_sampling_leaves_every_generator_and_the_models_mode_alone() -> None:
    model = make_policy().train()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    sample(model, make_tokenizer(), PROMPTS, max_new_tokens=3)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert model.training


def test_completions_come_in_the_order_of_their_prompts() -> None:
    done: list[int] = []
    drawn = sample(
        make_policy(),
        make_tokenizer(),
        PROMPTS,
        max_new_tokens=4,
        num_return=2,
        temperature=0.0,
        batch_size=3,
        progress=done.append,
    )
    assert [c.prompt_index for c in drawn] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert done == [3, 6, 8]
    one_by_one = [
        sample(make_policy(), make_tokenizer(), [p], max_new_tokens=4, temperature=0.0)[0].text for p in PROMPTS
    ]
    assert [c.text for c in drawn[::2]] == one_by_one


def test_no_prompts_give_no_completions() -> None:
    assert sample(make_policy(), make_tokenizer(), [], max_new_tokens=4) == []


def test_ended_tells_a_finished_completion_from_a_cut_one() -> None:
    drawn = sample(make_policy(), make_tokenizer(), PROMPTS, max_new_tokens=6, num_return=8)
    assert {c.ended for c in drawn} == {True, False}
    for completion in drawn:
        assert completion.ended == (completion.token_ids[-1] == EOS)
        assert EOS not in completion.token_ids[:-1]
        assert completion.ended or len(completion.token_ids) == 6


def test_conversations_are_encoded_with_the_assistants_turn_opened() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer, [{"role": "user", "content": "w5"}])
    tokenizer.chat_template = CHAT_TEMPLATE
    assert encode_prompt(tokenizer, [{"role": "user", "content": "w5"}]) == [3, 8, 4]


def test_the_text_of_a_completion_is_what_it_adds_to_its_prompt() -> None:
    assert decode_completion(make_tokenizer(), [4, 5], [6, 7, EOS]) == " w3 w4"


def test_rows_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError) as caught:
        check_lengths([3, 0, 60], 8, 64)
    assert caught.value.problems == (
        "prompts: row 1 has no tokens; remove it or give it text",
        "prompts: row 2 has 60 tokens, with 8 new ones more than the model's context of 64; "
        "shorten or remove it, ask for fewer new tokens, or turn truncation on",
    )
    with pytest.raises(UserError, match="prompts: 15 more rows like these"):
        check_lengths([0] * 25, 8, None)
    with pytest.raises(UserError, match="row 0 has 70 tokens"):
        sample(make_policy(), make_tokenizer(), ["w1 " * 70], max_new_tokens=1)
