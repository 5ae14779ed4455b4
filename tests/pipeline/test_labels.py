"""`simulate_labels`: where the model that writes is put."""

import torch
from tiny import tiny_model

from rlhf.config import load_config
from rlhf.generation import Completion
from rlhf.pipeline.labels import simulate_labels
from rlhf.pipeline.labels_config import LabelsConfig
from rlhf.records import write_jsonl
from rlhf.workspace import Workspace

TEXT = """
model: {ref: BASE, dtype: bfloat16}
data: {sources: [{path: rows.jsonl}]}
annotators: {function: "judge.py:rank"}
output: {name: tiny/preferences}
tracking: {wandb: off}
"""
JUDGE = """
from rlhf.records import Ranking
def rank(prompts, completions, seed):
    return [Ranking(prompt=p, completions=c, tiers=[[0], [1]]) for p, c in zip(prompts, completions)]
"""


def test_completions_are_written_on_the_accelerator(tmp_path, monkeypatch):
    seen = {}

    def sample(model, tokenizer, prompts, **_):
        seen.update(device=model.device.type, dtype=model.dtype)
        return [Completion(i, text, [65], True) for i in range(len(prompts)) for text in ("a", "b")]

    monkeypatch.setattr("rlhf.pipeline.labels.sample", sample)
    monkeypatch.setattr("rlhf.pipeline.labels.device", lambda: torch.device("meta"))
    base = tiny_model(tmp_path / "base")
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "labels.yaml").write_text(TEXT.replace("BASE", str(base)))
    config = load_config(tmp_path / "labels.yaml", LabelsConfig)
    summary = simulate_labels(config, Workspace.open(tmp_path / "home", progress=False))
    assert summary["num_rankings"] == 2
    assert seen == {"device": "meta", "dtype": torch.bfloat16}
