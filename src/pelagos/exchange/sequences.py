"""From observations of several containers to one sequence of messages between participants.

One message is seen by up to two containers and more for a fan-out: it is one row, timed by whoever sent it, since
clocks of hosts differ and the sender's comes first. A service's address stands for whoever answered (the ancestor's
alias, reference section 5.5): a request to ``service:hello`` goes to the process whose reply carries its conversation.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pelagos.exchange.envelope import Performative, Status
from pelagos.exchange.observing import Direction, Observation

__all__ = ["Participant", "Row", "Sequence", "arrange"]


class Participant(msgspec.Struct, frozen=True):
    address: str
    label: str


class Row(msgspec.Struct, frozen=True):
    """One message. ``at`` in seconds since the epoch, ``took`` of an answer in milliseconds, as its asker saw it."""

    at: float
    source: str
    """Address of a participant."""
    target: str
    op: str
    """Of an answer: the operation that was asked for."""
    performative: Performative
    conv_id: str
    conv_seq: int
    trace: str
    status: Status
    bytes: int
    took: float | None
    error: str
    is_answer: bool
    delivered: bool
    """Somebody was seen to receive it."""
    content: str = ""
    plumbing: bool = False

    @property
    def key(self) -> tuple[str, int, str, str]:
        """As :attr:`Observation.key`."""
        return (self.conv_id, self.conv_seq, self.performative, self.source)


class Sequence(msgspec.Struct, frozen=True):
    participants: tuple[Participant, ...]
    """In the order in which they appear."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What is to be said of the whole, for example which conversations broke their protocol."""

    def label(self, address: str) -> str:
        return next((one.label for one in self.participants if one.address == address), address)


def arrange(observations: Iterable[Observation], system: str) -> Sequence:
    """Merge what containers of ``system`` saw; the result is in the order of time."""
    seen: dict[tuple[str, int, str, str], list[Observation]] = {}
    answered: dict[str, str] = {}
    names: dict[str, str] = {}
    for one in sorted(observations, key=lambda one: (one.at, one.container, one.seq)):
        known = seen.setdefault(one.key, [])
        if all((one.container, one.seq) != (other.container, other.seq) for other in known):
            known.append(one)
        if one.sender_name:
            names.setdefault(one.sender, one.sender_name)
        if one.receiver_name:
            names.setdefault(one.receiver, one.receiver_name)
        if _is_answer(one):
            answered.setdefault(one.conv_id, one.sender)
            if one.answers:
                names.setdefault(one.sender, _short(one.answers, system))
    rows = sorted((_row(group, answered) for group in seen.values()), key=lambda row: row.at)
    addresses = dict.fromkeys(address for row in rows for address in (row.source, row.target))
    labels = _labels(addresses, names, system)
    return Sequence(tuple(Participant(address, labels[address]) for address in addresses), tuple(_in_order(rows)))


def _is_answer(one: Observation) -> bool:
    return one.performative not in (Performative.REQUEST, Performative.INFORM, Performative.CANCEL)


def _row(group: list[Observation], answered: dict[str, str]) -> Row:
    first = next((one for one in group if one.direction is Direction.SENT), group[0])
    failed = next((one for one in group if one.direction is Direction.FAILED), None)
    answer = _is_answer(first)
    receiver = first.receiver
    if not answer and receiver.startswith("service:"):
        receiver = answered.get(first.conv_id, receiver)
    times = [one.took for one in group if one.took is not None]
    worst = failed or first
    return Row(
        at=first.at,
        source=first.sender,
        target=receiver,
        op=next((one.answers_op for one in group if one.answers_op), first.op),
        performative=first.performative,
        conv_id=first.conv_id,
        conv_seq=first.conv_seq,
        trace=first.trace,
        status=worst.status,
        bytes=first.bytes,
        # The longest is the asker's: it has the way there and back in it.
        took=max(times) if times else None,
        error=worst.error,
        is_answer=answer,
        delivered=any(one.direction is Direction.RECEIVED for one in group),
        content=next((one.content for one in group if one.content), ""),
        plumbing=first.plumbing,
    )


def _in_order(rows: list[Row]) -> list[Row]:
    """By time, but no answer before its request: clocks of two hosts may differ by more than the message took."""
    asked = {row.conv_id: position for position, row in enumerate(rows) if not row.is_answer}
    return [
        row
        for _, row in sorted(
            enumerate(rows),
            key=lambda item: (
                max(item[0], asked.get(item[1].conv_id, 0)) if item[1].is_answer else item[0],
                item[1].is_answer,
            ),
        )
    ]


def _short(address: str, system: str) -> str:
    """``service:demo.hello`` is ``hello``; others keep their kind."""
    kind, _, name = address.partition(":")
    name = name.removeprefix(f"{system}.")
    return name if kind in ("service", "process") else f"{kind}:{name}"


def _labels(addresses: Iterable[str], names: dict[str, str], system: str) -> dict[str, str]:
    wanted = {address: names.get(address) or _short(address, system) for address in addresses}
    shared: dict[str, list[str]] = {}
    for address, label in wanted.items():
        shared.setdefault(label, []).append(address)
    return {
        address: label if len(shared[label]) == 1 else f"{label} ({_short(address, system)})"
        for address, label in wanted.items()
    }
