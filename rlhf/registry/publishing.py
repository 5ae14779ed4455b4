"""The steps of publishing that touch the tables, and what is checked before."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.errors import UserError
from rlhf.registry import queries, schema
from rlhf.registry.artefact import Kind
from rlhf.registry.names import Ref
from rlhf.registry.schema import AnyRow


@dataclass(frozen=True)
class NewVersion:
    """What is about to be published; `parents` are pairs of role and row."""

    name: str
    kind: Kind
    digest: str
    metadata: dict[str, Any]
    run_id: str | None
    parents: list[tuple[str, AnyRow]]


def add(connection: Connection, new: NewVersion) -> AnyRow:
    """The row of the new version, or of the newest one if that is the same."""
    known = check_kind(connection, new.name, new.kind)
    newest = queries.find_row(connection, Ref(new.name))
    if newest is not None and _is_same(connection, newest, new):
        return newest
    names = schema.names
    version = 1 if known is None else known.last_version + 1
    if known is None:
        connection.execute(sa.insert(names).values(name=new.name, kind=new.kind, last_version=version))
    else:
        connection.execute(sa.update(names).where(names.c.name == new.name).values(last_version=version))
    connection.execute(
        sa.insert(schema.artefacts).values(
            name=new.name,
            version=version,
            digest=new.digest,
            metadata=new.metadata,
            run_id=new.run_id,
            created_at=datetime.now(UTC),
        )
    )
    added = queries.resolve_row(connection, Ref(new.name, version=version))
    for position, (role, parent) in enumerate(new.parents):
        edge = sa.insert(schema.edges)
        connection.execute(edge.values(child_id=added.id, position=position, role=role, parent_id=parent.id))
    return added


def set_alias(connection: Connection, name: str, alias: str, artefact_id: int) -> None:
    """Let the alias stand there, wherever it stood."""
    table = schema.aliases
    connection.execute(sa.delete(table).where(table.c.name == name, table.c.alias == alias))
    values = {"name": name, "alias": alias, "artefact_id": artefact_id, "moved_at": datetime.now(UTC)}
    connection.execute(sa.insert(table).values(values))


def check_kind(connection: Connection, name: str, kind: Kind) -> AnyRow | None:
    """The row of `names`, if there is one.

    Raises:
        UserError: the name holds artefacts of another kind.
    """
    names = schema.names
    known = connection.execute(sa.select(names).where(names.c.name == name)).one_or_none()
    if known is not None and known.kind != kind:
        raise UserError(f"{name}: holds artefacts of kind {known.kind}; publish a {kind} under another name")
    return known


def as_json(name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`metadata` as it will read back from the database.

    Raises:
        UserError: something in it is no JSON (NaN is none).
    """
    for key, value in metadata.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: metadata {key!r} = {value!r} cannot be stored: {error}") from error
    plain: dict[str, Any] = json.loads(json.dumps(dict(metadata)))
    return plain


def adapter_details(folder: Path, name: str, parents: list[tuple[str, AnyRow]]) -> dict[str, Any]:
    """What the metadata of an adapter holds besides; nothing for other artefacts.

    Raises:
        UserError: the adapter points to a path of this machine, or does not say what it was trained on.
    """
    file = folder / "adapter_config.json"
    if not file.exists():
        return {}
    try:
        points_to = json.loads(file.read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{name}: adapter_config.json: not a JSON object ({error}); write it again") from error
    if points_to is not None and points_to.startswith(("/", ".", "~")):
        raise UserError(
            f"{name}: adapter_config.json: base_model_name_or_path = {points_to!r} is a path on this "
            "machine; write the base's registry ref or Hub id there"
        )
    bases = [row.digest for role, row in parents if role == "base"]
    if len(bases) != 1:
        raise UserError(f"{name}: an adapter needs one parent in the role `base`; {len(bases)} were given")
    return {"base_digest": bases[0]}


def _is_same(connection: Connection, newest: AnyRow, new: NewVersion) -> bool:
    edge = schema.edges.c
    edges = sa.select(edge.role, edge.parent_id).where(edge.child_id == newest.id).order_by(edge.position)
    return (
        newest.digest == new.digest
        and newest.metadata == new.metadata
        and [tuple(row) for row in connection.execute(edges)] == [(role, row.id) for role, row in new.parents]
    )
