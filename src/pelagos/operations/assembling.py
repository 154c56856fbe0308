"""Assembling: what the outcomes of part steps write. A part after the other is made, then their server; or taken back.

The way of a create with parts, by the steps of its kind: (part, ready) once for each part in its order; create, boot,
finish; and if anything fails, from wherever that is: discard and gone if there is a server, then (unpart, unparted)
once for each part that was made, the last one first. A delete goes delete, gone, then the same way, past the parts
that are kept. A server's record is a tombstone only when its parts are gone: so who waits for the record waits for all.

What no operation takes back any more (its cloud refused for good to delete a part; a server vanished and left its
parts) an observation finds, by its server's tombstone, and journals as ``parts.delete``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, bindparam, update

from pelagos import quotas
from pelagos.clouds.errors import CloudError
from pelagos.clouds.values import CloudPart
from pelagos.model.errors import Cancelled, ErrorPayload
from pelagos.model.states import OperationState, PartState
from pelagos.operations.kinds import CREATE_WITH_PARTS, KINDS
from pelagos.operations.records import Call, PartRecord, part_quota
from pelagos.store.schema import parts

if TYPE_CHECKING:
    from pelagos.operations.settling import Ledger

__all__ = ["Assembly", "made_parts"]

_seen = (
    update(parts)
    .where(parts.c.id == bindparam("b_id"))
    .values(
        provider_id=bindparam("b_provider"),
        token=bindparam("b_token"),
        state=bindparam("b_state"),
        address=bindparam("b_address"),
        updated_at=bindparam("b_now"),
    )
)
_deleting = (
    update(parts)
    .where(parts.c.id == bindparam("b_id"))
    .values(state=PartState.DELETING.value, updated_at=bindparam("b_now"))
)
_gone = (
    update(parts)
    .where(parts.c.id == bindparam("b_id"))
    .values(
        state=PartState.DELETED.value,
        reason=bindparam("b_reason"),
        updated_at=bindparam("b_now"),
        deleted_at=bindparam("b_now"),
    )
)


def made_parts(kind: str, records: tuple[PartRecord, ...]) -> list[PartRecord]:
    """The parts that an operation of this kind has to delete, the last one first. What is to be kept was asked for by
    nobody if its server's create fails."""
    return [p for p in reversed(records) if p.provider_id is not None and (not p.keep or kind == "server.create")]


class Assembly:
    """The part of a ledger that writes parts."""

    def __init__(self, ledger: Ledger, now: float) -> None:
        self._ledger = ledger
        self._now = now
        self._seen: list[dict[str, Any]] = []
        self._deleting: list[dict[str, Any]] = []
        self._gone: list[dict[str, Any]] = []
        self._released: dict[tuple[str, str], int] = {}

    def made(self, call: Call, part: CloudPart, cancelled: bool) -> None:
        """A part is there: the next one's turn, the server's, or it is waited for."""
        ledger, record = self._ledger, call.part
        assert record is not None
        token = call.token or record.token
        ledger.close(call, "done", part.provider_id, None)
        ready = part.ready and not part.failed
        state = PartState.READY if ready else PartState.BUILD
        self._seen.append(
            {
                "b_id": record.id,
                "b_provider": part.provider_id,
                "b_token": token,
                "b_state": state.value,
                "b_address": part.address,
                "b_now": self._now,
            }
        )
        facts = {"key": record.key, "kind": record.kind.value, "provider_id": part.provider_id}
        if record.provider_id is None:
            ledger.commits.append(record.id)
            ledger.event(call, "part.created", facts)
        if ready and record.state is not PartState.READY:
            ledger.event(call, "part.ready", facts | ({"address": part.address} if part.address else {}))
        if part.failed:
            self.take_back(call, _broken(record, part))
        elif cancelled:
            self.take_back(call, _cancelled(), told=False)
        elif ready:
            self.next_part(call)
        else:
            found = msgspec.structs.replace(
                record, provider_id=part.provider_id, token=token, state=state, address=part.address
            )
            ledger.await_(msgspec.structs.replace(call, part=found), call.provider_id, None)

    def next_part(self, call: Call) -> None:
        """On to the part after this one, or to the server."""
        waiting = any(p.state is PartState.PLANNED and (call.part is None or p.id != call.part.id) for p in call.parts)
        verb = "part" if waiting else "create"
        step = KINDS[call.kind].index(verb, CREATE_WITH_PARTS)
        self._ledger.go(call, OperationState.PENDING, step, 0, self._now, None)

    def refused(self, call: Call, error: ErrorPayload, cancelled: bool) -> None:
        """Nothing came of the part, or of the server: what was made before it is taken back."""
        if made_parts(call.kind, call.parts):
            self.take_back(call, error, told=not cancelled)
        else:
            self.end(call, error, cancelled)

    def take_back(self, call: Call, error: ErrorPayload | None, *, told: bool = True) -> None:
        """No server is there (any more): its parts go. ``told``: it is a failure, and said to be one."""
        ledger = self._ledger
        step = KINDS[call.kind].index("unpart")
        ledger.go(call, OperationState.PENDING, step, 0, self._now, error)
        if error is not None and told:
            ledger.server_failed(call, error)

    def done(self, call: Call, reason: str, error_blob: bytes | None, cancelled: bool) -> None:
        """A call or a wait of a step after the server's, or of one of a part, is through."""
        ledger = self._ledger
        error = ledger.error_of(error_blob)
        match call.verb:
            case "part" | "ready":
                self.next_part(call)
            case "unpart" if call.part is not None:
                self._deleting.append({"b_id": call.part.id, "b_now": self._now})
                ledger.await_(call, call.provider_id, error_blob)
            case "unparted" if call.part is not None:
                self._unmade(call, error, cancelled)
            case _:
                # The server is gone, now or already, or the part that was at its turn is.
                left = made_parts(call.kind, call.parts)
                if left:
                    self.take_back(call, error, told=False)
                else:
                    self.end(call, error, cancelled)

    def end(self, call: Call, error: ErrorPayload | None, cancelled: bool) -> None:
        """Nothing of it is left that has to go."""
        ledger = self._ledger
        self._cancel_reservations(call)
        match call.kind:
            case "server.create":
                error = error or _cancelled()
                if cancelled:
                    ledger.end_cancelled(call, error, release=call.counted)
                else:
                    ledger.end_failed(call, error, release=call.counted)
            case "server.delete":
                ledger.end_deleted(call, gone_before=not call.counted)
            case _:
                ledger.finish(call, OperationState.SUCCEEDED)

    def left(self, call: Call, error: ErrorPayload) -> None:
        """The cloud refuses for good to delete a part: an observation sees to those that are there."""
        self._cancel_reservations(call)
        self._ledger.end_failed(call, error, release=call.counted)

    def _cancel_reservations(self, call: Call) -> None:
        """Of what was never made. Where the server was there, its own is committed, and stays so."""
        ledger = self._ledger
        for record in call.parts:
            if record.provider_id is None:
                self._gone.append({"b_id": record.id, "b_reason": "never made", "b_now": self._now})
                ledger.cancels.append(record.id)
        if call.kind == "server.create":
            ledger.cancels.append(call.operation_id)

    def write(self, connection: Connection) -> None:
        """Send what was gathered, after the ledger's own rows."""
        for statement, rows in ((_seen, self._seen), (_deleting, self._deleting), (_gone, self._gone)):
            if rows:
                connection.execute(statement, rows)
        projects: dict[str, dict[str, int]] = {}
        for (project_id, resource), amount in sorted(self._released.items()):
            projects.setdefault(project_id, {})[resource] = amount
        for project_id, amounts in projects.items():
            quotas.release(connection, project_id, amounts)

    def _unmade(self, call: Call, error: ErrorPayload | None, cancelled: bool) -> None:
        """A listing does not show the part any more."""
        ledger, record = self._ledger, call.part
        assert record is not None
        self._gone.append({"b_id": record.id, "b_reason": "", "b_now": self._now})
        for resource, amount in part_quota(record.spec).items():
            key = (call.scope.project_id, resource)
            self._released[key] = self._released.get(key, 0) + amount
        ledger.event(
            call,
            "part.deleted",
            {"key": record.key, "kind": record.kind.value, "provider_id": record.provider_id},
        )
        if any(p.id != record.id for p in made_parts(call.kind, call.parts)):
            ledger.go(call, OperationState.PENDING, call.step - 1, 0, self._now, error)
        else:
            self.end(call, error, cancelled)


def _cancelled() -> ErrorPayload:
    return Cancelled("the server was not wanted any more").payload()


def _broken(record: PartRecord, part: CloudPart) -> ErrorPayload:
    return CloudError(
        f"the cloud could not make the {record.kind.value} {record.key!r} of the server: {part.failed}",
        advice="Another size, kind or cloud may do; the cloud's own console may tell more.",
    ).payload()
