"""The registry: what there is, in which state, by name and by attribute.

People's and programs' own resources come by command. Containers, services, exchanges and their names come by
themselves: agents announce their containers, and the registry writes what is new in it. It asks for announcements when
it begins, so it is current some seconds later; several registries write the same rows.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec

from pelagos.container.messages import AGENTS_FANOUT, Announcement, Identify, NodeInfo
from pelagos.model.errors import PelagosError
from pelagos.process import ServiceProcess, current_context, get_logger, operation
from pelagos.services.events import EventPublisher, PublishedEvent, subscribe
from pelagos.services.registry.inventory import Seen, expected_resources, is_current, write_inventory
from pelagos.services.registry.messages import (
    FindResources,
    NamePattern,
    Ownership,
    Register,
    Resource,
    ResourcePage,
    ResourceRef,
    SetState,
    UpdateResource,
)
from pelagos.services.registry.queries import find_resources, get_resource, owns
from pelagos.services.registry.resources import Changed, register, remove, set_state, update_resource
from pelagos.services.requests import repeatable
from pelagos.store import Store, Transaction

__all__ = ["RegistryService"]

log = get_logger(__name__)

_PAUSE = 1.0
"""Seconds: announcements of that time are written together."""
_COMPLETE_AFTER = 60.0
"""Seconds after which whoever lives has announced itself: what is in the store and was not heard of is gone."""


class RegistryService(ServiceProcess):
    """See :mod:`pelagos.services.registry.messages` for what it is asked and answers."""

    name = "registry"
    version = "1.0"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._publisher = EventPublisher(self, store)
        self._nodes: dict[str, NodeInfo] = {}
        self._heard = asyncio.Event()
        self._written: tuple[list[Seen], bool] | None = None
        """What is in the store, and whether that is all."""

    async def on_activate(self) -> None:
        await self.listen(AGENTS_FANOUT, self._hear, Announcement | Identify)
        await subscribe(self, "container_lifecycle", self._judged, every_project=True)
        self.start_task(self._keep_current(), name="inventory")
        self.publish(AGENTS_FANOUT, Identify(self.container.id), op="identify")

    @operation
    async def register(self, request: Register) -> Resource:
        """Raises InvalidInput."""
        scope, now = current_context().scope, self.world.now()
        effect = partial(register, scope=scope, id=self.world.new_id(), request=request, now=now)
        return await self._change("registry.register", effect, now)

    @operation
    async def get(self, request: ResourceRef) -> Resource:
        """Raises NotFound."""
        return await self._store.read(partial(get_resource, scope=current_context().scope, id=request.id))

    @operation
    async def find(self, request: FindResources) -> ResourcePage:
        """Raises InvalidInput."""
        return await self._store.read(partial(find_resources, scope=current_context().scope, request=request))

    @operation
    async def owns(self, request: Ownership) -> bool:
        """What policies ask before they let an owner do something; for the system itself."""
        return await self._store.read(partial(owns, request=request))

    @operation
    async def update(self, request: UpdateResource) -> Resource:
        """Raises NotFound, InvalidInput, Conflict (version)."""
        scope, now = current_context().scope, self.world.now()
        effect = partial(update_resource, scope=scope, request=request, now=now)
        return await self._change("registry.update", effect, now)

    @operation
    async def set_state(self, request: SetState) -> Resource:
        """Raises NotFound, Conflict (version), IllegalResourceTransition."""
        scope, now = current_context().scope, self.world.now()
        effect = partial(set_state, scope=scope, request=request, now=now)
        return await self._change("registry.set_state", effect, now)

    @operation
    async def remove(self, request: ResourceRef) -> Resource:
        """What it was. Raises NotFound, Conflict (its state)."""
        scope, now = current_context().scope, self.world.now()
        effect = partial(remove, scope=scope, id=request.id, now=now)
        return await self._change("registry.remove", effect, now)

    @operation
    async def find_services(self, request: NamePattern) -> tuple[Resource, ...]:
        """The services of the system; state ACTIVE: some living container serves it."""
        return await self._all(FindResources(type="service", name=request.name))

    @operation
    async def find_containers(self, request: NamePattern) -> tuple[Resource, ...]:
        """The containers of the system; state ACTIVE: it lives."""
        return await self._all(FindResources(type="container", name=request.name))

    @operation
    async def find_exchanges(self, request: NamePattern) -> tuple[Resource, ...]:
        """Exchanges, and the names on them."""
        exchanges = await self._all(FindResources(type="exchange", name=request.name))
        return exchanges + await self._all(FindResources(type="exchange_name", name=request.name))

    async def _all(self, request: FindResources) -> tuple[Resource, ...]:
        found: list[Resource] = []
        while True:
            page = await self.find(request)
            found.extend(page.resources)
            if page.next is None:
                return tuple(sorted(found, key=lambda one: one.name))
            request = msgspec.structs.replace(request, after=page.next)

    async def _change(self, op: str, effect: Transaction[Changed], now: float) -> Resource:
        changed: Changed = await self._store.run(repeatable(op, now, effect, Changed))
        self._publisher.announce(changed.event)
        return changed.resource

    async def _hear(self, message: Any) -> None:
        """An agent announced its container."""
        if isinstance(message, Announcement):
            state = "left" if message.event == "stop" else "alive"
            self._nodes[message.node.id] = msgspec.structs.replace(message.node, state=state)
            self._heard.set()

    async def _judged(self, event: PublishedEvent) -> None:
        """An agent judged another container by its silence."""
        known = self._nodes.get(event.origin)
        state = event.data.get("state")
        if known is not None and state in ("alive", "suspect", "dead", "left"):
            self._nodes[event.origin] = msgspec.structs.replace(known, state=state)
            self._heard.set()

    async def _keep_current(self) -> None:
        begun = self.world.monotonic()
        complete = False
        while True:
            try:
                remaining = begun + _COMPLETE_AFTER - self.world.monotonic()
                async with asyncio.timeout(None if complete else max(0.0, remaining)):
                    await self._heard.wait()
            except TimeoutError:
                complete = True
            self._heard.clear()
            # Where no agent ever spoke, nothing is known of who is gone.
            if self._nodes:
                await self._write(complete)
            await asyncio.sleep(_PAUSE)

    async def _write(self, complete: bool) -> None:
        seen = expected_resources(self._nodes.values())
        if (seen, complete) == self._written:
            return
        try:
            if not await self._store.read(partial(is_current, seen=seen, complete=complete)):
                write = partial(write_inventory, seen=seen, now=self.world.now(), complete=complete)
                self._publisher.announce(*await self._store.run(write))
        except PelagosError as error:
            log.warning("the inventory was not written; it is with the next announcement", error=str(error))
            return
        self._written = (seen, complete)
        if complete:
            self._nodes = {id: node for id, node in self._nodes.items() if node.state not in ("dead", "left")}
