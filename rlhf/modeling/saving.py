"""Saving a model so that the folder stands for itself: safetensors, tokenizer, no pickle, no path of this machine."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from rlhf.modeling.ensembles import AdapterEnsemble
from rlhf.modeling.reward_models import RewardModel


def save_model(
    model: RewardModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, base_ref: str | None = None
) -> None:
    """Write `model` (the adapters alone, if it is one or an ensemble of them) and `tokenizer` into `folder`.

    Args:
        model: the model, PEFT model or ensemble, unwrapped.
        tokenizer: saved beside it, padding choice included.
        folder: made if need be.
        base_ref: what an adapter stands on, written into its config in place of a local path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, AdapterEnsemble):
        model.save_pretrained(folder)
    else:
        # of the adapters that share a base the trained one, not those of its critic or its reward models
        only = {"selected_adapters": [model.active_adapter]} if isinstance(model, PeftModel) else {}
        model.save_pretrained(folder, **only)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT writes a template full of blanks
    _edit(folder / "config.json", lambda config: config.pop("_name_or_path", None))
    if base_ref is not None:
        _edit(folder / "adapter_config.json", lambda config: config.update(base_model_name_or_path=base_ref))


def _edit(path: Path, change: Any) -> None:
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        change(config)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
