"""Alembic migrations, with dated names; package data of the wheel."""
