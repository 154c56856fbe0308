"""What was typed, kept in the state directory: readable by its writer alone, and bounded.

Lines may hold what nobody else should read, so the files are made with mode 0600 in a directory of mode 0700 before
anything opens them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

__all__ = ["MOST_LINES", "history_file"]

MOST_LINES = 10_000


def history_file(home: Path) -> Path:
    """IPython's history in the home, made if it is not there and shortened to its last lines. Raises OSError."""
    directory = home / "shell"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "history.sqlite"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    path.chmod(0o600)
    _shorten(path)
    return path


def _shorten(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=1.0)) as connection:
        try:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'history'").fetchone():
                connection.execute(
                    "DELETE FROM history WHERE rowid NOT IN "
                    "(SELECT rowid FROM history ORDER BY session DESC, line DESC LIMIT ?)",
                    (MOST_LINES,),
                )
                connection.commit()
        except sqlite3.DatabaseError:
            # Another shell writes to it, or it is no history: IPython moves a broken one aside by itself.
            connection.rollback()
