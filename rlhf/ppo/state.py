"""What a PPO checkpoint holds beside the policy, and how all of it is put back.

In a checkpoint folder: the policy as `save_pretrained` writes it, `value_model.safetensors`, `optimizer.pt`,
`scheduler.pt`, `rng.pt`, `ppo_state.json`, `trainer_state.json`. The three `.pt` are pickles of torch.save, and are
read with `weights_only`: tensors, numbers and containers of them, and no code.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf.errors import UserError

VALUE_MODEL = "value_model.safetensors"
PPO_STATE = "ppo_state.json"
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
RNG = "rng.pt"


def save_value_model(model: nn.Module, folder: Path) -> None:
    """Trainable weights and buffers; the frozen ones are given again at the next start."""
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in _own_state(model).items()},
        folder / VALUE_MODEL,
    )


def load_value_model(model: nn.Module, folder: Path) -> None:
    """Put a critic's weights back; raises UserError when they are another model's."""
    stored = load_file(folder / VALUE_MODEL)
    own = _own_state(model)
    _compare_names(set(stored), set(own), folder / VALUE_MODEL)
    _copy(stored, own, folder / VALUE_MODEL)


def load_policy(policy: nn.Module, folder: Path) -> None:
    """Put the weights that `save_pretrained` wrote back into a policy of the same make, bit for bit."""
    if isinstance(policy, PeftModel):
        active = policy.active_adapter
        path = folder / ("" if active == "default" else active) / "adapter_model.safetensors"
        if not path.is_file():
            raise UserError(f"{folder}: it holds no adapter {active!r}; resume with the model that the run began with")
        set_peft_model_state_dict(policy, load_file(path), adapter_name=active)
        return
    stored = {
        name: tensor for path in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(path).items()
    }
    own = dict(policy.state_dict().items())
    # Of tied weights save_pretrained writes one.
    written = {tensor.data_ptr() for name, tensor in own.items() if name in stored}
    needed = {name for name, tensor in own.items() if name in stored or tensor.data_ptr() not in written}
    _compare_names(set(stored), needed, folder)
    _copy(stored, own, folder)


def rng_state() -> dict[str, Any]:
    """States of the generators of Python, NumPy and torch (CPU and CUDA), as numbers and tensors."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (
            kind,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def save_rng(folder: Path) -> None:
    """Write `rng_state`."""
    torch.save(rng_state(), folder / RNG)


def load_rng(folder: Path) -> None:
    """Put the generators back to where `save_rng` found them."""
    set_rng_state(torch.load(folder / RNG, weights_only=True))


def set_rng_state(states: dict[str, Any]) -> None:
    """Put the generators back to where `rng_state` found them."""
    random.setstate(states["python"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def save_ppo_state(folder: Path, state: dict[str, Any]) -> None:
    """Write what is neither weight nor tensor: the KL controller and the position in the data."""
    (folder / PPO_STATE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_ppo_state(folder: Path) -> dict[str, Any]:
    """Read it again; raises UserError when the folder has none."""
    path = folder / PPO_STATE
    if not path.is_file():
        raise UserError(
            f"{folder}: it has no {PPO_STATE}, so it is not a checkpoint of this PPO trainer to resume from"
        )
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def _own_state(model: nn.Module) -> dict[str, torch.Tensor]:
    persistent = set(model.state_dict())
    state = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return state | {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def _compare_names(stored: set[str], own: set[str], source: Path) -> None:
    different = sorted(stored ^ own)
    if different:
        raise UserError(
            f"{source}: its weights are not those of this model ({len(different)} names differ, the first is "
            f"{different[0]}); resume with the models that the run began with"
        )


@torch.no_grad()
def _copy(stored: dict[str, torch.Tensor], own: dict[str, torch.Tensor], source: Path) -> None:
    for name, tensor in stored.items():
        if own[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, the model's has {tuple(own[name].shape)}"
            )
        own[name].copy_(tensor)
