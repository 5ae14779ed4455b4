"""A judge behind a server, against a real one on this machine that fails in every way that servers do."""

import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model

from rlhf.chat_api import TRIES
from rlhf.config import load_config
from rlhf.errors import Interrupted, UserError
from rlhf.evaluation.config import EndpointSection, EvaluationConfig
from rlhf.evaluation.endpoint_judge import PATIENCE, VERDICTS, EndpointJudge, JudgeGone, parse_verdict
from rlhf.evaluation.judges import Answers, compare_in_both_orders
from rlhf.evaluation.policy import evaluate_policy
from rlhf.records import write_jsonl
from rlhf.workspace import Workspace

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from chat_server import ChatServer, completion, failure

PROMPTS = [f"Prompt number {number}." for number in range(8)]


def asked(body):
    """Prompt and both answers, as the default question shows them."""
    [message] = body["messages"]
    found = re.search(
        r"\[Prompt\]\n(.*)\n\n\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nReply", message["content"], re.S
    )
    return found.groups()


def longer(number, body):
    _, a, b = asked(body)
    return completion("[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]")


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Starts a server with a way to reply; gives it, a way to make judges of it, and the waits they were spared."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened = []

    def start(reply, **options):
        server = ChatServer(reply)
        server.waits = []

        def judge():
            section = EndpointSection(**{"endpoint": server.url, "model": "m", "parallel": 1, **options})
            opened.append(EndpointJudge(section, tmp_path, key="judge.0", sleep=server.waits.append))
            return opened[-1]

        opened.append(server)
        return server, judge

    yield start
    for one in opened:
        one.stop() if isinstance(one, ChatServer) else one.__exit__(None, None, None)


def sides(num=4):
    """Pairs of which the first is longer in the first half."""
    first = [f"{'long ' * 3 if at < num / 2 else ''}first {at}" for at in range(num)]
    return [f"p{at}" for at in range(num)], Answers(first), Answers([f"long second {at}" for at in range(num)])


def test_a_question_shows_prompt_and_answers_and_both_orders_are_asked(serve):
    server, judge = serve(longer)
    compared, disagreement = compare_in_both_orders(judge(), *sides())
    assert compared.verdicts.tolist() == [1, 1, 0, 0] and disagreement == 0
    assert compared.first_scores is None
    assert len(server.requests) == 8
    assert asked(server.requests[0]) == ("p0", "long long long first 0", "long second 0")
    assert asked(server.requests[4]) == ("p0", "long second 0", "long long long first 0")
    assert set(server.requests[0]) == {"model", "messages", "temperature"}


def test_a_judge_that_always_says_a_is_known_for_it(serve):
    _, judge = serve(lambda number, body: completion("[[A]]"), parallel=3)
    compared, disagreement = compare_in_both_orders(judge(), *sides())
    assert compared.verdicts.tolist() == [0.5] * 4 and disagreement == 1


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("[[A]]", 1), ("A is fine, but [[B]]", 0), ("First [[A]], no: [[ c ]]", 0.5), ("b", 0), (" **A**. ", 1),
        ("(C)", 0.5), ("I prefer A", None), ("", None), ("[[D]]", None), ("AB", None),
    ],
)  # fmt: skip
def test_verdicts_are_read_from_replies(reply, verdict):
    assert parse_verdict(reply) == verdict


def test_a_reply_without_a_verdict_is_counted_and_its_pair_left_out(serve):
    def reply(number, body):
        return (
            completion("Who knows?") if asked(body)[0] == "p1" and "first" in asked(body)[1] else longer(number, body)
        )

    _, make = serve(reply)
    judge = make()
    compared, disagreement = compare_in_both_orders(judge, *sides())
    assert np.isnan(compared.verdicts[1]) and compared.verdicts[[0, 2, 3]].tolist() == [1, 0, 0]
    assert disagreement == 0 and (judge.num_unparsed, judge.num_questions) == (1, 8)


@pytest.mark.parametrize(
    "bad", [(200, {}, b"<html>welcome</html>"), (200, {}, b'{"choices": []}'), failure(400, "too long")]
)
def test_a_reply_that_is_none_is_counted_too(serve, bad):
    server, make = serve(lambda number, body: bad if number == 2 else longer(number, body))
    judge = make()
    compared, _ = compare_in_both_orders(judge, *sides())
    assert np.isnan(compared.verdicts).tolist() == [False, True, False, False] and judge.num_unparsed == 1
    # no word of the judge's: the next attempt asks for that one again, and for no other
    again = make()
    compared, _ = compare_in_both_orders(again, *sides())
    assert compared.verdicts.tolist() == [1, 1, 0, 0] and (again.num_unparsed, len(server.requests)) == (0, 9)
    compare_in_both_orders(make(), *sides())
    assert len(server.requests) == 9


def test_a_judge_that_never_gives_a_verdict_is_not_asked_for_long(serve):
    server, judge = serve(lambda number, body: completion("As an assistant,\nI cannot choose."))
    with pytest.raises(UserError, match=rf"judge.0: none of {PATIENCE} replies of m .* 'As an assistant, I cannot"):
        compare_in_both_orders(judge(), *sides(100))
    assert len(server.requests) == PATIENCE


def test_equal_answers_tie_and_are_not_asked_about(serve):
    server, judge = serve(longer)
    compared, _ = compare_in_both_orders(judge(), ["p", "q"], Answers(["same", "a"]), Answers(["same ", "bb"]))
    assert compared.verdicts.tolist() == [0.5, 0] and len(server.requests) == 2


def test_what_an_answer_says_does_not_fill_the_places_of_the_question(serve):
    server, judge = serve(longer)
    judge().compare(["{a} {b}"], Answers(["{b} {prompt}"]), Answers(["{a}"]))
    assert asked(server.requests[0]) == ("{a} {b}", "{b} {prompt}", "{a}")


def test_a_conversation_is_shown_turn_by_turn(serve):
    server, judge = serve(longer)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    judge().compare([turns], Answers(["a"]), Answers(["bb"]))
    assert asked(server.requests[0])[0] == "system: Be kind.\n\nuser: Hi"


def test_a_server_that_goes_away_costs_no_verdict_and_is_asked_for_the_rest_alone(serve, tmp_path):
    server, judge = serve(lambda number, body: longer(number, body) if server.is_up or number <= 5 else None)
    server.is_up = False
    with pytest.raises(JudgeGone, match=rf"\({TRIES} tries\)") as gone:
        compare_in_both_orders(judge(), *sides())
    assert gone.value.num_kept == 5
    assert server.waits == [1, 2, 4, 8] and len(server.requests) == 5 + TRIES
    # killed in the middle of a line
    with open(tmp_path / VERDICTS, "ab") as file:
        file.write(b'{"question": "torn')
    server.is_up = True
    compared, _ = compare_in_both_orders(judge(), *sides())
    assert compared.verdicts.tolist() == [1, 1, 0, 0]
    assert len(server.requests) == 5 + TRIES + 3
    compare_in_both_orders(judge(), *sides())
    assert len(server.requests) == 5 + TRIES + 3


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(serve):
    release = threading.Event()

    def reply(number, body):
        if number == 1:
            release.wait(20)
        return longer(number, body)

    server, judge = serve(reply, timeout_seconds=0.2)
    assert judge().compare(["p"], Answers(["aa"]), Answers(["b"])).verdicts.tolist() == [1]
    release.set()
    assert server.waits == [1]


def test_the_key_comes_from_the_variable_named_and_is_kept_nowhere(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    server, judge = serve(longer, key_env="JUDGE_KEY")
    judge().compare(["p"], Answers(["aa"]), Answers(["b"]))
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "secret" not in (tmp_path / VERDICTS).read_text()


# The whole evaluation


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"a": tiny_model(folder / "a", seed=1), "b": tiny_model(folder / "b", seed=2)}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)  # has tests of its own, and takes a second
    return Workspace.open(tmp_path / "home", progress=False, command="rlhf eval policy eval.yaml")


@pytest.fixture
def config(tmp_path, models):
    (tmp_path / "judge_beside_endpoint.py").write_text(
        "def letters(prompts, completions, **_):\n    return [len(text) for text in completions]\n"
    )
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    (tmp_path / "eval.yaml").write_text(
        f"""
candidate: {models["a"]}
baseline: {models["b"]}
data: {{sources: [{{path: held_out.jsonl}}]}}
judge:
  - {{endpoint: "http://127.0.0.1:1", model: judge-1, parallel: 1}}
  - {{function: "judge_beside_endpoint.py:letters"}}
generation: {{max_new_tokens: 8, temperature: 1.0}}
num_bootstrap: 200
tracking: {{wandb: "off"}}
"""
    )
    return lambda *overrides: load_config(tmp_path / "eval.yaml", EvaluationConfig, overrides)


def test_an_endpoint_and_a_function_judge_side_by_side(config, workspace, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server, _ = serve(lambda number, body: completion("no idea") if number == 1 else longer(number, body))
    summary = evaluate_policy(config(f"judge.0.endpoint={server.url}"), workspace)
    assert summary["judge"] == "judge-1"
    assert summary["wins"] + summary["ties"] + summary["losses"] == 7 and summary["num_unjudged"] == 1
    assert (summary["num_questions"], summary["num_unparsed"]) == (16, 1)
    assert "score_candidate" not in summary
    other = summary["judges"]["letters"]["candidate"]
    assert other["wins"] + other["ties"] + other["losses"] == 8 and "score" in other
    run = workspace.home / "runs" / summary["run"]
    verdicts = [json.loads(line)["verdict"] for line in (run / "samples.jsonl").read_text().splitlines()]
    assert verdicts.count(None) == 1
    for file in (path for path in run.rglob("*") if path.is_file()):
        assert b"sk-secret" not in file.read_bytes()


def test_a_judge_that_disappears_ends_in_one_line_and_the_run_goes_on(config, workspace, serve, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server, _ = serve(lambda number, body: longer(number, body) if server.is_up or number <= 6 else None)
    server.is_up = False
    settings = config(f"judge.0.endpoint={server.url}", "output.name=tiny/eval")
    with pytest.raises(Interrupted) as gone:
        evaluate_policy(settings, workspace.within(run_id="e1"))
    said = str(gone.value)
    assert "6 verdicts are kept: go on with `rlhf eval policy eval.yaml --resume e1`" in said and "\n" not in said
    server.is_up = True
    before = len(server.requests)
    summary = evaluate_policy(settings, workspace.within(run_id="e1"))
    assert len(server.requests) - before == 10 and summary["num_questions"] == 16
    assert summary["status"] == "done" and summary["artefact"] == "tiny/eval@v1"
    whole = evaluate_policy(settings, workspace)
    assert whole["win_rate"] == summary["win_rate"]


def test_a_server_that_never_answered_is_the_users_to_mend(config, workspace, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(
        UserError, match=r"judge: http://127.0.0.1:1/v1/chat/completions: .*it has given no verdict yet"
    ):
        evaluate_policy(config(), workspace)


def test_ctrl_c_keeps_the_verdicts(config, workspace, serve, monkeypatch):
    server, _ = serve(longer)
    original = EndpointJudge._keep

    def interrupted(self, *row):
        original(self, *row)
        if self.num_asked == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(EndpointJudge, "_keep", interrupted)
    with pytest.raises(Interrupted, match=r"all verdicts until now are kept: go on with .* --resume e1"):
        evaluate_policy(config(f"judge.0.endpoint={server.url}"), workspace.within(run_id="e1"))
    assert len((workspace.home / "runs" / "e1" / VERDICTS).read_text().splitlines()) >= 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("judge.0.endpoint=ftp://models", "judge.0.endpoint = 'ftp://models': address ftp://models: is no URL"),
        ("judge.0.endpoint=http://me:word@models", "holds a password, which would be written down"),
        ("judge.0.prompt=Which?", "lacks {prompt}, {a}, {b}"),
        ("judge.0.options={stream: true}", "stream: not to be set here"),
        ("judge.0.modl=x", "judge.0.modl = 'x': unknown key"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused_at_once(config, override, said):
    with pytest.raises(UserError) as caught:
        config(override)
    assert said in str(caught.value)


def test_a_key_that_was_named_has_to_be_there(config, workspace, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match=r"judge.0.key_env = 'JUDGE_KEY': the environment has no such variable"):
        evaluate_policy(config("judge.0.key_env=JUDGE_KEY"), workspace)
    assert not (workspace.home / "runs").exists()
