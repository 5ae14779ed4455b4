"""The registry: what was made, from what, and where it lies."""

import enum
import os
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rlhf import db
from rlhf.errors import UserError
from rlhf.registry import gc, publishing, queries, runs, schema
from rlhf.registry.artefact import KINDS, Artefact, GcPlan, Kind, LineageNode
from rlhf.registry.names import LATEST, Ref, check_alias, check_name, did_you_mean
from rlhf.registry.objects import ObjectStore
from rlhf.registry.schema import AnyRow

LOCK = "registry"
"""All that changes the registry takes turns: publishing, moving aliases, runs, gc."""


class _Any(enum.Enum):
    ANY = "any"


ANY = _Any.ANY
"""`move_alias(expected=ANY)`: wherever the alias stands."""


class AliasMoved(UserError):
    """An alias did not stand where the caller believed; `found` is the version where it stands, or None."""

    def __init__(self, name: str, alias: str, expected: int | None, found: int | None) -> None:
        self.found = found
        stands = "does not exist" if found is None else f"stands at v{found}"
        believed = "not to exist" if expected is None else f"at v{expected}"
        super().__init__(
            f"{name}@{alias}: {stands} now, expected {believed}: somebody was faster; look at "
            "what stands there, then decide again"
        )


class Registry:
    """The artefacts of one home.

    Args:
        home: the folder that holds objects and runs; `$RLHF_HOME` or else `./.rlhf` when left out.
        url: the database; `$RLHF_DATABASE_URL` or else `registry.db` in `home` when left out.

    Nothing is read or made before the first call.
    """

    def __init__(self, home: Path | str | None = None, url: str | None = None) -> None:
        self.home = Path(home or os.environ.get("RLHF_HOME") or ".rlhf").expanduser().absolute()
        in_home = sa.URL.create("sqlite", database=str(self.home / "registry.db"))
        self._url = url or os.environ.get("RLHF_DATABASE_URL") or in_home
        self._store = ObjectStore(self.home)

    @cached_property
    def _engine(self) -> Engine:
        engine = db.engine(self._url)
        db.migrate(engine, schema.MIGRATIONS, "registry")
        return engine

    def publish(
        self,
        source: Path | str | Mapping[str, Path],
        *,
        kind: Kind,
        name: str,
        parents: Iterable[tuple[str, Artefact | str]] = (),
        metadata: Mapping[str, Any] | None = None,
        alias: str | None = None,
        run_id: str | None = None,
    ) -> Artefact:
        """Make a new version of `name` from a folder or files; `source` is copied, once, and left as it is.

        It is visible to others once it is wholly on disk, and not before. If the newest version already has
        the same content, parents and metadata, that version is returned and none is made: a stage that runs
        again does not multiply versions. (So keep what differs from run to run, as seconds do, out of it.)

        An adapter (a folder with `adapter_config.json`) needs a parent in the role `base`, whose digest is
        added to the metadata as `base_digest`.

        Args:
            source: a folder, a single file, or files by the names they are to have. Nothing but safetensors, JSON,
                text and the like (`objects.ALLOWED_SUFFIXES`).
            kind: what it is; a name holds artefacts of one kind.
            name: `group/name`.
            parents: pairs (role, artefact or ref) in the order in which lineage shows them.
            metadata: anything that JSON can hold; `annotators`, `tasks` and `simulated` are shown by lineage.
            alias: moved to the version returned, wherever it stood.
            run_id: the run that made it.

        Raises:
            UserError: the name or alias is malformed, the name holds another kind, a parent is unknown, or
                `source` is missing, empty, or holds files that no artefact may hold.
        """
        check_name(name)
        if kind not in KINDS:
            raise UserError(f"{name}: {kind!r} is no kind of artefact; {did_you_mean(kind, KINDS, 'kinds')}")
        if alias is not None and alias != LATEST:
            check_alias(alias)
        refs = [(role, parent.ref if isinstance(parent, Artefact) else parent) for role, parent in parents]
        with db.read(self._engine) as connection:  # before anything is copied
            publishing.check_kind(connection, name, kind)
            pinned = [(role, queries.resolve_row(connection, Ref.parse(ref))) for role, ref in refs]
        details = publishing.as_json(name, metadata or {})
        staged = self._store.stage(source if isinstance(source, Mapping) else Path(source))
        try:
            details |= publishing.adapter_details(staged.folder, name, pinned)
            with db.write(self._engine, LOCK) as connection:
                for _, row in pinned:  # gc may have been here since
                    queries.resolve_row(connection, Ref(row.name, version=row.version))
                self._store.put(staged)
                version = publishing.NewVersion(name, kind, staged.digest, details, run_id, pinned)
                row = publishing.add(connection, version)
                if alias is not None and alias != LATEST:
                    publishing.set_alias(connection, name, alias, row.id)
                return self._artefact(connection, row)
        finally:
            self._store.discard(staged)

    def check_names(self, names: Mapping[str, Kind]) -> None:
        """Find out whether artefacts of these kinds can be published under these names, before they are made.

        Raises:
            UserError: a name is malformed or holds another kind; all of them at once.
        """
        problems: list[str] = []
        with db.read(self._engine) as connection:
            for name, kind in names.items():
                try:
                    publishing.check_kind(connection, check_name(name), kind)
                except UserError as error:
                    problems += error.problems
        if problems:
            raise UserError(problems)

    def exists(self) -> bool:
        """Whether there is a registry here yet; asking makes none."""
        return db.exists(self._url)

    def resolve(self, ref: str, kinds: Collection[Kind] | None = None) -> Artefact:
        """The artefact that `name`, `name@v3` or `name@alias` stands for now.

        Raises:
            UserError: there is none (with what was probably meant), or its kind is not among `kinds`.
        """
        parsed = Ref.parse(ref)
        with db.read(self._engine) as connection:
            return self._artefact(connection, queries.resolve_row(connection, parsed, kinds))

    def find(self, ref: str) -> Artefact | None:
        """The artefact that `ref` stands for now, or None if there is none or `ref` is not even a ref.

        Where there is no registry yet, asking makes none.
        """
        try:
            parsed = Ref.parse(ref)
        except UserError:
            return None
        if not self.exists():
            return None
        with db.read(self._engine) as connection:
            row = queries.find_row(connection, parsed)
            return None if row is None or row.deleted_at is not None else self._artefact(connection, row)

    def open(self, artefact: Artefact | str, kinds: Collection[Kind] | None = None) -> Path:
        """The folder of an artefact, for reading, once every file in it proved to be what was published.

        While a run of this process lives (`start_run`), gc leaves alone what was opened.

        Raises:
            UserError: as `resolve`, or the content is damaged; every damaged file is named.
        """
        found = self.resolve(artefact.ref if isinstance(artefact, Artefact) else artefact, kinds)
        with db.read(self._engine) as connection:
            run_id = runs.of_this_process(connection)
        if run_id is not None:
            with db.write(self._engine, LOCK) as connection:
                row = queries.resolve_row(connection, Ref(found.name, version=found.version))
                runs.add_input(connection, run_id, row.id)
        problems = self._store.verify(found.digest)
        if problems:
            way_out = f"{found.ref}: is damaged on disk; publish it again from its source, or use another version"
            raise UserError([*problems, way_out])
        return found.path

    def base_of(self, artefact: Artefact | str) -> Artefact:
        """The artefact that an adapter was trained on.

        Raises:
            UserError: it has no parent in the role `base`.
        """
        found = self.resolve(artefact) if isinstance(artefact, str) else artefact
        bases = [parent.ref for parent in found.parents if parent.role == "base"]
        if not bases:
            raise UserError(f"{found.ref}: has no base; only adapters have one")
        return self.resolve(bases[0])

    def artefacts(self, name_prefix: str | None = None, kind: Kind | None = None) -> list[Artefact]:
        """All versions there are, name by name, oldest first."""
        column = schema.artefacts.c
        where: list[sa.ColumnElement[bool]] = [column.deleted_at.is_(None)]
        if name_prefix is not None:
            where.append(column.name.startswith(name_prefix, autoescape=True))
        if kind is not None:
            where.append(schema.names.c.kind == kind)
        with db.read(self._engine) as connection:
            rows = queries.artefact_rows(connection, *where)
            return queries.artefacts(connection, self._store.objects, rows)

    def lineage(self, ref: Artefact | str) -> LineageNode:
        """An artefact with all its ancestors.

        Raises:
            UserError: as `resolve`.
        """
        parsed = Ref.parse(ref.ref if isinstance(ref, Artefact) else ref)
        with db.read(self._engine) as connection:
            return queries.lineage(connection, self._store.objects, queries.resolve_row(connection, parsed))

    def move_alias(
        self, name: str, alias: str, to: int | str | None, *, expected: int | Literal[_Any.ANY] | None = ANY
    ) -> Artefact | None:
        """Let `name@alias` stand at another version; returns the artefact there.

        Args:
            name: `group/name`.
            alias: what to move; it is made if it does not exist.
            to: a version (3 or `v3`), another alias, or None to take the alias away.
            expected: the version where the caller believes the alias to stand now, None for nowhere: the move
                is made only if that is so.

        Raises:
            AliasMoved: the alias stands elsewhere than expected.
            UserError: the alias is malformed, or there is nothing at `to`.
        """
        check_name(name)
        check_alias(alias)
        target = to if to is None else Ref.parse(f"{name}@v{to}" if isinstance(to, int) else f"{name}@{to}")
        with db.write(self._engine, LOCK) as connection:
            stands = queries.find_row(connection, Ref(name, alias=alias))
            found = None if stands is None else stands.version
            if expected is not ANY and found != expected:
                raise AliasMoved(name, alias, expected, found)
            if target is None:
                queries.resolve_row(connection, Ref(name, alias=alias))
                table = schema.aliases
                connection.execute(sa.delete(table).where(table.c.name == name, table.c.alias == alias))
                return None
            row = queries.resolve_row(connection, target)
            publishing.set_alias(connection, name, alias, row.id)
            return self._artefact(connection, row)

    def verify(self, ref: Artefact | str) -> list[str]:
        """What is wrong with an artefact's files on disk, one line a file; empty when nothing is.

        Raises:
            UserError: as `resolve`.
        """
        artefact = self.resolve(ref) if isinstance(ref, str) else ref
        return self._store.verify(artefact.digest)

    def files(self, artefact: Artefact) -> list[dict[str, Any]]:
        """What an artefact holds: `path`, `size` in bytes and `sha256` of every file.

        Raises:
            UserError: its manifest is missing or damaged.
        """
        return self._store.files(artefact.digest)

    def gc(self, *, dry_run: bool = True, grace: timedelta = gc.GRACE) -> GcPlan:
        """Find what nothing leads to any more, and with `dry_run=False` delete it.

        Kept are: what an alias stands at (so the newest version of every name), what an unfinished run made
        or opened, what is younger than `grace`, and all ancestors of these. A deleted version's number is not
        given again.
        """
        if not dry_run:
            return gc.collect(lambda: db.write(self._engine, LOCK), self._store, grace)
        with db.read(self._engine) as connection:
            return gc.plan(connection, self._store, grace)

    def start_run(self, run_id: str, command: Iterable[str] = ()) -> None:
        """Say that this process now works at `run_id`; a run that was interrupted is taken up again.

        That no other process works at it is for the caller to see to: `tracking.Run` locks the run's folder.
        """
        with db.write(self._engine, LOCK) as connection:
            runs.start(connection, run_id, list(command))

    def hold(self, run_id: str, artefacts: Iterable[Artefact | str]) -> None:
        """Say that `run_id` uses these; gc leaves them alone until it has ended, or can no longer be resumed.

        Raises:
            UserError: there is none of that name, or gc has been faster.
        """
        with db.write(self._engine, LOCK) as connection:
            for artefact in artefacts:
                ref = artefact.ref if isinstance(artefact, Artefact) else artefact
                runs.add_input(connection, run_id, queries.resolve_row(connection, Ref.parse(ref)).id)

    def heartbeat(self, run_id: str) -> None:
        """Say that `run_id` is still at work; once an hour is plenty."""
        with db.write(self._engine, LOCK) as connection:
            runs.beat(connection, run_id)

    def finish_run(self, run_id: str, status: runs.Ended) -> None:
        """Say how `run_id` ended; after `interrupted` and `failed` it holds its inputs, so that it can be resumed."""
        with db.write(self._engine, LOCK) as connection:
            runs.finish(connection, run_id, status)

    def _artefact(self, connection: Connection, row: AnyRow) -> Artefact:
        return queries.artefacts(connection, self._store.objects, [row])[0]
