"""Reward models: new ones to be trained, and trained ones, of one score or of an ensemble's M."""

from typing import Any, Literal, TypeAlias

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from rlhf.config import ModelSection
from rlhf.errors import UserError
from rlhf.modeling.ensembles import AdapterEnsemble, attach_members, load_members, num_member_adapters
from rlhf.modeling.loading import (
    Model,
    freeze_parameters,
    load_sequence_classifier,
    load_tokenizer,
    lora_config,
    names_in_adapters,
    one_line,
    prepared,
    quiet_peft,
    say_what_is_adapted,
    set_pad_token,
)
from rlhf.modeling.reward_file import Offset, read_reward_file
from rlhf.modeling.sources import ModelSource

RewardModel: TypeAlias = Model | AdapterEnsemble
Members = Literal["heads", "adapters"]


def new_reward_model(
    source: ModelSource,
    section: ModelSection,
    *,
    seed: int,
    num_outputs: int = 1,
    members: Members = "heads",
) -> RewardModel:
    """A reward model to be trained: the backbone of `source` with a new head, drawn from `seed`, in float32.

    Its pad token is its tokenizer's, whatever the backbone's config says: decoders pool the last token that is not it.

    Args:
        source: the backbone.
        section: how it is held, and the adapter that is trained on it.
        seed: of the head and of the adapters.
        num_outputs: 1, or the M members of an ensemble; logits are [N, M]. Each is drawn for itself.
        members: whether they are heads on one backbone, or each an adapter with a head of its own.

    Raises:
        UserError: the adapters of an ensemble are asked for without an adapter, or the model cannot be loaded.
    """
    assert num_outputs >= 1, num_outputs
    pad_id = load_tokenizer(source, generates=False).pad_token_id
    of_adapters = num_outputs > 1 and members == "adapters"
    if of_adapters and section.adapter is None:
        raise UserError(
            "ensemble.members = 'adapters': the members are adapters of one base, and model.adapter is not set; set "
            "it (adapter: {method: lora}), or take members: heads"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, head, missing = load_sequence_classifier(
            source, section, pad_id=pad_id, num_labels=1 if of_adapters else num_outputs
        )
        if of_adapters:
            return _with_members(model, section, head, missing, num_outputs)
        return prepared(model, section, head)


def _with_members(
    model: PreTrainedModel, section: ModelSection, head: list[str], missing: set[str], num_members: int
) -> AdapterEnsemble:
    assert section.adapter is not None
    configs = [lora_config(section.adapter, head) for _ in range(num_members)]
    # what a backbone's files hold is every member's; a head that they hold is the first one's
    on_top = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    in_head = tuple(f"{name}." for name in head)
    try:
        with quiet_peft():
            ensemble = attach_members(model, configs, [n for n in {*on_top, *missing} if n.startswith(in_head)])
    except ValueError as error:
        raise UserError(f"model.adapter: {one_line(error)}") from error
    for config in ensemble.host.peft_config.values():
        say_what_is_adapted(config, head)
    freeze_parameters(ensemble, section)
    return ensemble


def load_reward_model(
    source: ModelSource, section: ModelSection | None = None
) -> tuple[PreTrainedModel | AdapterEnsemble, Offset]:
    """A trained reward model, and the offset to be taken from its scores (`reward.json`).

    Of an ensemble logits are [N, M]; how they make one score is in `read_reward_file`. An adapter was trained with its
    tokenizer's pad token; a whole model has its own in its config, and is given the tokenizer's only where that names
    none.

    Raises:
        UserError: the model has not one output and is no ensemble, or its files lack a part of it or contradict it.
    """
    pad_id = load_tokenizer(source, generates=False).pad_token_id
    about = read_reward_file(source.folder)
    num_members = num_member_adapters(source)
    if num_members:
        about.check(num_members, source.ref)
        model, head, _ = _load_scorer_below(source, section, pad_id)
        with quiet_peft():
            return load_members(model, source, head, num_members).eval(), about.score_offset
    if source.is_adapter:
        num_outputs = 1 if about.combine is None else adapted_outputs(source)
        about.check(num_outputs, source.ref)
        model, _, missing = load_sequence_classifier(source, section, pad_id=pad_id, num_labels=num_outputs)
        missing -= names_in_adapters(source)
    else:
        model, _, missing = load_sequence_classifier(source, section)
        set_pad_token(model.config, pad_id, source.ref)
        about.check(model.config.num_labels, source.ref)
    if missing:
        raise UserError(
            f"{source.ref}: lacks {', '.join(sorted(missing))}, so that its scores would be drawn at random; "
            "train it anew, or take a model that was saved whole"
        )
    return model.eval(), about.score_offset


def _load_scorer_below(source: ModelSource, section: ModelSection | None, pad_id: int | None) -> Any:
    assert source.base is not None
    return load_sequence_classifier(source.base, section, pad_id=pad_id, num_labels=1)


def adapted_outputs(source: ModelSource) -> int:
    """How many scores the head gives that was saved with an adapter; 1 where no head was.

    It is read off the shapes of the tensors: those of M outputs are M times as long as those of one.
    """
    config = AutoConfig.from_pretrained(source.bottom.folder, num_labels=1)
    with torch.device("meta"):
        single = AutoModelForSequenceClassification.from_config(config).state_dict()
    with safe_open(source.folder / SAFETENSORS_WEIGHTS_NAME, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118
            own = name.removeprefix("base_model.model.")
            shape = weights.get_slice(name).get_shape()
            if own in single and list(single[own].shape) != shape and single[own].size(0) == 1:
                return int(shape[0])
    return 1
