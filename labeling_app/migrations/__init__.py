"""Alembic revisions of the label store's tables, in one line; add at the end, change none that was released."""
