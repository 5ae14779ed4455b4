from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from rlhf import db
from rlhf.errors import UserError
from rlhf.registry import Registry, schema


def test_the_revisions_make_the_tables_that_the_code_expects(home: Path, url: str) -> None:
    Registry(home, url).artefacts()
    with db.engine(url).connect() as connection:
        options = {"version_table": "registry_version", "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []


def test_a_reader_sees_one_moment_on_the_server_too(home: Path, url: str) -> None:
    Registry(home, url).artefacts()
    engine = db.engine(url)
    counted = sa.select(sa.func.count()).select_from(schema.names)
    with db.read(engine) as reader:
        assert reader.execute(counted).scalar() == 0
        with db.write(engine, "registry") as writer:
            writer.execute(sa.insert(schema.names).values(name="g/a", kind="sft", last_version=0))
        assert reader.execute(counted).scalar() == 0


def test_a_registry_from_a_newer_version_is_refused(home: Path, url: str) -> None:
    Registry(home, url).artefacts()
    with db.write(db.engine(url)) as connection:
        connection.execute(sa.text("UPDATE registry_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="its registry tables are at version 9999"):
        Registry(home, url).artefacts()
