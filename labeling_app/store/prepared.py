"""Statements that every claim and every answer needs.

SQLAlchemy takes some 30 microseconds to run one, SQLite itself three. On SQLite, where one thread writes for everybody,
these go to the driver directly: compiled once, with SQLAlchemy's own conversions of types on the way in and out. On
PostgreSQL, where the way to the server takes longer than either, they go through SQLAlchemy.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

if TYPE_CHECKING:
    from labeling_app.store.transaction import Tx

Convert = Callable[[Any], Any] | None
Statement = sa.Select[*tuple[Any, ...]] | sa.Insert | sa.Update


class Prepared:
    """One statement, run with the values of its parameters by name.

    Args:
        statement: a SELECT, an UPDATE without RETURNING, or an INSERT of one row.
        columns: of an INSERT: the names of what is inserted.
    """

    def __init__(self, statement: Statement, columns: Iterable[str] | None = None) -> None:
        self.statement, self._columns = statement, list(columns) if columns is not None else None
        self._on_sqlite: _OnSqlite | None = None

    def all(self, tx: "Tx", values: Mapping[str, Any]) -> list[Any]:
        """All rows that it selects; their columns are attributes."""
        if tx.raw is None:
            return list(tx.connection.execute(self.statement, values).all())
        found = self._compiled(tx)
        return [found.row(row) for row in tx.raw.execute(found.sql, found.parameters(values))]

    def first(self, tx: "Tx", values: Mapping[str, Any]) -> Any:
        """The first row, or None."""
        if tx.raw is None:
            return tx.connection.execute(self.statement, values).first()
        found = self._compiled(tx)
        row = tx.raw.execute(found.sql, found.parameters(values)).fetchone()
        return None if row is None else found.row(row)

    def one(self, tx: "Tx", values: Mapping[str, Any]) -> Any:
        """The row that there must be."""
        row = self.first(tx, values)
        assert row is not None
        return row

    def change(self, tx: "Tx", values: Mapping[str, Any]) -> int:
        """Run it; returns how many rows it has changed."""
        if tx.raw is None:
            return tx.connection.execute(self.statement, values).rowcount
        found = self._compiled(tx)
        return tx.raw.execute(found.sql, found.parameters(values)).rowcount

    def insert(self, tx: "Tx", values: Mapping[str, Any]) -> int:
        """Insert a row; returns its id."""
        if tx.raw is None:
            key = tx.connection.execute(self.statement, values).inserted_primary_key
            assert key is not None
            return int(key[0])
        found = self._compiled(tx)
        new_id = tx.raw.execute(found.sql, found.parameters(values)).lastrowid
        assert new_id is not None
        return new_id

    def _compiled(self, tx: "Tx") -> "_OnSqlite":
        if self._on_sqlite is None:
            self._on_sqlite = _compile(self.statement, self._columns, tx.connection.dialect)
        return self._on_sqlite


@dataclass(frozen=True)
class _OnSqlite:
    """SQL with `?` for parameters; how these and the results are converted."""

    sql: str
    names: list[tuple[str, Convert]]
    constants: Mapping[str, Any]
    convert: list[tuple[int, Callable[[Any], Any]]]
    make_row: Callable[[Iterable[Any]], Any]

    def parameters(self, values: Mapping[str, Any]) -> list[Any]:
        known = {**self.constants, **values}
        return [known[name] if convert is None else convert(known[name]) for name, convert in self.names]

    def row(self, found: tuple[Any, ...]) -> Any:
        if not self.convert:
            return self.make_row(found)
        columns = list(found)
        for place, convert in self.convert:
            columns[place] = convert(columns[place])
        return self.make_row(columns)


def _compile(statement: Statement, columns: list[str] | None, dialect: Dialect) -> _OnSqlite:
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    assert isinstance(compiled, SQLCompiler)
    assert compiled.positiontup is not None
    constants = {name: value for name, value in compiled.params.items() if not compiled.binds[name].required}
    names: list[tuple[str, Convert]] = [
        (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in compiled.positiontup
    ]
    selected = list(statement.selected_columns) if isinstance(statement, sa.Select) else []
    results = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in selected]
    convert: list[tuple[int, Callable[[Any], Any]]] = [
        (place, result) for place, result in enumerate(results) if result is not None
    ]
    row: Any = namedtuple("Row", [str(column.key) for column in selected])  # type: ignore[misc]
    return _OnSqlite(compiled.string, names, constants, convert, row._make)
