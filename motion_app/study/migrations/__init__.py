"""Alembic's scripts; ``schema.connect`` runs them."""
