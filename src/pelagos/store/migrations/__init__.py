"""Alembic migrations: one module a revision in ``versions``, written for reading, run by :mod:`.running`."""
