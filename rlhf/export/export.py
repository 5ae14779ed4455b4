"""One folder with a model that anyone can load: adapters merged, or the adapter by itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.export.card import CardModel, model_card, public_name, published_scorers
from rlhf.export.config import Format
from rlhf.export.folders import check_target, replaced, write_marker
from rlhf.modeling import (
    REWARD_FILE,
    ModelSource,
    RewardFile,
    adapted_outputs,
    find_model,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    num_member_adapters,
    read_reward_file,
    save_model,
)
from rlhf.registry import Registry

CARD = "README.md"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", REWARD_FILE)


def export_model(
    ref: str,
    path: Path | str,
    *,
    registry: Registry,
    format: Format = "merged",  # noqa: A002 - what the config calls it
    dtype: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the model that `ref` names into the folder `path`, with its tokenizer and a card that names its ancestors.

    The folder appears in one step, and takes the place of an earlier export in one step; a process that is killed on
    the way leaves what was there before.

    Args:
        ref: a registry ref, a folder or a Hub id; a policy, SFT or base model, or a reward model.
        path: a folder that is not there yet, is empty, or holds an earlier export.
        registry: where `ref` is looked up (and verified) and its ancestors are known.
        format: `merged`, a whole model that stands alone, or `adapter`, the adapter by itself.
        dtype: float32, bfloat16 or float16; that of the stored weights when left out. Adapters are merged in float32.
        overwrite: replace a folder that is no earlier export.

    Returns:
        `path`, `format`, `ref`, `kind`, `dtype`, `num_parameters`, `bytes`, and the `sha256` of every file.

    Raises:
        UserError: there is no such model, it has no adapter, or `path` must not be replaced. Nothing has been written.
    """
    target = Path(path).expanduser().absolute()
    check_target(target, registry.home, overwrite=overwrite)
    source = find_model(ref, registry, key="model")
    if num_members := num_member_adapters(source):
        raise UserError(
            f"model = {source.ref}: is an ensemble of {num_members} adapters, and neither transformers nor PEFT has a "
            "model of that kind to export it as; train an ensemble of heads (ensemble.members: heads) to export one"
        )
    if format == "adapter" and not source.is_adapter:
        raise UserError(f"format = 'adapter': {source.ref} is a whole model, without an adapter; export it as merged")
    if format == "adapter" and dtype is not None:
        raise UserError(f"dtype = {dtype!r}: an adapter is exported as it is stored; leave dtype out")
    with replaced(target) as folder:
        model = _write_merged(source, folder, dtype) if format == "merged" else _write_adapter(source, folder)
        (folder / CARD).write_text(model_card(source, registry, model, target.name), encoding="utf-8")
        about = {
            "ref": source.artefact.ref if source.artefact else public_name(source),
            "digest": source.artefact.digest if source.artefact else None,
        }
        scorers = published_scorers(source.artefact) if source.artefact else []
        files = write_marker(folder, {**about, "format": format} | ({"scorers": scorers} if scorers else {}))
    return {
        "path": str(target),
        "format": format,
        "ref": source.ref,
        "kind": source.kind,
        "dtype": model.dtype,
        "num_parameters": model.num_parameters,
        "bytes": sum(entry["size"] for entry in files.values()),
        "sha256": {name: entry["sha256"] for name, entry in files.items()},
    }


def is_reward_model(source: ModelSource) -> bool:
    """Whether the model scores texts and does not write them."""
    if source.artefact is not None and source.kind in ("reward", "sft", "policy"):
        return source.kind == "reward"
    if source.is_adapter:
        task = json.loads((source.folder / "adapter_config.json").read_text()).get("task_type")
        return bool(task == "SEQ_CLS")
    architectures = _config(source).get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def _write_merged(source: ModelSource, folder: Path, dtype: str | None) -> CardModel:
    scores = is_reward_model(source)
    tokenizer = load_tokenizer(source, generates=not scores)
    model: Any = load_reward_model(source)[0] if scores else load_causal_lm(source)
    dtype = dtype or _stored_dtype(source)
    model.to(getattr(torch, dtype))
    _agree_on_tokens(model, tokenizer)
    save_model(model, tokenizer, folder)
    if scores:
        _copy(source.folder, folder, (REWARD_FILE,))
    return _about(
        source, "merged", scores, dtype, _num_parameters(model), tokenizer, model.config.num_labels if scores else 1
    )


def _write_adapter(source: ModelSource, folder: Path) -> CardModel:
    """The adapter's own files; it points to its base by Hub id where that has one, else by its ref."""
    from safetensors import safe_open

    scores = is_reward_model(source)
    tokenizer = load_tokenizer(source, generates=not scores)
    _copy(source.folder, folder, _ADAPTER_FILES)
    tokenizer.save_pretrained(folder)
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["base_model_name_or_path"] = public_name(source.base)
    if source.base and source.base.hub:
        values["revision"] = source.base.hub[1]
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 - not a mapping
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    outputs = adapted_outputs(source) if scores else 1
    return _about(source, "adapter", scores, dtype, sum(tensor.numel() for tensor in tensors), tokenizer, outputs)


def _about(
    source: ModelSource,
    format: Format,  # noqa: A002
    scores: bool,
    dtype: str,
    num_parameters: int,
    tokenizer: PreTrainedTokenizerBase,
    num_outputs: int,
) -> CardModel:
    return CardModel(
        name=source.artefact.name if source.artefact else public_name(source),
        format=format,
        scores=scores,
        dtype=dtype,
        num_parameters=num_parameters,
        conversational=tokenizer.chat_template is not None,
        reward=read_reward_file(source.folder) if scores else RewardFile(),
        num_outputs=num_outputs,
        appends_eos=scores and tokenizer.eos_token is not None,
    )


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)  # the bytes alone: the registry's files are read-only


def _agree_on_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding and end tokens that the tokenizer was given and the model does not know of yet.

    A classifier finds the last real token by its padding token, and `generate` stops at the end tokens of its config.
    """
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        if generation.pad_token_id is None:
            generation.pad_token_id = tokenizer.pad_token_id
        if generation.eos_token_id is None:
            generation.eos_token_id = tokenizer.eos_token_id


def _stored_dtype(source: ModelSource) -> str:
    config = _config(source)
    found = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return found if found in ("float32", "bfloat16", "float16") else "float32"


def _config(source: ModelSource) -> dict[str, Any]:
    """config.json of the whole model at the bottom."""
    bottom = source
    while bottom.is_adapter and bottom.base:
        bottom = bottom.base
    values: dict[str, Any] = json.loads((bottom.folder / "config.json").read_text(encoding="utf-8"))
    return values


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
