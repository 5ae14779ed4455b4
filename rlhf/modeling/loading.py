"""Loading: tokenizers that can pad and end, policies, reward models and critics, full or as adapters on a base."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import logging as transformers_logging

from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling.ensembles import num_member_adapters
from rlhf.modeling.heads import head_modules, put_head_in_float32
from rlhf.modeling.sources import ModelSource

Model: TypeAlias = PreTrainedModel | PeftModel

PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>")


def load_tokenizer(source: ModelSource, *, generates: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token chosen where it has none.

    The choice is the first of: a token that is a padding token by its name, the unknown token, the end token. It
    changes nothing that is learned, since padding is masked, but a token of its own keeps the end token visible.

    Args:
        source: the model; an adapter without a tokenizer takes its base's.
        generates: whether the model writes text and so needs an end token (an encoder that only scores does not).

    Raises:
        UserError: no tokenizer lies there, it has no end token, or nothing can serve as padding.
    """
    has_tokenizer = any((source.folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))
    if not has_tokenizer:
        if source.base:
            return load_tokenizer(source.base, generates=generates)
        raise UserError(f"{source.ref}: holds no tokenizer (tokenizer.json); save it beside the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder)
    except Exception as error:  # a file that is no tokenizer fails in many ways, plain `Exception` from Rust included
        raise UserError(f"{source.ref}: the tokenizer cannot be read: {one_line(error)}") from error
    # long texts are measured before they are cut or set aside: no warning that they are long
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    if generates and tokenizer.eos_token_id is None:
        raise UserError(
            f"{source.ref}: the tokenizer has no end-of-sequence token, so completions would never end; "
            f'name one of its tokens as "eos_token" in {source.folder / "tokenizer_config.json"}'
        )
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        by_name = [token for token in PAD_CANDIDATES if token in vocabulary and token != tokenizer.eos_token]
        choice = next((token for token in (*by_name, tokenizer.unk_token, tokenizer.eos_token) if token), None)
        if choice is None:
            raise UserError(f"{source.ref}: the tokenizer has no padding, unknown or end token to pad with")
        tokenizer.pad_token = choice
    return tokenizer


def load_causal_lm(source: ModelSource, section: ModelSection | None = None, *, trainable: bool = False) -> Model:
    """The language model, adapters of its own merged in: in float32, and held in 16 bits only after.

    What training moved a weight by is often less than 16 bits can add to it.

    Args:
        source: where it lies.
        section: dtype, attention, quantization, dropout, and, for a model to be trained, freeze and adapter.
        trainable: whether a new adapter is attached and parameters are frozen as `section` says.

    Raises:
        UserError: it is no causal language model, or its files cannot be read.
    """
    if not can_write(source):
        raise UserError(f"{source.ref}: is no language model (architectures: {', '.join(_architectures(source))})")
    dtype = _dtype(section)
    model, _ = _load(source, AutoModelForCausalLM, section, torch.float32 if source.is_adapter else dtype)
    if source.is_adapter:
        model = _held_in(dtype, _merged(model, source))
    if trainable and section:
        model = prepared(model, section)
    return model


def can_write(source: ModelSource) -> bool:
    """Whether the model is a causal language model; an encoder or a scorer is not."""
    return any("CausalLM" in name or "LMHead" in name for name in _architectures(source))


def _architectures(source: ModelSource) -> list[str]:
    path = source.bottom.folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON: {error}") from None
    return config.get("architectures") or []


def set_pad_token(config: Any, pad_id: int | None, name: str, *, replace: bool = False) -> int:
    """The one pad token of a scorer, put into its config: the one that stands there, or `pad_id`.

    Args:
        config: the model's.
        pad_id: the tokenizer's.
        name: of the model, for the error.
        replace: let `pad_id` take the place of one that stands there.

    Raises:
        UserError: there is none within the model's vocabulary.
    """
    text = config.get_text_config()
    for candidate in (pad_id, text.pad_token_id) if replace else (text.pad_token_id, pad_id):
        if candidate is not None and 0 <= candidate < text.vocab_size:
            text.pad_token_id = candidate
            return int(candidate)
    raise UserError(
        f"{name}: neither model nor tokenizer has a pad token among the model's {text.vocab_size} tokens; "
        "set tokenizer.pad_token"
    )


def _dtype(section: ModelSection | None) -> torch.dtype:
    return getattr(torch, section.dtype) if section else torch.float32


def load_sequence_classifier(
    source: ModelSource, section: ModelSection | None, *, pad_id: int | None = None, num_labels: int | None = None
) -> tuple[Any, list[str], set[str]]:
    """A sequence classifier with adapters merged in and its head in float32.

    Returns:
        The model, the names of its head's modules, and the parameters that the files at its bottom do not hold.
    """
    is_quantized = section is not None and section.quantization is not None
    dtype = _dtype(section)
    # in float32 first: a head that has been rounded to 16 bits stays rounded
    first = dtype if is_quantized else torch.float32
    model, missing = _load(
        source, AutoModelForSequenceClassification, section, first, pad_id=pad_id, num_labels=num_labels
    )
    head = head_modules(model, missing)
    if source.is_adapter:
        model = _merged(model, source)
    if not is_quantized:
        model = _held_in(dtype, model, head)
    put_head_in_float32(model, head)
    return model, head, missing


def _held_in(dtype: torch.dtype, model: Any, head: Sequence[str] = ()) -> Any:
    """`model`, loaded in float32, as it is held in `dtype`; `head` and what transformers keeps in float32 stay so."""
    if dtype is torch.float32:
        return model
    kept = set(model._keep_in_fp32_modules_strict or ())
    if dtype is torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    saved = model.state_dict().keys()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        # buffers that are not saved, such as rotary frequencies, are computed in float32
        if name.startswith(tuple(f"{module}." for module in head)):
            continue
        if tensor.is_floating_point() and name in saved and kept.isdisjoint(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype
    return model


def _load(
    source: ModelSource,
    auto_class: Any,
    section: ModelSection | None,
    dtype: torch.dtype,
    *,
    pad_id: int | None = None,
    num_labels: int | None = None,
) -> tuple[Any, set[str]]:
    """`source` or, below an adapter, its base, by an Auto class; and the parameters that its files do not hold.

    With `num_labels`, what is stored for another number of them is not what was asked for either.
    """
    bottom = source.bottom
    if section and section.quantization and source.is_adapter:
        raise UserError(
            f"model.quantization: {source.ref} is an adapter, and what it learned would be lost in quantized weights; "
            "export it merged (`rlhf export`) and start from that"
        )
    options: dict[str, Any] = {"dtype": dtype}
    if section and section.attention:
        options["attn_implementation"] = section.attention
    if section and section.quantization:
        options["quantization_config"] = _quantization(section)
    try:
        config = AutoConfig.from_pretrained(bottom.folder)
        if num_labels is not None and config.num_labels != num_labels:
            config.num_labels = num_labels
            options["ignore_mismatched_sizes"] = True
        if pad_id is not None:
            set_pad_token(config, pad_id, source.ref, replace=True)
        if section and section.dropout is not None:
            _set_dropout(config, section.dropout)
        with _expected_new_head(auto_class):
            model, info = auto_class.from_pretrained(bottom.folder, config=config, output_loading_info=True, **options)
            return model, {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise UserError(f"{source.ref}: cannot be loaded as {auto_class.__name__}: {one_line(error)}") from error


def _merged(model: Any, source: ModelSource) -> Any:
    """`model`, loaded from the bottom of `source`, with the adapters on the way up merged into its weights."""
    if source.base and source.base.is_adapter:
        model = _merged(model, source.base)
    if num_members := num_member_adapters(source):
        raise UserError(
            f"{source.ref}: is an ensemble of {num_members} adapters, which cannot be merged into one model; start "
            "from what it was trained on"
        )
    config = PeftConfig.from_pretrained(source.folder)
    # the adapter of a writer may be merged into a scorer of the same backbone, which has no method for generation
    config.task_type = None
    try:
        with quiet_peft():
            warnings.filterwarnings("error", "Found missing adapter keys")
            model = PeftModel.from_pretrained(model, source.folder, config=config)
    except (UserWarning, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{source.ref}: does not fit its base: {one_line(error)}") from error
    merged: Any = model.merge_and_unload()
    return merged.requires_grad_(True)  # below an adapter the weights were frozen


def names_in_adapters(source: ModelSource) -> set[str]:
    """The parameters that an adapter, or one below it, holds whole."""
    names: set[str] = set()
    below: ModelSource | None = source
    while below and below.is_adapter:
        with safe_open(below.folder / SAFETENSORS_WEIGHTS_NAME, "pt") as weights:
            names |= {name.removeprefix("base_model.model.") for name in weights.keys()}  # noqa: SIM118
        below = below.base
    return names


def prepared(model: Any, section: ModelSection, head: list[str] | None = None) -> Model:
    """`model` as it is to be trained: with a new adapter, and frozen, where `section` says so.

    Args:
        model: changed in place.
        section: the model's.
        head: the modules of a reward model's head, which are trained whole and saved with the adapter.

    Raises:
        UserError: the adapter fits no layer, or `freeze` matches nothing or everything.
    """
    if section.adapter:
        try:
            with quiet_peft():
                model = get_peft_model(model, lora_config(section.adapter, head))
            if head:
                say_what_is_adapted(model.peft_config["default"], head)
        except ValueError as error:
            raise UserError(f"model.adapter: {one_line(error)}") from error
    freeze_parameters(model, section)
    return model


def freeze_parameters(model: Any, section: ModelSection) -> None:
    """Take the gradient from the parameters that `section.freeze` names.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    if section.freeze:
        names = [name for name, _ in model.named_parameters()]
        for pattern in section.freeze:
            if not any(fnmatch(name, pattern) for name in names):
                raise UserError(f"model.freeze = {pattern!r}: matches no parameter; they are named like {names[0]!r}")
        for name, parameter in model.named_parameters():
            if any(fnmatch(name, pattern) for pattern in section.freeze):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError("model.freeze: freezes every parameter; nothing is left to train")


def say_what_is_adapted(config: LoraConfig, head: list[str]) -> None:
    """Take out of the config what PEFT writes into it and does not do: other models' heads, adapters on the head."""
    config.modules_to_save = head
    if isinstance(config.target_modules, set):
        inside = tuple(f"{name}." for name in head)
        config.target_modules = {
            name for name in config.target_modules if name not in head and not name.startswith(inside)
        }


@contextmanager
def quiet_peft() -> Iterator[None]:
    """GPT-2's layers hold their weights the other way round: PEFT sees that itself, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        yield


def lora_config(section: AdapterSection, head: list[str] | None = None) -> LoraConfig:
    """PEFT's config for an adapter; alpha is 2r where it is left out.

    The `head` of a reward model is trained whole and saved with the adapter: without it, it reloads at random.
    """
    return LoraConfig(
        task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
        r=section.r,
        lora_alpha=section.alpha if section.alpha is not None else 2 * section.r,
        lora_dropout=section.dropout,
        target_modules=section.target_modules,
        modules_to_save=list(head) if head else None,
    )


def _quantization(section: ModelSection) -> BitsAndBytesConfig:
    if section.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _set_dropout(config: Any, value: float) -> None:
    """Every dropout probability the config has, whatever the architecture calls it."""
    for name, current in config.to_dict().items():
        if (
            ("dropout" in name or "pdrop" in name)
            and isinstance(current, float | int)
            and not isinstance(current, bool)
        ):
            setattr(config, name, value)


@contextmanager
def _expected_new_head(auto_class: Any) -> Iterator[None]:
    """A scoring head is missing from a language model's files by design: no table about it."""
    verbosity = transformers_logging.get_verbosity()
    if auto_class is AutoModelForSequenceClassification:
        transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def one_line(error: Exception) -> str:
    """What a library's error says, without its line breaks, cut at 300 characters."""
    return " ".join(str(error).split())[:300]
