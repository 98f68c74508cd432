"""Alembic's scripts; ``database.connect`` runs them."""
