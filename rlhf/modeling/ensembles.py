"""Ensembles of adapters: M LoRAs of one base with a head each, held on that base in memory once and read in turn.

Heads on one backbone need nothing of this: they are a classifier with M labels.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf.errors import UserError
from rlhf.modeling.adapters import AdapterRewardModel, put_to_work, same_adapters_again
from rlhf.modeling.sources import ModelSource

PREFIX = "members"
"""Begins the names of an artefact's tensors: `members.0.<as PEFT names them>`."""


def member_name(number: int) -> str:
    """What PEFT calls member `number`: no such name is a part of another one, which PEFT could not tell apart."""
    return f"member{number:04d}"


class AdapterEnsemble(nn.Module):
    """M adapters of one frozen base, each with a head of its own. Its logits are [N, M]: each member in its turn.

    A state dict holds what is trained, and not the base.
    """

    def __init__(self, host: PeftModel, num_members: int) -> None:
        """`host` is a classifier of one label with the adapters `member_name(0)` ... attached."""
        super().__init__()
        self.host = host
        self.names = [member_name(i) for i in range(num_members)]
        self.config = copy.deepcopy(cast(Any, host).config)
        self.config.num_labels = num_members
        self.host.requires_grad_(False)
        for parameter in self._members().values():
            parameter.requires_grad_(True)

    def forward(self, **inputs: Any) -> Any:
        """The classifier's output; `logits` is [N, M]."""
        found = []
        for name in self.names:
            with put_to_work(self.host, [name]):
                output = self.host.get_base_model()(**inputs)
                found.append(output.logits)
        output.logits = torch.cat(found, dim=-1)
        return output

    def add_model_tags(self, tags: Any) -> None:
        """What trainers of TRL call; a folder of an ensemble has no card to write them on."""

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """Recompute activations in the backward pass, each with the adapter that was at work."""
        given = {"use_reentrant": False} | dict(activation_checkpointing_kwargs or {})
        if given["use_reentrant"]:
            raise UserError(
                "activation_checkpointing_kwargs: use_reentrant = true recomputes without knowing which adapter was at "
                "work; leave it out"
            )
        base: Any = self.host.get_base_model()
        enable = getattr(base, "activation_checkpointing_enable", None)
        enable = enable or base.gradient_checkpointing_enable  # its name in older transformers
        enable({"context_fn": same_adapters_again(self.host)} | given, **settings)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """The same by its name in older transformers."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **settings)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The members' tensors as they are saved, `members.<i>.<as PEFT names it>`."""
        return {name: parameter.detach() for name, parameter in self._members().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put back what `state_dict` gave, and nothing less: `strict` and `assign` are as if they were True and False.

        Raises:
            ValueError: a tensor is missing, is one too many or has another shape.
        """
        wanted = self._members()
        odd = sorted(set(wanted) ^ set(state_dict))
        if odd:
            raise ValueError(f"{odd[0]} stands in one of them alone")
        for name, parameter in wanted.items():
            found = state_dict[name]
            if parameter.shape != found.shape:
                raise ValueError(f"{name} is {list(found.shape)} and has to be {list(parameter.shape)}")
            with torch.no_grad():
                parameter.copy_(found)
        return nn.modules.module._IncompatibleKeys([], [])

    def save_pretrained(self, folder: Path) -> None:
        """Write the members' tensors into one file, and beside it the config that they have in common."""
        config = copy.copy(self.host.peft_config[self.names[0]])
        config.inference_mode = True
        config.save_pretrained(str(folder))
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})

    def _members(self) -> dict[str, nn.Parameter]:
        numbers = {name: i for i, name in enumerate(self.names)}
        found = {}
        for key, parameter in self.host.named_parameters():
            parts = key.split(".")
            own = [part for part in parts if part in numbers]
            if own:
                kept = [part for part in parts if part not in (*own, "modules_to_save")]
                found[f"{PREFIX}.{numbers[own[0]]}.{'.'.join(kept)}"] = parameter
        return found


class SharedBaseEnsemble(nn.Module):
    """The same on a base that others use as well. Its parameters are the heads'."""

    def __init__(self, members: Sequence[AdapterRewardModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config = copy.deepcopy(members[0].config)
        self.config.num_labels = len(members)

    def forward(self, **inputs: Any) -> Any:
        """The classifier's output; `logits` is [N, M]."""
        outputs = [member(**inputs) for member in self.members]
        outputs[0].logits = torch.cat([output.logits for output in outputs], dim=-1)
        return outputs[0]


def attach_members(model: Any, configs: Sequence[LoraConfig], drawn_anew: Iterable[str] = ()) -> AdapterEnsemble:
    """An adapter for each of M configs on a classifier of one label, and a copy of its head.

    Args:
        model: the classifier, without adapters.
        configs: of the members, an object for each; their `modules_to_save` are the head.
        drawn_anew: parameters of the head that each member but the first draws for itself.
    """
    head = list(configs[0].modules_to_save or ())
    owners = {name.rpartition(".")[0] for name in drawn_anew}
    host = cast(PeftModel, get_peft_model(model, configs[0], adapter_name=member_name(0)))
    for i, config in enumerate(configs[1:], start=1):
        host.add_adapter(member_name(i), config)
        for owner in sorted(owners):
            _draw(model, _of_member(host, owner, head, member_name(i)))
    return AdapterEnsemble(host, len(configs))


def _of_member(host: PeftModel, owner: str, head: Sequence[str], name: str) -> nn.Module:
    """The member's copy of the module `owner`, which is one of `head` or lies in one."""
    top = next(each for each in head if owner == each or owner.startswith(f"{each}."))
    copied = cast(Any, host.get_base_model().get_submodule(top)).modules_to_save[name]
    return cast(nn.Module, copied.get_submodule(owner.removeprefix(top).removeprefix(".")))


@torch.no_grad()
def _draw(model: Any, module: nn.Module) -> None:
    """Draw a module's weights as `model` draws those that its files do not hold."""
    for parameter in module.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    model._init_weights(module)


def num_member_adapters(source: ModelSource) -> int:
    """How many adapters a folder holds as members of an ensemble; 0 for a model or an adapter of its own."""
    path = source.folder / SAFETENSORS_WEIGHTS_NAME
    if not source.is_adapter or not path.is_file():
        return 0
    with safe_open(path, "pt") as weights:
        numbers = {key.split(".")[1] for key in weights.keys() if key.startswith(f"{PREFIX}.")}  # noqa: SIM118
    return len(numbers)


def member_weights(source: ModelSource, number: int) -> dict[str, Tensor]:
    """The tensors of one member, named as in an adapter of its own."""
    begin = f"{PREFIX}.{number}."
    every = load_file(source.folder / SAFETENSORS_WEIGHTS_NAME)
    return {key.removeprefix(begin): tensor for key, tensor in every.items() if key.startswith(begin)}


def load_members(model: Any, source: ModelSource, head: Sequence[str], num_members: int) -> AdapterEnsemble:
    """The ensemble of `source` on its base, loaded as a classifier of one label with the modules `head`.

    Raises:
        UserError: the adapters do not fit the base, or one another.
    """
    configs = []
    for _ in range(num_members):
        config = cast(LoraConfig, PeftConfig.from_pretrained(source.folder))
        config.inference_mode, config.modules_to_save = False, list(head)
        config.base_model_name_or_path = None  # a ref there, which PEFT would say it has changed
        configs.append(config)
    try:
        ensemble = attach_members(model, configs)
        ensemble.load_state_dict(load_file(source.folder / SAFETENSORS_WEIGHTS_NAME))
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{source.ref}: the members of its ensemble do not fit: {error}") from error
    return ensemble
