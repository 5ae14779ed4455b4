"""Completions from an OpenAI-compatible server, against a real one that fails in every way that servers do."""

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from chat_server import ChatServer, completion, failure

from labeling_app.drafts import AddOptions
from labeling_app.store import NewResponse, Store
from rlhf.chat_api import LONGEST_WAIT_SECONDS, TRIES
from rlhf.errors import UserError
from rlhf.pipeline.adding import add_sampled
from rlhf.pipeline.endpoint import EndpointWriter
from rlhf.pipeline.writing import Gone, Written

OPTIONS = {"max_tokens": 16, "temperature": 0.5, "top_p": 1.0}


def texts(written):
    return [response.content for response in written.responses]


@pytest.fixture
def serve(monkeypatch):
    """Starts a server with a way to reply; gives it and a writer that has learned to wait without waiting."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    started = []

    def start(reply, **options):
        server = ChatServer(reply)
        waits = []
        writer = EndpointWriter(server.url, "m", OPTIONS, **{"parallel": 1, "sleep": waits.append, **options})
        started.append((server, writer))
        server.waits = waits
        return server, writer

    yield start
    for server, writer in started:
        writer.__exit__(None, None, None)
        server.stop()


def test_a_request_is_openai_s_and_says_where_a_completion_is_from(serve):
    server, writer = serve(lambda number, body: completion(*(f"text {at}" for at in range(body["n"]))))
    conversation = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    first, second = writer.write(["hello", conversation], 2, seed=7)
    assert texts(first) == ["text 0", "text 1"]
    url = f"{server.url}/v1/chat/completions"
    assert second.responses[0] == NewResponse("text 0", "m", {**OPTIONS, "seed": 9, "endpoint": url})
    assert server.requests == [
        {"model": "m", "messages": [{"role": "user", "content": "hello"}], "n": 2, "seed": 7, **OPTIONS},
        {"model": "m", "messages": conversation, "n": 2, "seed": 9, **OPTIONS},
    ]
    assert server.paths == ["/v1/chat/completions"] * 2
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_url_may_be_given_to_any_depth(serve, tail):
    server, _ = serve(lambda number, body: completion("a"))
    with EndpointWriter(server.url + tail, "m", OPTIONS) as writer:
        writer.write(["p"], 1, seed=0)
    assert server.paths == ["/v1/chat/completions"]


def test_the_key_comes_from_the_environment_and_is_kept_nowhere(serve, monkeypatch):
    server, _ = serve(lambda number, body: completion("a"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with EndpointWriter(server.url.replace("//", "//user:word@"), "m", OPTIONS) as writer:
        [written] = writer.write(["p"], 1, seed=0)
    assert server.headers[0]["Authorization"] in ("Bearer sk-secret", "Basic dXNlcjp3b3Jk")
    assert "secret" not in repr(written) and "word" not in repr(written)
    with pytest.raises(UserError, match="would cross the network unencrypted"):
        EndpointWriter("http://models.example.org", "m", OPTIONS)


@pytest.mark.parametrize("url", ["models", "ftp://models", "http://", "file:///etc/passwd"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(UserError, match="--endpoint"):
        EndpointWriter(url, "m", OPTIONS)


def test_a_server_that_writes_one_at_a_time_is_asked_again(serve):
    server, writer = serve(lambda number, body: completion(f"text {body['seed']}"))
    [written] = writer.write(["p"], 3, seed=5)
    assert texts(written) == ["text 5", "text 6", "text 7"]
    assert [body["n"] for body in server.requests] == [3, 2, 1]


def test_a_server_that_refuses_several_or_a_seed_is_asked_for_one(serve):
    def reply(number, body):
        return failure(400, "n must be 1") if body["n"] > 1 or "seed" in body else completion(f"text {number}")

    _, writer = serve(reply)
    [written] = writer.write(["p"], 2, seed=0)
    assert texts(written) == ["text 2", "text 4"]


@pytest.mark.parametrize(
    ("headers", "waits"),
    [({"Retry_After": "3"}, [3.0, 3.0]), ({}, [1.0, 2.0]), ({"Retry_After": "soon"}, [1.0, 2.0])],
)
def test_too_many_requests_are_sent_again_when_the_server_says(serve, headers, waits):
    server, writer = serve(lambda number, body: failure(429, **headers) if number < 3 else completion("a"))
    assert texts(writer.write(["p"], 1, seed=0)[0]) == ["a"]
    assert server.waits == waits


def test_the_time_to_retry_may_be_a_date(serve):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    server, writer = serve(lambda number, body: failure(503, Retry_After=later) if number < 2 else completion("a"))
    assert texts(writer.write(["p"], 1, seed=0)[0]) == ["a"]
    assert 20 < server.waits[0] <= 40


def test_a_server_that_asks_for_too_much_patience_is_given_up(serve):
    server, writer = serve(lambda number, body: failure(429, "quota", Retry_After=str(LONGEST_WAIT_SECONDS + 1)))
    with pytest.raises(Gone, match="429 quota; it asks for 121 s of patience"):
        writer.write(["p"], 1, seed=0)
    assert server.waits == []


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(serve):
    release = threading.Event()

    def reply(number, body):
        if number == 1:
            release.wait(20)
        return completion("a")

    server, writer = serve(reply, timeout_seconds=0.2)
    assert texts(writer.write(["p"], 1, seed=0)[0]) == ["a"]
    release.set()
    assert server.waits == [1.0]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((200, {}, b"<html>welcome</html>"), "replied something that is not JSON: '<html>welcome</html>'"),
        ((200, {}, b"\xff\xfe"), "replied something that is not JSON"),
        ((200, {}, b"[1, 2]"), "replied without a completion: [1, 2]"),
        ((200, {}, b'{"choices": []}'), "replied without a completion"),
        ((200, {}, b'{"choices": "many"}'), "replied without a completion"),
        ((200, {}, b'{"choices": [{"message": {"content": null}}]}'), "replied without a completion"),
        (completion("half \ud83d", "\ude00 half"), "replied without a completion"),
        (completion("  ", "\n"), "wrote nothing but blanks"),
        (failure(400, "the prompt is too long"), "400 the prompt is too long"),
    ],
)
def test_nonsense_costs_that_prompt_alone(serve, reply, why):
    def answer(number, body):
        return completion("a", "b") if "good" in str(body["messages"]) else reply

    _, writer = serve(answer)
    bad, good = writer.write(["bad", "good"], 2, seed=0)
    assert texts(bad) == [] and why in bad.why
    assert texts(good) == ["a", "b"]


def test_a_text_cut_within_a_character_is_asked_for_again(serve):
    _, writer = serve(
        lambda number, body: completion("whole \U0001f600", "half \ud83d") if number == 1 else completion("b")
    )
    [written] = writer.write(["p"], 2, seed=0)
    assert texts(written) == ["whole \U0001f600", "b"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_everything_is_given_up_at_once(serve, status):
    server, writer = serve(lambda number, body: failure(status, "go away"))
    with pytest.raises(Gone, match=f"{status} go away"):
        writer.write(["a", "b", "c"], 1, seed=0)
    assert len(server.requests) == 1 and server.waits == []


def test_a_server_that_is_not_there_is_tried_a_few_times(serve):
    server, writer = serve(lambda number, body: None)
    with pytest.raises(Gone, match=rf"\({TRIES} tries\)"):
        writer.write(["p"], 1, seed=0)
    assert server.waits == [1.0, 2.0, 4.0, 8.0]
    assert len(server.requests) == TRIES


def test_several_requests_are_under_way_at_once_and_replies_keep_their_order(serve):
    together = threading.Barrier(4)

    def reply(number, body):
        together.wait(20)
        return completion(body["messages"][0]["content"])

    _, writer = serve(reply, parallel=4)
    prompts = [f"prompt {number}" for number in range(8)]
    assert [texts(written) for written in writer.write(prompts, 1, seed=0)] == [[prompt] for prompt in prompts]


def test_what_was_written_before_the_server_went_away_is_kept_and_the_same_command_goes_on(serve, tmp_path):
    asked = []

    def reply(number, body):
        asked.append(body["messages"][0]["content"])
        return completion(f"one {number}", f"two {number}") if server.is_up or number <= 40 else None

    server, writer = serve(reply)
    server.is_up = False
    prompts = [(f"prompt {number}", {"topic": number}) for number in range(70)]
    with Store.open(tmp_path) as store:
        done = []
        first = add_sampled(store, prompts, [writer], AddOptions(), "q", num=2, progress=done.append)
        assert len(first.task_ids) == 40 and first.gone is not None and first.problems == []
        assert done == [32, 64]
        server.is_up = True
        asked.clear()
        second = add_sampled(store, prompts, [writer], AddOptions(), "q", num=2)
        assert (len(second.task_ids), second.num_already, second.gone) == (30, 40, None)
        assert asked == [prompt for prompt, _ in prompts[40:]]
        third = add_sampled(store, prompts, [writer], AddOptions(), "q", num=2)
        assert (third.task_ids, third.num_already) == ([], 70)
        [queue] = store.status()
        assert queue.num_tasks == 70
        claimed = store.claim(store.add_user("ann").id, "q")
        assert claimed.mode == "pair" and claimed.prompt == "prompt 0"


def test_ctrl_c_keeps_what_was_written(tmp_path):
    class Impatient:
        name = "m"

        def write(self, prompts, num, seed):
            if seed:
                raise KeyboardInterrupt
            return [Written([NewResponse("a"), NewResponse("b")]) for _ in prompts]

    with Store.open(tmp_path) as store:
        sampled = add_sampled(store, [(str(n), {}) for n in range(40)], [Impatient()], AddOptions(), "q", num=2)
        assert (len(sampled.task_ids), sampled.gone) == (32, "stopped")
        assert store.status()[0].num_tasks == 32


def test_two_models_share_the_completions(serve, tmp_path):
    _, one = serve(lambda number, body: completion(*(f"one {at}" for at in range(body["n"]))))
    _, two = serve(lambda number, body: completion(*(f"two {at}" for at in range(body["n"]))))
    two.name = "n"
    with Store.open(tmp_path) as store:
        add_sampled(store, [("p", {})], [one, two], AddOptions(mode="rank"), "q", num=3)
        add_sampled(store, [("p", {})], [one, two], AddOptions(mode="ab", overlap=2), "ab", num=2)
        user = store.add_user("ann").id
        assert sorted(content for _, content in store.claim(user, "q").responses) == ["one 0", "one 1", "two 0"]
        claimed = store.claim(user, "ab")
        assert (claimed.mode, sorted(content for _, content in claimed.responses)) == ("ab", ["one 0", "two 0"])
