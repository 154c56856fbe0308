"""What agents say and answer: the inventory of a system, and remote spawning.

Every container has one agent process (:mod:`pelagos.container.agent`), reached in three ways: ``service:agent`` is any
of the system, ``service:agent.<container id>`` is that container's, and the fan-out ``agents`` is all of them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.exchange import QueueSnapshot

__all__ = [
    "AGENT",
    "AGENTS_FANOUT",
    "AllProcesses",
    "AllServices",
    "Announcement",
    "AppInfo",
    "AppRequest",
    "ExchangeInfo",
    "ExchangeQuery",
    "Identify",
    "LogLevelRequest",
    "NodeChanged",
    "NodeInfo",
    "NodeState",
    "ProcessInfo",
    "ProcessQuery",
    "RemoveQueue",
    "ServiceInfo",
    "SpawnRequest",
    "SpawnResult",
    "TerminateRequest",
    "agent_of",
]

AGENT = "agent"
"""Name of the service that every agent serves."""
AGENTS_FANOUT = "fanout:agents"
"""Where containers announce themselves."""

NodeState = str
"""``alive``, ``suspect`` (silent for some heartbeats), ``dead`` (silent for longer) or ``left`` (it said good-bye)."""


def agent_of(container_id: str) -> str:
    """The address of one container's agent."""
    return f"service:{AGENT}.{container_id}"


class AppInfo(msgspec.Struct, frozen=True):
    name: str
    version: str
    description: str = ""
    processes: tuple[str, ...] = ()
    """Ids of what it started; in what is told of a container (:class:`NodeInfo`) of the first 100 alone."""


class ProcessInfo(msgspec.Struct, frozen=True):
    id: str
    name: str
    """The service's name; empty for a process without one."""
    kind: str
    """``module:Class``."""
    state: str
    container: str
    supervisor: str = ""
    """Id of the process that keeps it alive; empty: the root."""
    app: str = ""
    restarts: int = 0
    running: int = 0
    """Requests being served."""
    waiting: int = 0
    done: int = 0
    failed: int = 0
    calls: int = 0
    """Calls of its own that wait for an answer."""
    cause: str | None = None


class RemoveQueue(msgspec.Struct, frozen=True):
    """Take the durable queue of a service away that nobody serves any more."""

    address: str
    """``service:<name>``."""
    drop: bool = False
    """What waits in it is dropped; else it becomes dead letters."""


class ServiceInfo(msgspec.Struct, frozen=True):
    name: str
    version: str
    processes: tuple[str, ...]
    containers: tuple[str, ...]
    operations: tuple[str, ...] = ()


class AllServices(msgspec.Struct, frozen=True):
    services: tuple[ServiceInfo, ...]
    silent: tuple[str, ...] = ()
    """Containers that are not dead and did not answer."""


class NodeInfo(msgspec.Struct, frozen=True):
    """One container, as another one sees it. Times in seconds; ``heard`` is how long ago it was heard of."""

    id: str
    system: str
    host: str
    pid: int
    version: str
    """Of Pelagos."""
    state: NodeState
    started_at: float
    heard: float
    processes: int
    apps: tuple[AppInfo, ...] = ()
    services: tuple[str, ...] = ()
    startable: dict[str, str] = {}
    """Names of processes that ``spawn`` takes here, and their ``module:Class``."""


class Announcement(msgspec.Struct, frozen=True, tag="announce"):
    """What a container says of itself on :data:`AGENTS_FANOUT`, at its start, each heartbeat and its end."""

    node: NodeInfo
    boot: str
    """A new one each start: a container that came back under its id is told from one that was silent."""
    event: str = "heartbeat"
    """``start`` (others then announce themselves as well), ``heartbeat`` or ``stop``."""


class Identify(msgspec.Struct, frozen=True, tag="identify"):
    """Asks every container of the system to announce itself now."""

    sender: str


class NodeChanged(msgspec.Struct, frozen=True):
    """Published to ``topic:event.container_lifecycle.<container id>`` by each agent that sees the change."""

    container: str
    state: NodeState
    before: NodeState
    """Empty for one that was not known."""
    seen_by: str
    at: float
    """World seconds of whoever saw it."""


class AllProcesses(msgspec.Struct, frozen=True):
    processes: tuple[ProcessInfo, ...]
    silent: tuple[str, ...] = ()
    """Containers that are not dead and did not answer."""


class AppRequest(msgspec.Struct, frozen=True):
    name: str
    """Of an app: a name found on the container's search path, or that of one that runs."""
    arguments: dict[str, Any] = {}
    config: dict[str, Any] = {}


class ExchangeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses that contain ``part``; those of processes only with ``processes``."""

    part: str = ""
    processes: bool = False
    limit: int = 1000


class ExchangeInfo(msgspec.Struct, frozen=True):
    """What is received in one container, and how its exchange fares."""

    container: str
    names: tuple[QueueSnapshot, ...]
    """By address. What waits for a service on a broker is the broker's to know: it is not counted in ``waiting``."""
    left_off: int
    """Names beyond the limit."""
    connected: bool
    counters: dict[str, int]
    """Of its transport since its start, by name."""


class LogLevelRequest(msgspec.Struct, frozen=True):
    room: str
    """A package, such as ``pelagos.exchange`` or, short for it, ``exchange``; empty: all."""
    level: str
    """``debug``, ``info``, ``warning``, ``error`` or ``critical``; empty: back to what was configured."""
    everywhere: bool = False
    """On every container of the system; only on the one that is asked otherwise."""


class ProcessQuery(msgspec.Struct, frozen=True):
    service: str = ""
    """Only processes of that service; empty: all."""


class SpawnRequest(msgspec.Struct, frozen=True):
    """``name`` is that of a process of an app the container has loaded, or ``module:Class`` where that is allowed.

    ``on`` names a container, or is empty for the one that is asked; ``any`` lets the agent choose the one with the
    fewest processes among those that can start it.
    """

    name: str
    on: str = ""
    count: int = 1
    arguments: dict[str, Any] = {}
    restart: str = "permanent"


class SpawnResult(msgspec.Struct, frozen=True):
    container: str
    processes: tuple[str, ...]


class TerminateRequest(msgspec.Struct, frozen=True):
    process: str
    """Its id, which says the container as well."""
    shutdown: float | None = None
    """Seconds it may take to end; None: what it was spawned with."""
