"""The attribute store: named values that processes share, with versions and compare-and-set.

It holds nothing itself, so any number of these may serve.
"""

from __future__ import annotations

from functools import partial

from pelagos.process import ServiceProcess, current_context, operation
from pelagos.services.attributes.messages import (
    Attribute,
    AttributeRef,
    GetAttributes,
    ListAttributes,
    PutAttribute,
    PutAttributes,
    Version,
)
from pelagos.services.attributes.rows import (
    get_attribute,
    get_attributes,
    list_attributes,
    put_attributes,
    remove_attribute,
)
from pelagos.services.requests import repeatable
from pelagos.store import Store

__all__ = ["AttributesService"]


class AttributesService(ServiceProcess):
    """See :mod:`pelagos.services.attributes.messages` for what it is asked and answers."""

    name = "attributes"
    version = "1.0"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    @operation
    async def put(self, request: PutAttribute) -> Version:
        """Raises InvalidInput, Conflict (version)."""
        return (await self.put_many(PutAttributes((request,))))[0]

    @operation
    async def put_many(self, request: PutAttributes) -> tuple[Version, ...]:
        """All or none. Raises InvalidInput, Conflict (version)."""
        scope = current_context().scope
        now = self.world.now()
        write = partial(put_attributes, scope=scope, items=request.items, now=now)
        return tuple(await self._store.run(repeatable("attributes.put", now, write, list[Version])))

    @operation
    async def get(self, request: AttributeRef) -> Attribute:
        """Raises NotFound."""
        return await self._store.read(partial(get_attribute, scope=current_context().scope, name=request.name))

    @operation
    async def get_many(self, request: GetAttributes) -> tuple[Attribute, ...]:
        """Those that are there, in the names' order."""
        query = partial(get_attributes, scope=current_context().scope, names=request.names)
        return tuple(await self._store.read(query))

    @operation
    async def has(self, request: AttributeRef) -> bool:
        """Whether it is there."""
        return bool(await self.get_many(GetAttributes((request.name,))))

    @operation
    async def remove(self, request: AttributeRef) -> bool:
        """Whether it was there. Raises Conflict (version)."""
        remove = partial(remove_attribute, scope=current_context().scope, name=request.name, expected=request.expected)
        return await self._store.run(repeatable("attributes.remove", self.world.now(), remove, bool))

    @operation
    async def list(self, request: ListAttributes) -> tuple[Attribute, ...]:
        """A page of the project's attributes, by name."""
        return tuple(await self._store.read(partial(list_attributes, scope=current_context().scope, request=request)))
