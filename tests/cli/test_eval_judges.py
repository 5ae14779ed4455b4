"""`rlhf eval policy` with a judge that goes away, and `rlhf eval frontier`, as they are typed."""

import json
import re
import sys
from pathlib import Path

from tiny import tiny_model

from rlhf.tracking import read_figures
from rlhf.tracking.metrics import keep_lines

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from chat_server import ChatServer, completion


def test_a_judge_that_goes_away_ends_with_75_and_resume_asks_for_the_rest(rlhf, write, models, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = ChatServer(lambda number, body: completion("[[A]]") if server.is_up or number <= 3 else None)
    server.is_up = False
    write("prompts.jsonl", [{"prompt": f"Is {n} odd?"} for n in range(5)])
    write(
        "eval.yaml",
        f"""
candidates: {{policy: {tiny_model(tmp_path / "other", seed=5)}}}
baseline: {models["causal"]}
data: {{sources: [{{path: prompts.jsonl}}]}}
judge: [{{endpoint: "{server.url}", model: m, parallel: 1}}]
generation: {{max_new_tokens: 12}}
num_bootstrap: 100
tracking: {{wandb: "off"}}
""",
    )
    try:
        ended = rlhf("eval", "policy", "eval.yaml", "generation.temperature=1", "--json")
        assert (ended.code, ended.out) == (75, "")
        (said,) = [line for line in ended.err.splitlines() if line.startswith("interrupted: ")]
        again = re.search(r"3 verdicts are kept: go on with `(rlhf eval policy .* --resume (\S+))`", said)
        server.is_up = True
        num_asked = len(server.requests)
        ended = rlhf(*again[1].split()[1:], "--json")
        assert ended.code == 0, ended.err
    finally:
        server.stop()
    summary = json.loads(ended.out)
    assert summary["run"] == again[2] and summary["win_rate"] == 0.5
    assert len(server.requests) - num_asked == summary["num_questions"] - 3


def test_the_frontier_of_a_run_is_printed_and_left_beside_its_figures(rlhf, tmp_path):
    folder = tmp_path / "home" / "runs" / "r1"
    folder.mkdir(parents=True)
    judged = [0.0, 2.0, 3.0, 1.0, 0.0, -1.0]
    rows = [
        {"stage": "ppo", "step": step, **{f"eval_objective/{name}": value for name, value in values.items()}}
        for step, judge in enumerate(judged)
        for values in [{"kl": step / 2, "scores": step, "score_se": 0.1, "judge": judge, "judge_se": 0.1}]
    ]
    keep_lines(folder / "metrics.jsonl", rows)
    found = json.loads(rlhf("eval", "frontier", "r1", "--json").out)
    assert (found["overoptimised"], found["peak_step"], len(found["points"])) == (True, 2, 6)
    assert "points" not in rlhf("eval", "frontier", str(folder)).out
    assert [figure.name for figure in read_figures(folder)] == ["frontier"]
    assert "there is none of that id" in rlhf("eval", "frontier", "gone").errors[0]
