import logging
import math
import threading
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from ppo.tiny import CHAT_TEMPLATE, make_classifier, make_policy, make_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from rlhf.errors import UserError
from rlhf.scoring import (
    Ensemble,
    FunctionScorer,
    NonFiniteError,
    RewardModelScorer,
    Scorer,
    ScorerError,
    WeightedScorer,
)

PROMPTS = ["w1 w2", "w3", "w4 w5 w6 w7", "w8 w9"]
COMPLETIONS = [" w5", " w6 w7 w8 w9 w10", "", " w5 w5"]
# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def make_encoder() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=1,
    )
    return BertForSequenceClassification(config)


def make_lora() -> Any:
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], modules_to_save=["score"])
    return get_peft_model(make_classifier(), config)


@pytest.mark.parametrize("make_model", [make_classifier, make_encoder, make_lora], ids=["decoder", "encoder", "lora"])
def test_a_score_does_not_depend_on_the_rows_beside_it(make_model: Any) -> None:
    model = make_model().train()
    together = RewardModelScorer(model, make_tokenizer(), batch_size=4).score(PROMPTS, COMPLETIONS)
    alone = RewardModelScorer(model, make_tokenizer(), batch_size=1).score(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert len(set(alone.tolist())) == 4
    assert model.training


def test_text_is_read_as_in_reward_training() -> None:
    """TRL's RewardTrainer tokenises `prompt + chosen + eos`, the EOS added where it is missing."""
    model, tokenizer = make_classifier(), make_tokenizer()
    scorer = RewardModelScorer(model, tokenizer, offset=0.25)
    ids = tokenizer("w1 w2 w5<eos>", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[4, 5, 8, 1]]
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, 0] - 0.25
    for completion in (" w5", " w5<eos>"):
        torch.testing.assert_close(scorer.score(["w1 w2"], [completion])[0], expected, atol=1e-6, rtol=0)
    assert RewardModelScorer(model, tokenizer, append_eos=False).encode("w1 w2", " w5") == [4, 5, 8]


def test_conversations_are_read_under_the_models_own_template() -> None:
    tokenizer = make_tokenizer()
    scorer = RewardModelScorer(make_classifier(), tokenizer)
    prompt = [{"role": "user", "content": "w5"}]
    with pytest.raises(UserError, match="its tokenizer has no chat template"):
        scorer.score([prompt], ["w6"])
    tokenizer.chat_template = CHAT_TEMPLATE
    assert scorer.encode(prompt, "w6") == [3, 8, 3, 9]  # w0 w5 w0 w6


def test_a_text_that_is_too_long_loses_its_beginning_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    scorer = RewardModelScorer(make_encoder(), make_tokenizer())
    assert scorer.max_length == 16
    with caplog.at_level(logging.WARNING):
        long, longer, cut = scorer.score(["w1 " * 30, "w1 " * 40, "w1 " * 14], ["w5", "w5", "w5"])
    assert long == longer == cut  # 14 of the prompt, the word and EOS are what is left of each
    assert scorer.num_truncated == 2
    assert len(caplog.records) == 1
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "w1"
    keeping = RewardModelScorer(make_encoder(), tokenizer, max_length=3)
    assert keeping._truncate(torch.tensor([4, 5, 6, 7])).tolist() == [4, 6, 7]


def test_a_model_that_cannot_score_is_refused() -> None:
    with pytest.raises(UserError, match="judge: a reward model has one output, this LlamaForCausalLM has 2"):
        RewardModelScorer(make_policy(), make_tokenizer(), "judge")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither model nor tokenizer has a pad token among"):
        RewardModelScorer(make_classifier(pad_token_id=None), tokenizer)


def test_a_nan_of_the_model_is_named() -> None:
    model = make_classifier()
    with torch.no_grad():
        model.score.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="judge: score of row 0 of the batch is nan \\(1 of 1 rows"):
        RewardModelScorer(model, make_tokenizer(), "judge").score(["w1"], ["w2"])


def test_a_function_is_given_prompts_completions_and_columns() -> None:
    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [len(p) + len(c) + n for p, c, n in zip(prompts, completions, columns["n"], strict=True)]

    scorer = FunctionScorer(reward)
    assert isinstance(scorer, Scorer)
    assert scorer.name == "reward"
    assert scorer.score(["ab", "a"], ["c", "d"], {"n": [10, 20], "other": [0, 0]}).tolist() == [13.0, 22.0]


def test_a_function_without_keywords_is_given_the_columns_it_names() -> None:
    def reward(completions: list[str], prompts: list[str], n: list[int]) -> list[int]:
        return n

    assert FunctionScorer(reward).score(["a"], ["b"], {"n": [7], "other": [0]}).tolist() == [7.0]


def test_a_function_sees_conversations_as_messages() -> None:
    def reward(prompts: list[Any], completions: list[Any]) -> list[float]:
        return [float(completions[0] == [{"role": "assistant", "content": "hello"}])]

    assert FunctionScorer(reward).score([[{"role": "user", "content": "hi"}]], ["hello"]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ([1.0], UserError, "reward function f: returned 1 scores for 2 completions"),
        ([1.0, None], NonFiniteError, "reward function f: score of row 1 of the batch is nan"),
        ([math.inf, 1.0], NonFiniteError, "reward function f: score of row 0 of the batch is inf"),
        (["good", "bad"], UserError, "reward function f: expected a list of numbers"),
        ("11", UserError, "reward function f: expected a list of numbers, found '11'"),
        (["1", "1"], UserError, "reward function f: expected a list of numbers"),
        ({0: 1.0, 1: 2.0}, UserError, "reward function f: expected a list of numbers"),
        (3.0, UserError, "reward function f: expected a list of numbers, found 3.0"),
    ],
)
def test_a_function_that_answers_wrongly_is_named(result: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FunctionScorer(lambda prompts, completions: result, name="f").score(["a", "b"], ["c", "d"])


def test_a_weighted_score_is_the_weighted_sum() -> None:
    one = FunctionScorer(lambda prompts, completions: [1.0, 2.0], name="one")
    two = FunctionScorer(lambda prompts, completions: [10.0, 20.0], name="two")
    mixed = WeightedScorer([one, two], [0.5, -1.0])
    assert mixed.score(["a", "b"], ["c", "d"]).tolist() == [-9.5, -19.0]
    assert {k: v.tolist() for k, v in mixed.score_each(["a", "b"], ["c", "d"]).items()} == {
        "one": [1.0, 2.0],
        "two": [10.0, 20.0],
    }
    with pytest.raises(UserError, match="reward_weights: 1 weights for 2 scorers"):
        WeightedScorer([one, two], [1.0])
    with pytest.raises(UserError, match="two scorers have one name"):
        WeightedScorer([one, one])


def test_a_function_that_raises_is_named_with_the_place():
    def broken(prompts, completions):
        return [1 / 0 for _ in completions]

    with pytest.raises(UserError, match=r"reward function broken: raised ZeroDivisionError: .*test_scoring.py:\d+\)"):
        FunctionScorer(broken).score(["p"], ["c"])


# ---- Functions that do not do what they should ----


def test_a_function_that_hangs_is_given_up_and_the_next_call_is_made_in_a_new_thread() -> None:
    go_on = threading.Event()
    seen: list[str] = []

    def slow(prompts: list[str], completions: list[str]) -> list[float]:
        seen.append(threading.current_thread().name)
        if len(seen) == 1:
            go_on.wait()
        return [1.0] * len(completions)

    scorer = FunctionScorer(slow)
    scorer.timeout = 0.05
    with pytest.raises(ScorerError, match=r"reward function slow: did not return within 0.05 s \(reward_timeout\)"):
        scorer.score(["a"], ["b"])
    go_on.set()
    scorer.timeout = 60.0
    assert scorer.score(["a"], ["b"]).tolist() == [1.0]
    assert seen == ["reward function slow"] * 2


def test_what_is_raised_in_the_thread_is_told_as_it_is_without_one() -> None:
    def broken(prompts: list[str], completions: list[str]) -> list[float]:
        return [1.0 / 0]

    lines = set()
    for timeout in (None, 60.0):
        scorer = FunctionScorer(broken)
        scorer.timeout = timeout
        with pytest.raises(ScorerError, match="broken: raised ZeroDivisionError") as error:
            scorer.score(["a"], ["b"])
        lines.add(str(error.value))
    assert len(lines) == 1


def test_calls_with_a_limit_are_made_in_one_thread() -> None:
    threads: list[int] = []

    def fine(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        threads.append(threading.get_ident())
        return [0.0]

    scorer = FunctionScorer(fine)
    scorer.timeout = 60.0
    for _ in range(3):
        scorer.score(["a"], ["b"])
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_an_asynchronous_function_is_refused() -> None:
    async def later(prompts: list[str], completions: list[str]) -> list[float]:
        return [0.0]

    with pytest.raises(UserError, match="reward function later: is asynchronous"):
        FunctionScorer(later)


def test_what_a_function_changes_of_what_it_was_given_is_its_own() -> None:
    def changes(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        prompts[0].append(completions[0][0])
        prompts[0][0]["content"] = "changed"
        columns["facts"][0]["of"].append(3)
        columns["prompt_ids"][0].clear()
        return [0.0]

    prompts = [[{"role": "user", "content": "hi"}]]
    columns = {"facts": [{"of": [1, 2]}], "prompt_ids": [[4, 5]]}

    class Ours:
        name = "ours"

        def score(self, prompts: Any, completions: Any, columns: Any = None) -> torch.Tensor:
            columns["facts"][0]["of"].append(4)
            return torch.zeros(1)

    WeightedScorer([FunctionScorer(changes), Ours()]).score(prompts, ["hello"], columns)
    assert prompts == [[{"role": "user", "content": "hi"}]]
    assert columns == {"facts": [{"of": [1, 2]}], "prompt_ids": [[4, 5]]}


# ---- Scorers that a user wrote ----


class Own:
    """A scorer that returns what it is told to, or raises it."""

    name = "own"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def score(self, prompts: Any, completions: Any, columns: Any = None) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (torch.ones(1), r"scorer own: returned a tensor \[1\] for 2 completions; return a float32 tensor \[2\], one"),
        (torch.ones(2, 1), r"scorer own: returned a tensor \[2, 1\] for 2 completions"),
        (torch.tensor(1.0), r"scorer own: returned a tensor \[\] for 2 completions"),
        ([1.0, 2.0], r"scorer own: returned \[1.0, 2.0\] for 2 completions"),
        (RuntimeError("down"), r"scorer own: raised RuntimeError: down \(.*test_scoring.py:\d+\)"),
    ],
)
def test_a_scorer_that_answers_wrongly_is_named(answer: Any, line: str) -> None:
    with pytest.raises(ScorerError, match=line):
        WeightedScorer([Own(answer)]).score_each(["a", "b"], ["c", "d"])


def test_the_scores_of_a_scorer_are_float32_on_the_cpu_and_finite() -> None:
    scores = WeightedScorer([Own(torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True))])
    found = scores.score_each(["a", "b"], ["c", "d"])["own"]
    assert (found.tolist(), found.dtype, found.requires_grad) == ([1.0, 2.0], torch.float32, False)
    with pytest.raises(NonFiniteError, match="scorer own: score of row 1 of the batch is nan"):
        WeightedScorer([Own(torch.tensor([1.0, math.nan]))]).score(["a", "b"], ["c", "d"])


def test_a_scorer_that_hangs_is_given_up() -> None:
    go_on = threading.Event()

    class Slow:
        name = "slow"

        def score(self, prompts: Any, completions: Any, columns: Any = None) -> torch.Tensor:
            go_on.wait(timeout=30)  # no longer than that where nobody gives it up
            return torch.zeros(len(completions))

    scorer = WeightedScorer([Slow()])
    scorer.prepare([], timeout=0.05)
    with pytest.raises(ScorerError, match=r"scorer slow: did not return within 0.05 s \(reward_timeout\)"):
        scorer.score(["a"], ["b"])
    go_on.set()


# ---- Ensembles ----


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mean", [2.0, 4.0]),
        ("worst", [1.0, 4.0]),
        ("mean_minus_std", [2.0 - 0.5 * (2 / 3) ** 0.5, 4.0]),  # of 1, 2, 3 and of three times 4
    ],
)
def test_reward_models_make_one_score(kind: Any, expected: list[float]) -> None:
    scores = torch.tensor([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]])
    assert Ensemble(kind, 0.5)(scores).tolist() == pytest.approx(expected)


class Fixed(RewardModelScorer):
    """A reward model as far as a mix can tell."""

    def __init__(self, name: str, *scores: float) -> None:
        self.name, self.scores = name, scores

    def score(self, prompts: Any, completions: Any, columns: Any = None) -> torch.Tensor:
        return torch.tensor(self.scores)


def test_functions_are_added_to_an_ensemble_of_models() -> None:
    def bonus(prompts: list[str], completions: list[str]) -> list[float]:
        return [10.0, 20.0]

    members = [Fixed("a", 1.0, 5.0), Fixed("b", 2.0, 2.0)]
    mix = WeightedScorer([*members, FunctionScorer(bonus)], [1.0, 2.0, 0.1], ensemble=Ensemble("worst"))
    # a: 1, 5; b twice: 4, 4; the function's tenth: 1, 2
    assert mix.score(["x", "y"], ["x", "y"]).tolist() == [2.0, 6.0]
    each = mix.score_each(["x", "y"], ["x", "y"])
    assert mix.spread(each).tolist() == [1.5, 0.5]  # type: ignore[union-attr]
    assert WeightedScorer(members).spread(each) is None


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="reward_ensemble = worst: it takes two or more reward models, and there are 1"):
        WeightedScorer([Fixed("a", 1.0)], ensemble=Ensemble("worst"))


def test_scores_without_padding_are_those_of_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = RewardModelScorer(make_classifier(), make_tokenizer(), batch_size=2)
    assert scorer._logits_without_padding([torch.tensor([4, 5, 8, 1])]) is not None
    packed = scorer.score(PROMPTS, COMPLETIONS)
    monkeypatch.setattr(scorer, "_logits_without_padding", lambda rows: None)
    torch.testing.assert_close(packed, scorer.score(PROMPTS, COMPLETIONS), atol=1e-6, rtol=0)
