"""Running the jobs of a batch, each in a savepoint: the part that both engines share.

The connection's SQLAlchemy transaction stays open for good and the real BEGIN, SAVEPOINT and COMMIT go to the driver
below it: SQLAlchemy's own transaction objects cost more than a one-row insert. A transaction may use
``connection.begin_nested()``, never ``commit`` or ``rollback``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pelagos.model.errors import InternalError
from pelagos.store.batcher import Job

__all__ = ["run_jobs"]

_SAVEPOINT = "SAVEPOINT pelagos_job"
_RELEASE = "RELEASE SAVEPOINT pelagos_job"
_UNDO = "ROLLBACK TO SAVEPOINT pelagos_job"


def run_jobs(
    jobs: list[Job[Any]],
    connection: Any,
    control: Callable[[str], object],
    is_store_fault: Callable[[BaseException], bool],
    undone: Callable[[], None] | None = None,
) -> bool:
    """Run each job in a savepoint of the open transaction; True if one of them succeeded.

    ``control`` sends a transaction command. A job's own error is kept in the job; one for which ``is_store_fault`` says
    true is raised, since it concerns the whole batch. ``undone`` is called after each savepoint that was undone."""
    some = False
    for job in jobs:
        job.value = job.error = None
        control(_SAVEPOINT)
        try:
            value = job.transaction(connection)
            if inspect.iscoroutine(value):
                value.close()
                raise InternalError("a transaction is a plain function, not a coroutine function")
            control(_RELEASE)
        except Exception as error:
            if is_store_fault(error):
                raise
            control(_UNDO)
            control(_RELEASE)
            if undone is not None:
                undone()
            job.error = error
        else:
            job.value = value
            some = True
    return some
