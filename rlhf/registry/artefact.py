"""What the registry hands out: artefacts, the edges between them, lineage, and what gc would do."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["base", "dataset", "preferences", "sft", "reward", "policy", "report"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Parent:
    """An edge to an ancestor: `role` says what it was to the child (base, data, preferences, ref, ...)."""

    role: str
    ref: str
    kind: Kind
    digest: str


@dataclass(frozen=True)
class Artefact:
    """One version of one name. `path` is the folder with its files, read-only; `digest` names the content."""

    name: str
    version: int
    kind: Kind
    digest: str
    created_at: datetime
    path: Path
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    parents: tuple[Parent, ...] = ()
    aliases: tuple[str, ...] = ()
    run_id: str | None = None

    @property
    def ref(self) -> str:
        """`group/name@v3`: means this very version for ever."""
        return f"{self.name}@v{self.version}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "ref": self.ref,
            "name": self.name,
            "version": self.version,
            "kind": self.kind,
            "digest": self.digest,
            "created_at": self.created_at.isoformat(),
            "aliases": list(self.aliases),
            "run_id": self.run_id,
            "path": str(self.path),
            "metadata": self.metadata,
            "parents": [vars(parent) for parent in self.parents],
        }


@dataclass(frozen=True)
class LineageNode:
    """An artefact, what it was to the one below it (None at the root), and its own ancestors.

    An ancestor reached twice is spelled out once; where it comes again, `repeated` is set and
    `children` is empty.
    """

    artefact: Artefact
    role: str | None = None
    children: tuple["LineageNode", ...] = ()
    repeated: bool = False

    @property
    def annotators(self) -> list[dict[str, Any]]:
        """Who judged, as a `preferences` artefact has it: `name`, `num_judgements`, of which `num_held_out`."""
        known = self.artefact.metadata.get("annotators", [])
        return list(known) if self.artefact.kind == "preferences" else []

    @property
    def tasks(self) -> dict[str, str]:
        """What was judged, as a `preferences` artefact has it: a queue's name and its tasks' numbers (`1-40,52`)."""
        known = self.artefact.metadata.get("tasks", {})
        return dict(known) if self.artefact.kind == "preferences" else {}

    @property
    def simulated(self) -> bool:
        """Whether the annotators were a program."""
        return bool(self.artefact.metadata.get("simulated", False))

    @property
    def scorers(self) -> list[dict[str, Any]]:
        """What rewarded a policy: `ref` of a model or `function` with the `sha256` of its file, and the `weight`."""
        return list(self.artefact.metadata.get("scorers", []))

    def walk(self) -> Iterator["LineageNode"]:
        """This node and all above it, each artefact once."""
        if not self.repeated:
            yield self
            for child in self.children:
                yield from child.walk()

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it, nested."""
        node: dict[str, Any] = {
            "ref": self.artefact.ref,
            "role": self.role,
            "kind": self.artefact.kind,
            "digest": self.artefact.digest,
            "created_at": self.artefact.created_at.isoformat(),
            "aliases": list(self.artefact.aliases),
            "run_id": self.artefact.run_id,
        }
        if self.repeated:
            return node | {"repeated": True}
        if self.annotators:
            node |= {"annotators": self.annotators, "simulated": self.simulated}
        if self.tasks:
            node["tasks"] = self.tasks
        if self.scorers:
            node["scorers"] = self.scorers
        return node | {"parents": [child.as_dict() for child in self.children]}


@dataclass(frozen=True)
class Kept:
    """An artefact that gc leaves alone, and every reason for it."""

    artefact: Artefact
    why: tuple[str, ...]


@dataclass(frozen=True)
class Garbage:
    """A folder that gc removes."""

    path: Path
    num_bytes: int
    why: str


@dataclass(frozen=True)
class GcPlan:
    """What gc would do, or (`deleted`) did: whole versions that go, and folders on disk that go."""

    kept: tuple[Kept, ...]
    delete: tuple[Artefact, ...]
    garbage: tuple[Garbage, ...]
    deleted: bool

    @property
    def num_bytes(self) -> int:
        """How much of the disk comes free."""
        return sum(garbage.num_bytes for garbage in self.garbage)

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "deleted": self.deleted,
            "num_bytes": self.num_bytes,
            "kept": [{"ref": kept.artefact.ref, "why": list(kept.why)} for kept in self.kept],
            "delete": [artefact.ref for artefact in self.delete],
            "garbage": [
                {"path": str(garbage.path), "num_bytes": garbage.num_bytes, "why": garbage.why}
                for garbage in self.garbage
            ],
        }
