"""Lanes and levels: where the messages of one receiver go, and whose slots they take.

A process's mailbox, its service's queue and its listeners share the process's slots; a receiver with a concurrency of
its own has slots of its own, so that a flood on one does not starve the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from pelagos.exchange import Delivery
from pelagos.process.duplicates import Key
from pelagos.process.operation import Operation

__all__ = ["Bound", "Item", "Lane", "Level"]

Bound = tuple[Operation, Callable[..., Awaitable[Any]]]
"""An operation and the method of the instance that carries it out."""


class Level:
    """The slots for the requests of one depth."""

    __slots__ = ("limit", "running", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.waiting: deque[Item] = deque()


class Lane:
    """``bound`` takes every message; None: the process's operations, by name. ``events``: messages are hints, which are
    neither answered nor compared with earlier ones. ``durable``: a message that nobody answers is given back when its
    handler fails.
    """

    __slots__ = ("bound", "durable", "events", "levels", "limit")

    def __init__(
        self,
        limit: int,
        levels: list[Level] | None = None,
        *,
        bound: Bound | None = None,
        events: bool = False,
        durable: bool = False,
    ) -> None:
        self.limit = limit
        self.levels = [Level(limit)] if levels is None else levels
        """By depth; made when a request of the depth comes, since most processes never see one above 0."""
        self.bound = bound
        self.events = events
        self.durable = durable


Item = tuple[Delivery, Level, Lane, Key | None]
"""A message on its way to a handler; no key: it is not compared with earlier ones."""
