"""A policy, its reference and its reward models on one base in memory, wherever they stand on the same one.

Each of them is a chain of adapters on a whole model. What all the chains begin with is merged into the base, and the
rest is attached to it: each model is the base with its own adapters at work.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.config import ModelSection
from rlhf.errors import UserError
from rlhf.files import sha256
from rlhf.modeling.adapters import AdapterRewardModel, AdapterStack
from rlhf.modeling.ensembles import SharedBaseEnsemble, member_weights, num_member_adapters
from rlhf.modeling.heads import head_modules, put_head_in_float32
from rlhf.modeling.loading import (
    _dtype,
    _held_in,
    _load,
    _merged,
    load_tokenizer,
    one_line,
    prepared,
    quiet_peft,
    set_pad_token,
)
from rlhf.modeling.reward_file import Offset, read_reward_file
from rlhf.modeling.reward_models import adapted_outputs
from rlhf.modeling.sources import ModelSource

logger = logging.getLogger(__name__)

SharedReward: TypeAlias = AdapterRewardModel | SharedBaseEnsemble

NOT_IN_THE_WEIGHTS = ("base_model_name_or_path", "_name_or_path", "transformers_version", "peft_version")
"""Keys of a config that say where a model came from, not what it is."""


@dataclass(frozen=True)
class OneBase:
    """What `load_on_one_base` put together.

    Attributes:
        policy: the base with a new, trainable adapter "default", and below it those of the model it starts from.
        reference: that model, or the one that was asked for, on the same base; None where it stands on another.
        reward_models: of the sources that stand on the base, the reward model and its offset, by their place in the
            list that was given.
    """

    policy: PeftModel
    reference: AdapterStack | None
    reward_models: dict[int, tuple[SharedReward, Offset]]


def load_on_one_base(
    policy: ModelSource,
    section: ModelSection,
    *,
    reference: ModelSource | None = None,
    reward_models: Sequence[ModelSource | None] = (),
) -> OneBase:
    """Load the base of `policy` once, with a new adapter to be trained, and on it all that stands on the same base.

    A base is the same where its weights and its config are, whatever it is called. It is held in `section.dtype`,
    adapters and heads in float32.

    Args:
        policy: what training starts from.
        section: dtype and attention of the base, and the new adapter.
        reference: what KL is measured from, `policy` as it starts when left out.
        reward_models: sources of reward models; None and those that stand elsewhere are passed over.

    Raises:
        UserError: files cannot be read, an adapter does not fit its base, or a reward model lacks its head.
    """
    assert section.adapter is not None, "without an adapter there is no frozen base"
    chain = _chain(policy)
    wanted = _chain(reference) if reference else chain
    judges = {i: _chain(source) for i, source in enumerate(reward_models) if source and source.is_adapter}
    judges = {i: judge for i, judge in judges.items() if _can_share(judge, chain, with_head=True)}
    shares_reference = _can_share(wanted, chain, with_head=False)
    chains = [chain, *judges.values(), *([wanted] if shares_reference else [])]
    stem = _common(chains)

    model, _ = _load(chain[0], AutoModelForCausalLM, section, torch.float32 if stem > 1 else _dtype(section))
    if stem > 1:
        model = _held_in(_dtype(section), _merged(model, chain[stem - 1]))
    host = cast(PeftModel, prepared(model, section))
    attached: dict[str, str] = {}
    below = [_attach(host, source, attached) for source in chain[stem:]]
    stack = AdapterStack(
        host, [_attach(host, source, attached) for source in wanted[stem:]] if shares_reference else []
    )
    found = {i: _reward_model(host, judge, stem, attached) for i, judge in judges.items()}
    # `set_adapter` would train those below as well.
    host.base_model.set_adapter([*below, "default"])
    for name in attached.values():
        host.set_requires_grad(name, False)
    return OneBase(host, stack if shares_reference else None, found)


def _chain(source: ModelSource) -> list[ModelSource]:
    """The whole model at the bottom and the adapters on the way up to `source`."""
    return [*(_chain(source.base) if source.is_adapter and source.base else []), source]


def _common(chains: Sequence[Sequence[ModelSource]]) -> int:
    """How many of the first sources are the same in all chains."""
    length = 0
    for level in zip(*chains, strict=False):
        if not all(_same(level[0], other) for other in level[1:]):
            break
        length += 1
    return length


def _same(one: ModelSource, other: ModelSource) -> bool:
    """Whether two folders hold the same weights under the same config."""
    if one.folder == other.folder:
        return True
    if one.artefact and other.artefact and one.artefact.digest == other.artefact.digest:
        return True
    if one.is_adapter != other.is_adapter or _settings(one) != _settings(other):
        return False
    ours, theirs = (
        {file.name: file for file in source.folder.glob("*.safetensors") if file.is_file()} for source in (one, other)
    )
    if {n: f.stat().st_size for n, f in ours.items()} != {n: f.stat().st_size for n, f in theirs.items()}:
        return False
    return all(sha256(ours[name]) == sha256(theirs[name]) for name in ours)


def _settings(source: ModelSource) -> dict[str, Any]:
    file = source.folder / ("adapter_config.json" if source.is_adapter else "config.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in NOT_IN_THE_WEIGHTS}


def _can_share(chain: Sequence[ModelSource], policy: Sequence[ModelSource], *, with_head: bool) -> bool:
    """Whether the model `chain` can be adapters on the base of `policy`.

    What one has and the other has not must add to layers and replace nothing: the rest can only be merged, below all.
    """
    common = _common([policy, chain])
    above = [*policy[common:], *(chain[common:-1] if with_head else chain[common:])]
    return common > 0 and all(map(_adds, above)) and (not with_head or _adds(chain[-1], with_head=True))


def _adds(source: ModelSource, *, with_head: bool = False) -> bool:
    config = PeftConfig.from_pretrained(source.folder)
    is_plain = isinstance(config, LoraConfig) and config.peft_type == PeftType.LORA and config.bias == "none"
    return is_plain and (with_head or not config.modules_to_save)


def _attach(host: PeftModel, source: ModelSource, attached: dict[str, str]) -> str:
    """Add an adapter to the host, frozen; one that is there already is not added again. Returns its name there."""
    return _attach_weights(host, source, None, str(source.folder), attached)


def _attach_weights(
    host: PeftModel, source: ModelSource, weights: dict[str, Tensor] | None, key: str, attached: dict[str, str]
) -> str:
    """The same by the `key` that it is known by, with `weights` where they are not those of the folder."""
    if key in attached:
        return attached[key]
    # PEFT finds an adapter's weights by whether its name is a part of theirs: a name of ours, and not the user's
    name = f"held{len(attached)}"
    config = PeftConfig.from_pretrained(source.folder)
    config.task_type, config.inference_mode = None, True
    config.modules_to_save = None
    weights = _weights(source) if weights is None else weights
    with quiet_peft():
        host.add_adapter(name, config)
    attached[key] = name
    own = {each: tensor for each, tensor in weights.items() if "lora_" in each}
    try:
        result = set_peft_model_state_dict(host, own, adapter_name=name)
    except RuntimeError as error:  # PyTorch's for tensors of other shapes
        raise UserError(f"{source.ref}: does not fit its base: {one_line(error)}") from error
    missing = [key for key in result.missing_keys if f".{name}." in f"{key}."]
    if missing or result.unexpected_keys:
        odd = [*missing, *result.unexpected_keys][0]
        raise UserError(f"{source.ref}: does not fit its base: {odd} stands in one of them alone")
    return name


def _weights(source: ModelSource) -> dict[str, Tensor]:
    path = source.folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        raise UserError(f"{source.ref}: holds no {SAFETENSORS_WEIGHTS_NAME}; save the adapter with save_pretrained")
    return load_file(path)


def _reward_model(
    host: PeftModel, chain: Sequence[ModelSource], stem: int, attached: dict[str, str]
) -> tuple[SharedReward, Offset]:
    source = chain[-1]
    about = read_reward_file(source.folder)
    num_members = num_member_adapters(source)
    below = [_attach(host, level, attached) for level in chain[stem : -1 if num_members else None]]
    if num_members == 0:
        num_outputs = 1 if about.combine is None else adapted_outputs(source)
        about.check(num_outputs, source.ref)
        return _on_host(host, chain, below, _weights(source), num_outputs), about.score_offset
    about.check(num_members, source.ref)
    members = []
    for number in range(num_members):
        weights = member_weights(source, number)
        own = _attach_weights(host, source, weights, f"{source.folder}#{number}", attached)
        members.append(_on_host(host, chain, [*below, own], weights, 1))
    return SharedBaseEnsemble(members), about.score_offset


def _on_host(
    host: PeftModel, chain: Sequence[ModelSource], names: list[str], weights: dict[str, Tensor], num_outputs: int
) -> AdapterRewardModel:
    """The host with the adapters `names`, and the head that is among `weights`."""
    source = chain[-1]
    config = AutoConfig.from_pretrained(chain[0].folder)
    config.num_labels = num_outputs
    set_pad_token(config, load_tokenizer(source, generates=False).pad_token_id, source.ref, replace=True)
    with torch.device("meta"):
        classifier: Any = AutoModelForSequenceClassification.from_config(config)
    trunk = host.get_base_model()
    prefix = str(classifier.base_model_prefix)
    setattr(classifier, prefix, getattr(trunk, prefix))
    head = head_modules(classifier, ())
    _fill_head(classifier, head, source, weights, device=next(host.parameters()).device)
    put_head_in_float32(classifier, head)
    return AdapterRewardModel(AdapterStack(host, names), classifier.eval(), head)


def _fill_head(
    classifier: nn.Module, head: Sequence[str], source: ModelSource, weights: dict[str, Tensor], device: torch.device
) -> None:
    """Give the head the weights that were saved with the adapter."""
    stored = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    for name in head:
        module = classifier.get_submodule(name)
        wanted = [f"{name}.{own}" for own in module.state_dict()]
        missing = sorted(set(wanted) - set(stored))
        if missing:
            raise UserError(
                f"{source.ref}: lacks {', '.join(missing)}, so that its scores would be drawn at random; "
                "train it anew, or take a model that was saved whole"
            )
        found = {key.removeprefix(f"{name}."): stored[key].to(device) for key in wanted}
        module.load_state_dict(found, assign=True)
