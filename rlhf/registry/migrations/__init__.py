"""Alembic revisions of the registry's tables, in one line; add at the end, change none that was released."""
