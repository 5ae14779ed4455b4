"""From a YAML file and dotted overrides to a validated config, or to one list of everything that is wrong."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rlhf.config.located import Located
from rlhf.errors import UserError

ConfigT = TypeVar("ConfigT", bound=BaseModel)

COMMAND_LINE = "command line"


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but for four things.

    `1e-5` is a number; only `true` and `false` are booleans, as in YAML 1.2, so that `wandb: off` is text; a key given
    twice is an error; strings are `Located`.
    """

    base: Path


_RESOLVED_OTHERWISE = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RESOLVED_OTHERWISE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\.inf|\.nan)$", re.IGNORECASE),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF"))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            key = str(key)
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                problem=f"the key `{key}` is given twice", problem_mark=key_node.start_mark
            )
        mapping[str(key)] = loader.construct_object(value_node, deep=True)
    return mapping


def _construct_string(loader: _Loader, node: yaml.ScalarNode) -> Located:
    return Located(str(loader.construct_scalar(node)), loader.base)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_string)
# a date is a string here: no option of ours is a date, and `2026-01-01` may well be the name of a run
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_string)


def _parse(text: str, base: Path) -> Any:
    loader = _Loader(text)
    loader.base = base
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping a YAML file holds; its strings are `Located` in the file's folder.

    Raises:
        UserError: the file is missing, is not UTF-8, is not YAML or is no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_nearby(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = _parse(text, path.resolve().parent)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{where}: is not YAML: {what}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}; expected `key: value` lines")
    return data


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    close = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def apply_override(data: dict[str, Any], override: str, base: Path | None = None) -> None:
    """Set one `dotted.key=value` in `data`, making the mappings on the way; the value is read as YAML.

    A number addresses an element of a list: `reward.0.weight=0.5`.

    Raises:
        UserError: it is not of that form, or the way leads through something that is no mapping.
    """
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"{override}: expected key=value, such as trainer.learning_rate=1e-5")
    try:
        value = _parse(text, base or Path.cwd())
    except yaml.YAMLError as error:
        raise UserError(f"{override}: the value is not YAML: {getattr(error, 'problem', error)}") from None
    here: Any = data
    for depth, step in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not step.isdigit() or int(step) >= len(here):
                raise UserError(
                    f"{override}: {'.'.join(keys[:depth])} is a list of {len(here)}: give a number below that"
                )
            index: Any = int(step)
        elif isinstance(here, dict):
            index = step
            here.setdefault(step, {})
        else:
            raise UserError(f"{override}: {'.'.join(keys[:depth])} is {here!r} and has no keys of its own")
        if last:
            here[index] = value
        else:
            if here[index] is None:
                here[index] = {}
            here = here[index]


def load_config(path: str | os.PathLike[str], schema: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file, apply the overrides and validate against `schema`.

    Raises:
        UserError: with one line for each thing that is wrong, in the file or on the command line.
    """
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    return validate(data, schema, origin=str(path), overridden={text.partition("=")[0].strip() for text in overrides})


def validate(
    data: Mapping[str, Any],
    schema: type[ConfigT],
    *,
    origin: str,
    overridden: set[str] = frozenset(),  # type: ignore[assignment]
) -> ConfigT:
    """`data` as a `schema`; problems say whether the file (`origin`) or the command line is to be mended."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            for key, value, what in _problems_of(detail, schema):
                from_command_line = any(key == name or key.startswith(name + ".") for name in overridden)
                where = COMMAND_LINE if from_command_line else origin
                shown = "" if value is _ABSENT else f" = {_shown(value)}"
                problems.append(f"{where}: {key}{shown}: {what}")
        raise UserError(sorted(set(problems), key=problems.index)) from None


_ABSENT = object()


class TrainerArgsProblem(ValueError):
    """Raised by a section that checks keys of its own; `details` are (key, value or absent, what is wrong)."""

    def __init__(self, details: list[tuple[str, Any, str]]) -> None:
        self.details = details
        super().__init__("; ".join(f"{key}: {what}" for key, _, what in details))


def _problems_of(detail: Any, schema: type[BaseModel]) -> Iterator[tuple[str, Any, str]]:
    location = [str(step) for step in detail["loc"] if not _is_union_branch(str(step))]
    key = ".".join(location)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, TrainerArgsProblem):
        for inner, value, what in cause.details:
            yield f"{key}.{inner}" if key else inner, value, what
    elif detail["type"] == "extra_forbidden":
        yield key, detail["input"], f"unknown key{_did_you_mean(location, schema)}"
    elif detail["type"] == "missing":
        yield key, _ABSENT, "is missing"
    elif detail["type"] in ("model_type", "dict_type"):
        yield key, detail["input"], "expected a mapping, `key: value` lines"
    else:
        text = detail["msg"].removeprefix("Value error, ")
        yield key or "(whole file)", detail["input"], text[:1].lower() + text[1:]


def _is_union_branch(step: str) -> bool:
    """Pydantic names the tried branch of a union in the location (`list[str]`, `function-before[...]`)."""
    return "[" in step or step in ("str", "int", "float", "bool", "none")


def _shown(value: Any, limit: int = 80) -> str:
    text = repr(str(value)) if isinstance(value, Located) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _did_you_mean(location: list[str], schema: type[BaseModel]) -> str:
    """A key of the same section with a similar name, or a section that has a key of this very name."""
    siblings = _section_at(schema, location[:-1])
    wrong = location[-1]
    if siblings is not None:
        close = difflib.get_close_matches(wrong, siblings.model_fields, n=1, cutoff=0.6)
        if close:
            return f"; did you mean {'.'.join([*location[:-1], close[0]])}?"
    elsewhere = [path for path in known_keys(schema) if path.split(".")[-1] == wrong]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    if siblings is not None:
        return f"; known here: {', '.join(siblings.model_fields)}"
    return ""


def known_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config, trainer fields included."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        for section in _sections_in(field.annotation):
            yield from known_keys(section, f"{prefix}{name}.")
        for metadata in field.metadata:
            yield from (f"{prefix}{name}.{key}" for key in getattr(metadata, "keys", ()))


def _section_at(schema: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    here: type[BaseModel] | None = schema
    for step in location:
        if here is None:
            return None
        if step.isdigit():
            continue
        field = here.model_fields.get(step)
        here = next(_sections_in(field.annotation), None) if field else None
    return here


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _sections_in(inner)
