"""Alembic runs this: upgrade the connection that `upgrade.py` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from components.core.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
