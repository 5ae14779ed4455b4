"""`rlhf label serve` and `rlhf label users`: how they start, how they end, and what is said when they cannot."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_tools import new_task
from typer.testing import CliRunner
from web_tools import PASSWORD, add_tasks, submission

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store
from labeling_app.web import serve as serve_module
from labeling_app.web.serve import listen, mode_of, serve
from rlhf.cli.main import app
from rlhf.errors import UserError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RLHF_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def rlhf(*words: str) -> str:
    """What a command prints; its mistakes are raised."""
    result = CliRunner().invoke(app, ["label", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def says(home: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """What `serve` says before it serves."""
    monkeypatch.setattr(serve_module.uvicorn.Server, "run", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(serve_module, "_prepare_for_many", lambda: None)  # it is for the whole process
    lines: list[str] = []
    serve(home, LabelingConfig(**{"port": 0} | options), lines.append)
    return lines


def test_loopback_prints_a_link_and_a_fresh_one_at_each_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (says(home, monkeypatch) for _ in range(2))
    links = [
        re.fullmatch(r"Open \(works once\): http://127.0.0.1:\d+/\?token=([\w-]{43})", said[1])
        for said in (first, second)
    ]
    assert links[0] and links[1] and links[0][1] != links[1][1]
    with Store.open(home) as store:
        assert [(user.name, user.role) for user in store.users()] == [("local", "admin")]


def test_with_accounts_the_first_admin_is_invited_until_there_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind_proxy = {"host": "127.0.0.1", "public_url": "https://labels.example.org"}
    said = says(home, monkeypatch, **behind_proxy)
    assert (
        said[0]
        == "The ranking app is at https://labels.example.org/label/, its figures at https://labels.example.org/admin/"
    )
    assert re.fullmatch(
        r"Choose the admin's password \(works once\): https://labels.example.org/invite\?token=[\w-]{43}", said[1]
    )
    assert "Choose the admin's" in says(home, monkeypatch, **behind_proxy)[1]  # nobody has used the first one
    with Store.open(home) as store:
        token = store.write(accounts.invite, store.user("admin").id, "password").token
        store.write(accounts.choose_password, token, "hash", timedelta(days=1))
    assert "Choose the admin's" not in str(says(home, monkeypatch, **behind_proxy))


def test_on_loopback_a_closed_account_stays_closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(home, monkeypatch)
    rlhf("users", "disable", "local")
    with pytest.raises(UserError, match=r"user local: the account is closed.*`rlhf label users disable local --undo`"):
        says(home, monkeypatch)
    with Store.open(home) as store:
        assert store.user("local").disabled_at is not None
    rlhf("users", "disable", "local", "--undo")
    assert "works once" in says(home, monkeypatch)[1]


def test_an_admin_who_was_closed_stays_closed_while_others_rank(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for_others = {"public_url": "https://labels.example.org"}
    says(home, monkeypatch, **for_others)
    rlhf("users", "disable", "admin")
    assert says(home, monkeypatch, **for_others)[1] == (
        "Warning: user admin: the account is closed, so nobody can come in as admin; "
        "`rlhf label users disable admin --undo` opens it again"
    )
    with Store.open(home) as store:
        assert store.user("admin").disabled_at is not None
    rlhf("users", "disable", "admin", "--undo")
    assert "works once" in says(home, monkeypatch, **for_others)[1]


def test_an_empty_queue_is_warned_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert says(home, monkeypatch)[2:] == [
        "Warning: the queue default holds no tasks, so there is nothing to rank; no other queue holds any. "
        "`rlhf label add FILE --queue default` fills it, also while this runs."
    ]
    with Store.open(home) as store:
        for queue in ("a", "b", "gone"):
            store.add_tasks([new_task()], queue)
        store.withdraw("gone")
    for queue in ("nope", "gone"):
        assert says(home, monkeypatch, queue=queue)[2:] == [
            f"Warning: the queue {queue} holds no tasks, so there is nothing to rank; queues with tasks: a, b. "
            f"`rlhf label add FILE --queue {queue}` fills it, also while this runs."
        ]
    assert says(home, monkeypatch, queue="b")[2:] == []


def test_http_on_a_network_is_warned_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = says(home, monkeypatch, host="0.0.0.0", public_url="http://labels.example.org")
    assert "in the clear" in said[1]


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "loopback"),
        ({"host": "localhost"}, "loopback"),
        ({"host": "::1"}, "loopback"),
        ({"public_url": "https://labels.example.org"}, "accounts"),
        ({"host": "192.168.1.5"}, "accounts"),
    ],
)
def test_other_machines_need_accounts(options: dict[str, Any], mode: str) -> None:
    assert mode_of(LabelingConfig(**options)) == mode


def test_a_port_in_use(home: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}: cannot be listened to \(.*in use\); choose another"):
            rlhf("serve", "--port", str(port))
    assert not home.exists()


def test_an_address_of_another_machine(home: Path) -> None:
    with pytest.raises(UserError, match=r"192\.0\.2\.1:0: cannot be listened to"):
        rlhf("serve", "--host", "192.0.2.1", "--port", "0")


def test_a_host_without_an_address(home: Path) -> None:
    with pytest.raises(UserError, match=r"public_url: is missing; host 0\.0\.0\.0 has no address"):
        rlhf("serve", "--host", "0.0.0.0")


def test_a_missing_guidelines_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "labeling.yaml").write_text("guidelines: rules.md\n")
    with pytest.raises(
        UserError, match=re.escape(f"guidelines: {tmp_path / 'rules.md'}: cannot be read (No such file")
    ):
        rlhf("serve", "--config", "labeling.yaml")
    (tmp_path / "rules.md").write_bytes(b"Rank by \xff")
    with pytest.raises(UserError, match="is not UTF-8"):
        rlhf("serve", "--config", "labeling.yaml")


def test_wrong_keys_of_the_config(home: Path, tmp_path: Path) -> None:
    (tmp_path / "labeling.yaml").write_text("titel: Which?\nlease_seconds: 1\n")
    with pytest.raises(UserError) as error:
        rlhf("serve", "--config", "labeling.yaml", "--port", "70000")
    assert [line.partition(": ")[2][:20] for line in error.value.problems] == [
        "lease_seconds = 1: i",
        "port = 70000: input ",
        "titel = 'Which?': un",
    ]
    assert [line.partition(":")[0] for line in error.value.problems] == [
        "labeling.yaml",
        "command line",
        "labeling.yaml",
    ]


def test_the_guidelines_of_the_config_are_versioned(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.md"
    for text in ("one", "one", "two"):
        rules.write_text(text)
        says(home, monkeypatch, guidelines=str(rules))
    with Store.open(home) as store:
        assert store.guidelines("default") == (2, "two")


@pytest.fixture
def for_others(tmp_path: Path) -> list[str]:
    """The option that names a config with accounts."""
    (tmp_path / "labeling.yaml").write_text("host: 192.168.1.5\n")
    return ["--config", "labeling.yaml"]


def test_users_are_added_invited_closed_and_quarantined(home: Path, for_others: list[str]) -> None:
    assert rlhf("users") == "Nobody yet: `rlhf label users add NAME` adds somebody.\n"
    assert re.search(r"http://192.168.1.5:7860/invite\?token=[\w-]{43}\n$", rlhf("users", "add", "ana", *for_others))
    rlhf("users", "add", "ben", "--admin", *for_others)
    assert re.fullmatch(
        r"http://192.168.1.5:7860/invite\?token=[\w-]{43}\n", rlhf("users", "invite", "ana", *for_others)
    )
    rlhf("users", "disable", "ben")
    rlhf("users", "quarantine", "ana", "--reason", "too quick")
    listed = rlhf("users")
    assert re.search(r"ana +annotator +quarantined", listed)
    assert re.search(r"ben +admin +closed", listed)
    rlhf("users", "disable", "ben", "--undo")
    rlhf("users", "quarantine", "ana", "--undo")
    assert rlhf("users", "ls", "--json").count('"state": "invited"') == 2
    with Store.open(home) as store:
        assert [event.body.get("reason") for event in store.events() if event.kind == "quarantined"] == ["too quick"]


def test_links_name_the_address_of_the_config(home: Path, tmp_path: Path) -> None:
    (tmp_path / "labeling.yaml").write_text("public_url: https://labels.example.org\n")
    assert "https://labels.example.org/invite?token=" in rlhf("users", "add", "ana", "--config", "labeling.yaml")


@pytest.mark.parametrize("words", [["add", "ana"], ["invite", "local"], ["invite", "ben"]])
def test_where_there_are_no_accounts_no_dead_link_is_printed(home: Path, words: list[str]) -> None:
    with Store.open(home) as store:
        store.add_user("local", "admin")
        store.add_user("ben")
    with pytest.raises(UserError) as error:
        rlhf("users", *words)
    said = str(error.value)
    assert "host: 127.0.0.1 is for one person on this machine, whose link `rlhf label serve` prints" in said
    assert "Accounts for others need `host` or `public_url`" in said and "--config" in said
    with Store.open(home) as store:
        assert [user.name for user in store.users()] == ["local", "ben"]


def test_a_link_needs_a_port(home: Path, tmp_path: Path) -> None:
    (tmp_path / "labeling.yaml").write_text("host: 192.168.1.5\nport: 0\n")
    with pytest.raises(UserError, match="port: 0 takes any that is free"):
        rlhf("users", "add", "ana", "--config", "labeling.yaml")


def test_a_second_start_takes_the_place_of_the_first_link(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (says(home, monkeypatch)[1].partition("token=")[2] for _ in range(2))
    with Store.open(home) as store:
        with pytest.raises(accounts.InvitationSpent):
            store.write(accounts.enter, first, timedelta(days=1))
        store.write(accounts.enter, second, timedelta(days=1))


def test_imported_people_are_called_so_and_not_invited(
    home: Path, for_others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # where it is set, it is obeyed
    name = "imported.votes-of-a-long-file-name." + "x" * 29
    with Store.open(home) as store:
        store.add_user(name)
        store.add_user("ana")
    listed = rlhf("users")
    assert re.search(rf"{name} +annotator +imported +\d", listed)  # in one piece
    assert re.search(r"ana +annotator +invited", listed)
    for options in ([], for_others):
        with pytest.raises(UserError, match=f"user {name}: was imported"):
            rlhf("users", "invite", name, *options)
    for taken in ("imported.ben", "local"):
        with pytest.raises(UserError, match=f"user '{taken}': is a name for .*; choose another"):
            rlhf("users", "add", taken, *for_others)


@pytest.mark.parametrize(
    "words", [["invite", "nobody"], ["disable", "nobody"], ["quarantine", "nobody"], ["add", "A B"]]
)
def test_mistakes_about_users_are_named(home: Path, for_others: list[str], words: list[str]) -> None:
    options = for_others if words[0] in ("invite", "add") else []
    with pytest.raises(UserError, match=f"user '{words[1]}'"):
        rlhf("users", *words, *options)


# A server in a process of its own


class Served:
    """`rlhf label serve` as it is typed."""

    def __init__(self, home: Path, *words: str) -> None:
        command = [str(Path(sys.executable).with_name("rlhf")), "--home", str(home), "label", "serve", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline() for _ in range(2)]
        found = re.search(r"http://[^/]+", self.said[0])
        assert found is not None, self.said
        self.address = found[0]

    def end(self, how: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def serve_it(home: Path) -> Iterator[Any]:
    started: list[Served] = []

    def start(*words: str) -> Served:
        started.append(Served(home, *words))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.end(signal.SIGKILL)


def browser(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, headers={"origin": address}, trust_env=False, timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_when_told_to(serve_it: Any, how: signal.Signals) -> None:
    served = serve_it("--port", "0")
    with browser(served.address) as client:
        assert client.get("/login").status_code == 200
        assert served.end(how) == (0, "")


@pytest.mark.slow
def test_an_open_page_does_not_keep_it_from_ending(serve_it: Any) -> None:
    served = serve_it("--port", "0")
    with browser(served.address) as client:
        client.get("/", params={"token": served.said[1].strip().partition("token=")[2]})
        with client.stream("GET", "/admin/gradio_api/heartbeat/open") as beats:
            assert next(beats.iter_lines()) == "data: ALIVE"
            assert served.end(signal.SIGTERM) == (0, "")


@pytest.mark.slow
@pytest.mark.faults
def test_a_session_and_what_was_acknowledged_outlive_a_killed_server(serve_it: Any, home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    served = serve_it("--port", port)
    with Store.open(home) as store:
        add_tasks(store, 2)
    with browser(served.address) as client:
        client.get("/", params={"token": served.said[1].strip().partition("token=")[2]})
        sent = submission(client.post("/api/claim", json={}).json()["task"])
        before = client.post("/api/submit", json=sent).json()
        served.end(signal.SIGKILL)
        serve_it("--port", port)
        after = client.post("/api/submit", json=sent).json()
    assert after["receipt"] == before["receipt"]
    assert after["task"]["lease"] == before["task"]["lease"]


@pytest.mark.slow
def test_from_the_first_start_to_the_first_admin(serve_it: Any, home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home.parent / "labeling.yaml").write_text(f"port: {port}\npublic_url: http://127.0.0.1:{port}\n")
    served = serve_it("--config", "labeling.yaml")
    token = served.said[1].strip().partition("token=")[2]
    with browser(served.address) as client:
        client.post("/invite", data={"token": token, "password": PASSWORD, "again": PASSWORD})
        assert client.get("/api/me").json()["user"] == {"name": "admin", "role": "admin"}
        assert client.get("/admin/").status_code == 200
    with browser(served.address) as another:
        assert another.post("/login", data={"name": "admin", "password": PASSWORD}).status_code == 303


@pytest.mark.slow
def test_mistakes_end_with_code_2_and_one_line(home: Path) -> None:
    command = [str(Path(sys.executable).with_name("rlhf")), "label", "serve", "--host", "0.0.0.0"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"RLHF_HOME": str(home)}, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("error: public_url: is missing")
