"""Which services there are, and how they are wired: the one place that knows all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from pelagos.api import Commands, Queries, ServerQueries
from pelagos.clouds import Pool
from pelagos.container import Container
from pelagos.model.world import World
from pelagos.runtime.settings import Settings
from pelagos.store import LeaseKeeper, Store

__all__ = ["Assemble", "Foundations", "Services", "assemble_services"]


@dataclass(frozen=True, kw_only=True)
class Foundations:
    """What services stand on; all of it is started."""

    settings: Settings
    world: World
    mode: Literal["embedded", "serve"]
    store: Store
    keeper: LeaseKeeper
    pool: Pool
    container: Container


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the edge needs of the services."""

    commands: Commands
    delete_definition: Callable[[str], Awaitable[None]]
    queries: Queries
    servers: ServerQueries


Assemble = Callable[[Foundations], Awaitable[Services]]
"""Starts the services in the container, which stops them."""


async def assemble_services(foundations: Foundations) -> Services:
    """The services of this version: compute on the operations engine, infrastructure on compute."""
    raise NotImplementedError
