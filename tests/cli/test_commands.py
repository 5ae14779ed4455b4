"""The command line itself: help, one JSON object on stdout, exit codes, and how soon it answers."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.workspace import Workspace

STAGE = """
model: {ref: MODEL}
data: {sources: [{path: rows.jsonl}], dev_fraction: 0.3}
trainer: {max_steps: 2, per_device_train_batch_size: 4, activation_checkpointing: false}
output: {name: tiny/sft}
tracking: {wandb: off}
"""
SCRIPT = Path(sys.executable).parent / "rlhf"
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "gradio", "wandb", "matplotlib", "pandas")


def commands(command, path=()):
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def whole_tree():
    from rlhf.cli.main import app

    return list(commands(typer.main.get_command(app), ("rlhf",)))


def test_every_command_and_every_option_says_what_it_is():
    tree = whole_tree()
    assert {"rlhf sft", "rlhf reward", "rlhf ppo", "rlhf run", "rlhf demo", "rlhf export"} <= {path for path, _ in tree}
    for path, command in tree:
        assert command.help and command.help.strip()[0].isupper(), path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


@pytest.mark.parametrize("path", [path for path, _ in whole_tree()])
def test_every_command_has_a_help_page(rlhf, path):
    ended = rlhf(*path.split()[1:], "--help")
    assert ended.code == 0 and "Usage: " in ended.out and ended.err == ""


def in_fresh_python(*arguments, cwd, show=HEAVY):
    """Exit code, stderr and which of `show` were imported by a command in a process of its own."""
    code = (
        "import sys\nsys.argv = ['rlhf', *sys.argv[1:]]\nfrom rlhf.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    code = ended.code\n"
        f"sys.stdout.write('\\n@' + repr((code or 0, [name for name in {show!r} if name in sys.modules])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    ended, imported = eval(done.stdout.rpartition("@")[2])
    return ended, done.stderr, imported


@pytest.mark.parametrize("arguments", [["--help"], ["sft", "--help"], ["run", "--help"], ["models", "--help"]])
def test_help_imports_nothing_heavy(tmp_path, arguments):
    assert in_fresh_python(*arguments, cwd=tmp_path) == (0, "", [])


@pytest.mark.parametrize("command", ["sft", "reward", "ppo", "dpo", "rloo", "run"])
def test_a_typo_is_answered_before_torch_is_imported(tmp_path, command):
    (tmp_path / "bad.yaml").write_text("modle: {ref: x}\ntrainer: {learning_rte: 1e-5}\n")
    code, err, imported = in_fresh_python(command, "bad.yaml", cwd=tmp_path)
    assert code == 2 and imported == []
    assert "bad.yaml: modle = {'ref': 'x'}: unknown key" in err
    if command != "run":
        assert "bad.yaml: trainer.learning_rte = 1e-05: unknown key; did you mean trainer.learning_rate?" in err
    assert not (tmp_path / ".rlhf").exists()


@pytest.mark.slow
def test_help_is_there_in_half_a_second(tmp_path):

    def seconds():
        started = time.perf_counter()
        subprocess.run([SCRIPT, "--help"], cwd=tmp_path, capture_output=True, check=True)
        return time.perf_counter() - started

    assert statistics.median(seconds() for _ in range(3)) < 0.5


def test_json_is_one_object_on_stdout_and_nothing_else(tmp_path, models):
    """In a process of its own: bars, logs and warnings of libraries are to stay away from stdout."""
    rows = [{"prompt": f"p{n}", "completion": "c" * (n % 5 + 1)} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "stage.yaml").write_text(STAGE.replace("MODEL", str(models["causal"])))
    done = subprocess.run(
        [SCRIPT, "sft", "stage.yaml", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    summary = json.loads(done.stdout)
    assert summary["status"] == "done" and summary["artefact"] == "tiny/sft@v1"
    assert "Warning" not in done.stderr, done.stderr
    page = (tmp_path / ".rlhf" / "runs" / summary["run"] / "report.html").read_text()
    assert "tiny/sft@v1" in page


def test_without_json_there_is_a_table_with_the_whole_path_of_the_report(rlhf, write, models, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(Workspace, "write_report", lambda _, folder: (folder / "report.html").write_text(""))
    write("rows.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(16)])
    write("stage.yaml", STAGE.replace("MODEL", str(models["causal"])))
    ended = rlhf("sft", "stage.yaml")
    assert ended.code == 0, ended.err
    assert "tiny/sft@v1" in ended.out and "{" not in ended.out
    (report,) = [word for word in ended.out.split() if word.endswith("report.html")]
    assert Path(report).is_file()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            UserError(["a.yaml: b = 1: wrong", "a.yaml: c: is missing"]),
            2,
            "error: a.yaml: b = 1: wrong\nerror: a.yaml: c: is missing\n",
        ),
        (StoppedByMonitor("NaN in the reward"), 3, "stopped: NaN in the reward\n"),
        (Interrupted("go on with --resume x"), 75, "interrupted: go on with --resume x\n"),
        (KeyboardInterrupt(), 130, "interrupted: at once, without saving\n"),
    ],
)
def test_each_way_of_ending_has_its_code(rlhf, write, models, monkeypatch, error, code, said):
    ended = raising(rlhf, write, models, monkeypatch, error)
    assert (ended.code, ended.out, ended.err) == (code, "", said)


def test_what_goes_on_is_the_command_with_all_that_decides_where_it_looks(rlhf, write, models, monkeypatch, tmp_path):
    import sft.train

    seen = []
    monkeypatch.setattr(sft.train, "train_sft", lambda config, workspace: seen.append(workspace) or {})
    write("my stage.yaml", STAGE.replace("MODEL", str(models["causal"])))
    assert rlhf("--home", "some where", "sft", "my stage.yaml", "seed=1", "--json").code == 0
    assert rlhf("sft", "my stage.yaml", "--json").code == 0
    assert [workspace.command for workspace in seen] == [
        "rlhf --home 'some where' sft 'my stage.yaml' seed=1",
        "rlhf sft 'my stage.yaml'",
    ]
    assert seen[0].home == tmp_path / "some where"


def test_a_bug_of_ours_shows_where_it_happened(rlhf, write, models, monkeypatch):
    ended = raising(rlhf, write, models, monkeypatch, ZeroDivisionError("a bug"))
    assert ended.code == 1 and ended.out == ""
    assert "Traceback" in ended.err and "ZeroDivisionError: a bug" in ended.err
    assert ended.err.splitlines()[-1].startswith("error: this is a bug in rlhf")


def raising(rlhf, write, models, monkeypatch, error):
    import sft.train

    def train_sft(*_):
        raise error

    monkeypatch.setattr(sft.train, "train_sft", train_sft)
    write("stage.yaml", STAGE.replace("MODEL", str(models["causal"])))
    return rlhf("sft", "stage.yaml", "--json")


def test_no_arguments_show_the_help(rlhf):
    ended = rlhf()
    assert "Usage: " in ended.out + ended.err and ended.code in (0, 2)


def test_an_unknown_command_is_the_users_mistake(rlhf):
    ended = rlhf("sfft", "stage.yaml")
    assert ended.code == 2 and "No such command" in ended.err


def test_a_score_that_is_no_number_ends_with_3(rlhf, write, models):
    write("rows.jsonl", [{"prompt": f"p{n}"} for n in range(8)])
    write("nan_judge_of_this_test.py", "def score(prompts, completions):\n    return [float('nan')] * len(prompts)\n")
    write(
        "ppo.yaml",
        f"""
model: {{ref: {models["causal"]}}}
reward: [{{function: "nan_judge_of_this_test.py:score"}}]
data: {{sources: [{{path: rows.jsonl}}]}}
trainer: {{total_episodes: 8, per_device_train_batch_size: 4, response_length: 4, activation_checkpointing: false}}
output: {{name: tiny/policy, alias: candidate}}
tracking: {{wandb: off}}
""",
    )
    ended = rlhf("ppo", "ppo.yaml", "--json")
    assert (ended.code, ended.out) == (3, "")
    assert "stopped: reward function score: score of row 0 of the batch is nan" in ended.err
    assert "Traceback" not in ended.err


def test_export_writes_what_its_options_say(rlhf, models, tmp_path):
    from rlhf.registry import Registry

    Registry(tmp_path / "home").publish(models["causal"], kind="sft", name="tiny/sft")
    ended = rlhf("export", "tiny/sft", "out", "--dtype", "bfloat16", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["path"] == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    ended = rlhf("export", "tiny/sft", "out2", "--format", "zip")
    assert ended.code == 2 and "'zip'" in ended.errors[0]
    ended = rlhf("export", "tiny/gone", "out3")
    assert ended.code == 2 and not (tmp_path / "out3").exists()


def test_home_can_be_given(rlhf, tmp_path, models):
    from rlhf.registry import Registry

    Registry(tmp_path / "elsewhere").publish(models["causal"], kind="sft", name="tiny/sft")
    ended = rlhf("--home", tmp_path / "elsewhere", "models", "ls", "--json")
    assert [artefact["ref"] for artefact in json.loads(ended.out)] == ["tiny/sft@v1"]
