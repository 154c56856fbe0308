"""The journal on every engine of the store; the cloud is simulated, the clock real."""

from support.databases import database, engine, make_store, sqlite_path, world

__all__ = ["database", "engine", "make_store", "sqlite_path", "world"]
