"""Running Alembic's revisions on a connection whose transaction the caller holds.

There is no `env.py` and no `alembic.ini`: nothing is configured from outside, and a program that migrates its own store
should not depend on the current directory. Importing this module imports Alembic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

__all__ = ["run_migrations", "scripts"]


def scripts() -> ScriptDirectory:
    """The revisions shipped with this program."""
    here = Path(__file__).parent
    return ScriptDirectory(str(here), version_locations=[str(here / "versions")])


def run_migrations(connection: Connection, revision: str, *, up: bool) -> None:
    """Step to ``revision`` (``base``: before the first). Raises alembic.util.CommandError for an unknown one."""
    directory = scripts()

    def steps(current: Any, _context: Any) -> Any:
        if up:
            return directory._upgrade_revs(revision, current)
        return directory._downgrade_revs(revision, current)

    with EnvironmentContext(Config(), directory, fn=steps) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        environment.run_migrations()
