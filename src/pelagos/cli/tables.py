"""Processes, services, containers and dead letters as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from shutil import get_terminal_size

import click

from pelagos.cli.texts import age, clean, table
from pelagos.container.messages import AppInfo, ExchangeInfo, NodeInfo, ProcessInfo, ServiceInfo
from pelagos.exchange import DeadLetter
from pelagos.process import Process
from pelagos.process.operation import operations_of

__all__ = ["apps", "dead_letters", "names", "nodes", "processes", "services"]

_COLORS = {"active": "green", "alive": "green", "suspect": "yellow", "dead": "red", "error": "red", "left": "magenta"}

_COMMON = frozenset(operations_of(Process))
_WIDTH = 100
"""Columns where there is no terminal."""
_NARROWEST = 30
"""Columns for a service's operations, however little room the others leave."""


def _state(value: str) -> str:
    color = _COLORS.get(value)
    return click.style(value, fg=color) if color else value


def processes(found: Sequence[ProcessInfo]) -> str:
    """A row a process. The name of one without a service is its class."""
    rows = [
        [
            one.id,
            one.name or one.kind.rpartition(":")[2].lstrip("_"),
            _state(one.state),
            one.app,
            one.supervisor,
            str(one.restarts) if one.restarts else "",
            f"{one.running}+{one.waiting}" if one.waiting else str(one.running),
            str(one.done),
            str(one.failed) if one.failed else "",
            clean(one.cause or ""),
        ]
        for one in found
    ]
    headers = ["ID", "NAME", "STATE", "APP", "SUPERVISOR", "RESTARTS", "RUNNING", "DONE", "FAILED", "CAUSE"]
    return table(headers, rows)


def names(found: ExchangeInfo) -> str:
    """A row an address, and what the exchange has counted."""
    rows = [
        [
            one.address,
            str(one.consumers),
            str(one.waiting) if one.waiting else "",
            str(one.unsettled) if one.unsettled else "",
            str(one.dropped) if one.dropped else "",
        ]
        for one in found.names
    ]
    told = [f"{name.replace('_', ' ')} {value}" for name, value in found.counters.items() if value]
    lines = [table(["ADDRESS", "CONSUMERS", "WAITING", "IN HAND", "DROPPED"], rows), ", ".join(told)]
    if found.left_off:
        lines.insert(1, f"and {found.left_off} more")
    return "\n".join(line for line in lines if line)


def services(found: Sequence[ServiceInfo], width: int = 0) -> str:
    """A row a service; of its operations those that not every process has, as many as fit ``width`` columns (0: the
    terminal's)."""
    rows = [[one.name, one.version, str(len(one.processes)), ", ".join(dict.fromkeys(one.containers))] for one in found]
    headers = ["SERVICE", "VERSION", "PROCESSES", "CONTAINERS"]
    taken = max(len(line) for line in table(headers, rows).splitlines()) + 2
    room = max(_NARROWEST, (width or get_terminal_size((_WIDTH, 24)).columns) - taken)
    for row, one in zip(rows, found, strict=True):
        row.append(_fitting([op for op in one.operations if op not in _COMMON], room))
    return table([*headers, "OPERATIONS"], rows)


def _fitting(words: list[str], room: int) -> str:
    """``a, b, c and 4 more``, in at most ``room`` characters if one word fits at all."""
    text = ", ".join(words)
    kept = len(words)
    while len(text) > room and kept > 1:
        kept -= 1
        text = f"{', '.join(words[:kept])} and {len(words) - kept} more"
    return text


def nodes(found: Sequence[NodeInfo], now: float, here: str = "") -> str:
    """A row a container; that which answered is marked with ``*``."""
    rows = [
        [
            f"{one.id}{'*' if one.id == here else ''}",
            _state(one.state),
            one.host,
            str(one.pid) if one.pid else "",
            str(one.processes),
            ", ".join(f"{app.name} {app.version}" for app in one.apps),
            age(now - one.started_at),
            age(one.heard),
            one.version,
        ]
        for one in found
    ]
    return table(["CONTAINER", "STATE", "HOST", "PID", "PROCESSES", "APPS", "UP", "HEARD", "VERSION"], rows)


def dead_letters(found: Sequence[DeadLetter], now: float) -> str:
    rows = [
        [
            one.id,
            age(now - one.at),
            one.address,
            "" if one.envelope is None else one.envelope.op,
            str(one.deliveries),
            clean(one.reason),
        ]
        for one in found
    ]
    return table(["ID", "AGE", "ADDRESS", "OPERATION", "TRIES", "REASON"], rows)


def apps(found: Sequence[tuple[str, AppInfo]]) -> str:
    """A row an app and the container it runs in."""
    rows = [[app.name, app.version, node, str(len(app.processes)), clean(app.description)] for node, app in found]
    return table(["APP", "VERSION", "CONTAINER", "PROCESSES", "DESCRIPTION"], rows)
