"""The shared databases, for this folder's tests."""

from support.databases import database, engine, make_store, sqlite_path, world

__all__ = ["database", "engine", "make_store", "sqlite_path", "world"]
