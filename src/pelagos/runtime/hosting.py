"""A container program: `pelagos container`. See :func:`host`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pelagos.model.world import World
from pelagos.runtime.settings import Settings

__all__ = ["HostReady", "host"]


class HostReady(msgspec.Struct, frozen=True):
    """What a container program says once all its apps run."""

    system: str
    container: str
    broker: str
    """Without credentials; ``memory`` for none."""
    socket: str
    """Path of the control socket."""
    apps: tuple[str, ...]


async def host(
    settings: Settings,
    files: Sequence[Path | str] = (),
    *,
    system: str | None = None,
    container_id: str | None = None,
    broker: str | None = None,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    processes: Sequence[str] = (),
    ready: Callable[[HostReady], None] | None = None,
    ready_file: Path | None = None,
    notify_fd: int | None = None,
    allow_spawn_any: bool = False,
    world: World | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
) -> None:
    """Run a container until it is told to stop.

    ``files`` are app files, release files, lists of processes, or names of apps on the search path; ``processes`` are
    ``[name=]module:Class[*count]``; ``arguments`` are texts ``app.key=value``, the value as YAML or JSON.
    """
    raise NotImplementedError
