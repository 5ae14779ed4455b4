import torch

from ppo.tiny import make_tokenizer
from rlhf.generation import SampledTokens
from rlhf.ppo.stopping import StopStrings, cut

PROMPT = [torch.tensor([3, 4])]  # w0 w1


def sampled(*ids: int) -> SampledTokens:
    mask = torch.ones((1, len(ids)), dtype=torch.bool)
    return SampledTokens(torch.tensor([ids]), mask, torch.zeros(1, dtype=torch.bool))


def test_a_completion_ends_with_the_token_that_completes_the_string() -> None:
    stops = StopStrings(("w4 w5",), make_tokenizer())
    found = cut(stops, sampled(6, 7, 8, 9, 10), PROMPT, pad_id=0)  # w3 w4 w5 w6 w7
    assert found.ids.tolist() == [[6, 7, 8, 0, 0]]
    assert found.mask.tolist() == [[True, True, True, False, False]]
    assert found.ended.tolist() == [True]


def test_the_earliest_of_several_strings_counts() -> None:
    stops = StopStrings(("w6", "w4"), make_tokenizer())
    assert cut(stops, sampled(6, 7, 8, 9), PROMPT, pad_id=0).mask.sum() == 2


def test_what_has_no_stop_string_stays_as_it_is() -> None:
    stops = StopStrings(("w9",), make_tokenizer())
    found = cut(stops, sampled(6, 7), PROMPT, pad_id=0)
    assert (found.mask.sum(), found.ended.tolist()) == (2, [False])
    # a string in the prompt is not the completion's
    assert cut(StopStrings(("w0",), make_tokenizer()), sampled(6, 7), PROMPT, pad_id=0).mask.sum() == 2


def test_scorers_read_the_text_before_the_string() -> None:
    stops = StopStrings((" w5", "\n\n"), make_tokenizer())
    assert stops.text(" w3 w4 w5 w6") == " w3 w4"
    assert stops.text("a\n\nb w5") == "a"
    assert stops.text("w3") == "w3"
