"""How Alembic reaches the database: over the connection ``database.connect`` hands it, inside its
transaction."""

from alembic import context

from motion_app.study.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
