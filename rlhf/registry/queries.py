"""Reading the registry's tables: rows in, artefacts out."""

from collections.abc import Collection, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.errors import UserError
from rlhf.registry import schema
from rlhf.registry.artefact import KINDS, Artefact, Kind, LineageNode, Parent
from rlhf.registry.names import LATEST, Ref, did_you_mean
from rlhf.registry.schema import AnyRow

_A = schema.artefacts.c
_live = _A.deleted_at.is_(None)
_MAX_PARAMETERS = 500
"""Ids asked for in one statement; SQLite allows some thousands at most."""


def artefact_rows(connection: Connection, *where: sa.ColumnElement[bool]) -> Sequence[AnyRow]:
    """The rows of `artefacts`, each with its name's kind, oldest version first, name by name."""
    joined = sa.select(schema.artefacts, schema.names.c.kind).join_from(schema.artefacts, schema.names)
    return connection.execute(joined.where(*where).order_by(_A.name, _A.version)).all()


def artefacts(connection: Connection, objects: Path, rows: Sequence[AnyRow]) -> list[Artefact]:
    """The artefacts of `rows`, with their parents and aliases, in the same order."""
    parents: dict[int, list[Parent]] = {row.id: [] for row in rows}
    aliases: dict[int, list[str]] = {row.id: [] for row in rows}
    newest = newest_versions(connection)
    parent, parent_name = schema.artefacts, schema.names
    for some in _portions(list(parents)):
        found = connection.execute(
            sa.select(schema.edges.c.child_id, schema.edges.c.role, parent, parent_name.c.kind)
            .join_from(schema.edges, parent, schema.edges.c.parent_id == parent.c.id)
            .join(parent_name, parent.c.name == parent_name.c.name)
            .where(schema.edges.c.child_id.in_(some))
            .order_by(schema.edges.c.child_id, schema.edges.c.position)
        )
        for edge in found:
            parents[edge.child_id].append(
                Parent(role=edge.role, ref=f"{edge.name}@v{edge.version}", kind=edge.kind, digest=edge.digest)
            )
        alias_c = schema.aliases.c
        standing = sa.select(schema.aliases).where(alias_c.artefact_id.in_(some)).order_by(alias_c.alias)
        for alias in connection.execute(standing):
            aliases[alias.artefact_id].append(alias.alias)
    return [
        Artefact(
            name=row.name,
            version=row.version,
            kind=row.kind,
            digest=row.digest,
            created_at=row.created_at,
            path=objects / row.digest,
            metadata=row.metadata,
            parents=tuple(parents[row.id]),
            aliases=((LATEST,) if newest.get(row.name) == row.version else ()) + tuple(aliases[row.id]),
            run_id=row.run_id,
        )
        for row in rows
    ]


def newest_versions(connection: Connection) -> dict[str, int]:
    """The newest version of every name that has one left."""
    newest = sa.select(_A.name, sa.func.max(_A.version)).where(_live).group_by(_A.name)
    return {row[0]: row[1] for row in connection.execute(newest)}


def find_row(connection: Connection, ref: Ref) -> AnyRow | None:
    """The row that `ref` stands for at this moment, deleted or not; None if there is none."""
    where = [_A.name == ref.name]
    if ref.version is not None:
        where.append(_A.version == ref.version)
    elif ref.alias is not None:
        alias = schema.aliases.c
        at = sa.select(alias.artefact_id).where(alias.name == ref.name, alias.alias == ref.alias)
        where.append(_A.id == at.scalar_subquery())
    else:
        where.append(_live)
    rows = artefact_rows(connection, *where)
    return rows[-1] if rows else None


def resolve_row(connection: Connection, ref: Ref, kinds: Collection[Kind] | None = None) -> AnyRow:
    """The row that `ref` stands for at this moment.

    Raises:
        UserError: nothing stands there, or gc took its content, or its kind is not among `kinds`.
    """
    row = find_row(connection, ref)
    if row is None:
        raise UserError(_unknown(connection, ref))
    shown = f"{row.name}@v{row.version}"
    if row.deleted_at is not None:
        when = f"{row.deleted_at:%Y-%m-%d}"
        raise UserError(f"{shown}: deleted by gc on {when}; {_others(connection, ref, f'v{row.version}')}")
    if kinds is not None and row.kind not in kinds:
        expected = " or ".join(kind for kind in KINDS if kind in kinds)
        raise UserError(f"{shown}: is of kind {row.kind}; expected {expected}")
    return row


def _unknown(connection: Connection, ref: Ref) -> str:
    names = list(connection.execute(sa.select(schema.names.c.name).order_by(schema.names.c.name)).scalars())
    if ref.name not in names:
        return f"{ref}: no artefact is called {ref.name}; {did_you_mean(ref.name, names, 'names')}"
    which = str(ref).partition("@")[2]
    return f"{ref}: {ref.name} has no {which}; {_others(connection, ref, which)}"


def _others(connection: Connection, ref: Ref, wrong: str) -> str:
    """The other versions and aliases of the same name that one could have meant."""
    alias = schema.aliases.c
    named = sa.select(alias.alias).where(alias.name == ref.name).order_by(alias.alias)
    kept = sa.select(_A.version).where(_A.name == ref.name, _live).order_by(_A.version.desc())
    versions = [f"v{version}" for version in connection.execute(kept).scalars()]
    known = [LATEST, *connection.execute(named).scalars(), *versions]
    return did_you_mean(wrong, known, "versions and aliases")


def lineage(connection: Connection, objects: Path, root: AnyRow) -> LineageNode:
    """`root` and all its ancestors."""
    parent_ids: dict[int, list[tuple[str, int]]] = {}
    frontier = {root.id}
    while frontier:
        for id_ in frontier:
            parent_ids[id_] = []
        for some in _portions(sorted(frontier)):
            edge = schema.edges.c
            found = sa.select(schema.edges).where(edge.child_id.in_(some))
            for row in connection.execute(found.order_by(edge.child_id, edge.position)):
                parent_ids[row.child_id].append((row.role, row.parent_id))
        frontier = {id_ for edges in parent_ids.values() for _, id_ in edges} - parent_ids.keys()
    portions = _portions(sorted(parent_ids))
    rows = [row for some in portions for row in artefact_rows(connection, _A.id.in_(some))]
    found_artefacts = artefacts(connection, objects, rows)
    by_id = {row.id: artefact for row, artefact in zip(rows, found_artefacts, strict=True)}
    spelled_out: set[int] = set()

    def node(id_: int, role: str | None) -> LineageNode:
        if id_ in spelled_out and parent_ids[id_]:
            return LineageNode(by_id[id_], role, repeated=True)
        spelled_out.add(id_)
        return LineageNode(by_id[id_], role, tuple(node(parent, of) for of, parent in parent_ids[id_]))

    return node(root.id, None)


def _portions(ids: list[int]) -> list[list[int]]:
    return [ids[start : start + _MAX_PARAMETERS] for start in range(0, len(ids), _MAX_PARAMETERS)]
