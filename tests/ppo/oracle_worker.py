"""Runs some updates of TRL 1.12's PPOTrainer and writes down what it computed. Started by test_parity with TRL 1.12 on
PYTHONPATH, in a process of its own; imports nothing of this project.

    python oracle_worker.py FOLDER...   (reads FOLDER/case.json and the models beside it, writes FOLDER/oracle.pt)
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

warnings.simplefilter("ignore")


def main(folder: Path) -> None:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    assert trl.__version__ == "1.12.0", trl.__version__
    case = json.loads((folder / "case.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    args = PPOConfig(output_dir=str(folder / "run"), **case["settings"])
    prompts = Dataset.from_dict({"input_ids": case["prompts"]})
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(folder / "policy"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "ref"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(folder / "reward"),
        value_model=AutoModelForSequenceClassification.from_pretrained(folder / "value"),
        train_dataset=prompts,
        eval_dataset=prompts,
    )
    updates: list[dict[str, Any]] = []
    whiten = ppo_trainer.masked_whiten

    def spy(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        whitened = whiten(values, mask, shift_mean)
        names = sys._getframe(1).f_locals
        if "returns" in names:  # the whitening of the advantages
            wanted = (
                "queries",
                "responses",
                "logprobs",
                "ref_logprobs",
                "values",
                "scores",
                "kl",
                "rewards",
                "returns",
            )
            seen = {name: names[name].clone() for name in (*wanted, "padding_mask", "padding_mask_p1")}
            seen["advantages"] = whitened.masked_fill(names["padding_mask"], 0)
            updates.append(seen)
        return whitened

    ppo_trainer.masked_whiten = spy
    logged: list[dict[str, float]] = []
    trainer.log = lambda metrics, *_: logged.append(dict(metrics))
    trainer.train()
    ppo_trainer.masked_whiten = whiten
    for seen, metrics in zip(updates, logged, strict=False):  # a summary of the run follows
        seen["metrics"] = {key: float(value) for key, value in metrics.items()}
    torch.save(updates, folder / "oracle.pt")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
