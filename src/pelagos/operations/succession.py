"""Who is next: of each target whose head is finished, the operation behind it is made due.

It is part of the transaction that finishes the head; how an operation comes to wait is :mod:`journal`'s.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from pelagos.model.states import OperationState
from pelagos.operations.reading import chunks
from pelagos.operations.records import WAITING
from pelagos.store.schema import operations

__all__ = ["free_successors"]

_waiting_targets = (
    select(operations.c.target_id)
    .where(
        operations.c.account == bindparam("b_account"),
        operations.c.finished_at.is_(None),
        operations.c.next_at == WAITING,
        operations.c.state == OperationState.PENDING.value,
    )
    .distinct()
)
_queue_of = (
    select(operations.c.id, operations.c.target_id, operations.c.state, operations.c.next_at)
    .where(operations.c.target_id.in_(bindparam("b_ids", expanding=True)), operations.c.finished_at.is_(None))
    .order_by(operations.c.created_at, operations.c.id)
)
_set_free = update(operations).where(operations.c.id == bindparam("b_id")).values(next_at=bindparam("b_now"))


def free_successors(connection: Connection, account: str, now: float) -> int:
    """Make the next operation of each target due whose head is finished; how many that were.

    Nothing is freed while another of the target is up, whatever the order of their times says."""
    waiting = [row[0] for row in connection.execute(_waiting_targets, {"b_account": account})]
    freed = []
    for chunk in chunks(sorted(waiting)):
        heads: dict[str, Any] = {}
        busy = set()
        for row in connection.execute(_queue_of, {"b_ids": chunk}):
            heads.setdefault(row.target_id, row)
            if row.state != OperationState.PENDING or row.next_at != WAITING:
                busy.add(row.target_id)
        freed += [{"b_id": head.id, "b_now": now} for target, head in heads.items() if target not in busy]
    if freed:
        connection.execute(_set_free, freed)
    return len(freed)
