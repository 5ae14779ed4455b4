"""What a `ref` means: an artefact of the registry, a folder on disk or a model on the Hub."""

import json
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from rlhf.config import is_explicit_path
from rlhf.errors import UserError
from rlhf.files import MODEL_FILES, NOT_MODEL_FILES, is_model_file
from rlhf.registry import Artefact, Registry
from rlhf.registry.names import did_you_mean

MODEL_KINDS = ("base", "sft", "reward", "policy")
HUB_POINTER = "hub.json"
MANIFEST = "manifest.json"
"""What the registry and checkpoints keep beside a model's files."""


@dataclass(frozen=True)
class ModelSource:
    """A model that has been found.

    Attributes:
        ref: what the user wrote, or `name@vN` for an artefact.
        folder: where its files lie on this machine.
        artefact: the registry's record of it, if it has one.
        base: the model below it, when the folder holds an adapter alone.
        hub: id and commit, when it came from the Hub.
    """

    ref: str
    folder: Path
    artefact: Artefact | None = None
    base: "ModelSource | None" = None
    hub: tuple[str, str] | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter and not a whole model."""
        return (self.folder / "adapter_config.json").is_file()

    @property
    def bottom(self) -> "ModelSource":
        """The whole model below all adapters."""
        return self.base.bottom if self.is_adapter and self.base else self

    @property
    def kind(self) -> str:
        """The artefact's kind; a model from outside the registry is a base."""
        return self.artefact.kind if self.artefact else "base"

    @property
    def refs(self) -> list[str]:
        """The artefacts it is read from: its own, and those below an adapter."""
        own = [self.artefact.ref] if self.artefact else []
        return own + (self.base.refs if self.base else [])

    def publish(self, registry: Registry) -> Artefact:
        """This model as an artefact, made of it where it has none yet: so that what is trained on it has a parent.

        A local folder is taken in as it lies. Of a Hub model only its id and commit are kept.
        """
        if self.artefact:
            return self.artefact
        if self.hub:
            with tempfile.TemporaryDirectory() as scratch:
                pointer = {"id": self.hub[0], "revision": self.hub[1]}
                (Path(scratch) / HUB_POINTER).write_text(json.dumps(pointer, indent=2) + "\n")
                return registry.publish(
                    Path(scratch), kind="base", name=_name_for(self.hub[0]), metadata={"hub": pointer}
                )
        files = {
            file.name: file.resolve()  # of links, such as those in the Hub's cache, what they lead to
            for file in sorted(self.folder.iterdir())
            if file.is_file() and file.name != MANIFEST and is_model_file(file.name)
        }
        with tempfile.TemporaryDirectory() as scratch:
            parents = []
            if self.base:
                base = self.base.publish(registry)
                parents = [("base", base)]
                # in place of a path, which would mean nothing on another machine
                text = files["adapter_config.json"].read_text(encoding="utf-8")
                stands_on = json.loads(text) | {"base_model_name_or_path": base.ref}
                files["adapter_config.json"] = config = Path(scratch) / "adapter_config.json"
                config.write_text(json.dumps(stands_on, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            return registry.publish(
                files,
                kind="base",
                name=_name_for(self.folder.name),
                parents=parents,
                metadata={"folder": self.folder.name},
            )


def find_model(
    ref: str, registry: Registry, kinds: Collection[str] = MODEL_KINDS, *, key: str = "model.ref"
) -> ModelSource:
    """The model that `ref` names.

    Args:
        ref: `name`, `name@v3` or `name@alias` of the registry, a local folder, or a Hub id.
        registry: where refs are looked up; what is opened there is verified.
        kinds: what an artefact may be; a folder or a Hub model is always let through.
        key: the config key `ref` stands under, for the error.

    Raises:
        UserError: there is no such model, or it is of the wrong kind; the text says where it was looked for.
    """
    if is_explicit_path(ref):
        return _local(Path(ref).expanduser().resolve(), registry, key)
    if registry.find(ref) is not None:
        return _from_registry(ref, registry, kinds, key)
    if Path(ref).is_dir() and _holds_model(Path(ref)):
        return _local(Path(ref).resolve(), registry, key)
    if "@" in ref:
        return _from_registry(ref, registry, kinds, key)
    return _from_hub(ref, registry, key)


def _from_registry(ref: str, registry: Registry, kinds: Collection[str], key: str) -> ModelSource:
    try:
        artefact = registry.resolve(ref, kinds=kinds)  # type: ignore[arg-type]
        folder = registry.open(artefact)
    except UserError as error:
        raise UserError([f"{key} = {ref!r}: {problem}" for problem in error.problems]) from None
    pointer = folder / HUB_POINTER
    if pointer.is_file():
        hub = json.loads(pointer.read_text())
        return ModelSource(
            artefact.ref,
            _download(hub["id"], hub["revision"], key),
            artefact,
            hub=(hub["id"], hub["revision"]),
        )
    base = None
    if (folder / "adapter_config.json").is_file():
        base = _from_registry(registry.base_of(artefact).ref, registry, MODEL_KINDS, key)
    return ModelSource(artefact.ref, folder, artefact, base)


def _local(folder: Path, registry: Registry, key: str) -> ModelSource:
    if not folder.is_dir():
        raise UserError(f"{key} = {str(folder)!r}: no such folder")
    if not _holds_model(folder):
        raise UserError(f"{key} = {str(folder)!r}: holds no model (neither config.json nor adapter_config.json)")
    _check_weights(folder, f"{key} = {str(folder)!r}")
    base = None
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        below = json.loads(adapter.read_text()).get("base_model_name_or_path")
        if not below:
            raise UserError(f"{adapter}: base_model_name_or_path is missing: which model is the adapter for?")
        base = find_model(below, registry, key=f"{adapter}: base_model_name_or_path")
    return ModelSource(str(folder), folder, base=base)


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _check_weights(folder: Path, given: str) -> None:
    """Weights that are pickles may run code when they are loaded, and no artefact holds them: said before training."""
    if any(folder.glob("*.safetensors")):
        return
    other = ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth")))
    if not other:
        raise UserError(f"{given}: holds no weights (*.safetensors); name the folder that save_pretrained wrote")
    raise UserError(
        f"{given}: holds no *.safetensors (only {other}); convert it once, with from_pretrained(...) and "
        "save_pretrained(another folder) of transformers or peft, and name that folder"
    )


def _from_hub(ref: str, registry: Registry, key: str) -> ModelSource:
    if ref.count("/") > 1:
        raise UserError(f"{key} = {ref!r}: no such folder, and neither a registry name nor a Hub id")
    try:
        folder = _download(ref, None, key)
    except UserError as error:
        names = sorted({artefact.name for artefact in registry.artefacts() if artefact.kind in MODEL_KINDS})
        hint = did_you_mean(ref, names, "models in the registry")
        raise UserError([f"{problem}; {hint}" for problem in error.problems]) from None
    _check_weights(folder, f"{key} = {ref!r}")
    base = None
    if (folder / "adapter_config.json").is_file():
        below = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        base = find_model(below, registry, key=f"{ref}: base_model_name_or_path")
    return ModelSource(ref, folder, base=base, hub=(ref, folder.name))


def _download(hub_id: str, revision: str | None, key: str) -> Path:
    """The snapshot folder of a Hub model; from the cache when the Hub is out of reach."""
    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=[*MODEL_FILES], ignore_patterns=[*NOT_MODEL_FILES]
            )
        )
    except HFValidationError:
        raise UserError(f"{key} = {hub_id!r}: neither in the registry, nor a folder, nor a Hub id") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{key} = {hub_id!r}: not in the registry, not a folder, and the Hub has no such model "
            "(or it is private: log in with `hf auth login`)"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{key} = {hub_id!r}: not in the registry, not a folder, and the Hub cannot be reached{_why(error)}; "
            "give a local folder, or download it first where there is a network"
        ) from None


def _why(error: OSError) -> str:
    """What the Hub or the system has said; the text of the Hub's exceptions is for programmers."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    why = f"it answered {status}" if status is not None else error.strerror
    return f" ({why})" if why else ""


def _name_for(name: str) -> str:
    """`base/...` for a model from outside: letters, digits and `._-` stay."""
    clean = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name.replace("/", "--"))
    return f"base/{clean.strip('.-_') or 'model'}"
