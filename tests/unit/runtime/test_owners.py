"""Rules for owners, where the registry says who owns what."""

from __future__ import annotations

import pytest

from pelagos.model.errors import Forbidden, PelagosError
from pelagos.process import ServiceProcess, client, operation
from pelagos.runtime.owners import RegistryOwners
from pelagos.services.registry import Ownership, Register, RegistryService
from pelagos.testing import Harness

pytestmark = pytest.mark.anyio

POLICY = """
default: allow
rules:
  - {role: owner, allow: shredder.shred, resources: {.: document}}
"""


class Shredder(ServiceProcess):
    name = "shredder"

    def __init__(self) -> None:
        super().__init__()
        self.gone: list[str] = []

    @operation
    async def shred(self, ids: list[str]) -> None:
        self.gone += ids


async def test_the_registry_says_who_may():
    owners, shredder = RegistryOwners(), Shredder()
    async with Harness(policy=POLICY, owners=owners) as harness:
        container = await harness.container("c")
        store = await harness.store()
        await container.spawn(lambda: RegistryService(store), name="registry")
        await container.spawn(owners, name="owners")
        await container.spawn(shredder)
        registry, shred = client(RegistryService, container.edge), client(Shredder, container.edge)
        with harness.user("ann"):
            mine = [(await registry.register(Register(type="document", name=name))).id for name in "ab"]
            other = (await registry.register(Register(type="song", name="c"))).id
        for user, ids in (("bob", mine), ("ann", [*mine, other]), ("ann", [*mine, "nothing"])):
            with harness.user(user), pytest.raises(Forbidden):
                await shred.shred(ids)
        assert shredder.gone == []
        with harness.user("ann"):
            await shred.shred(mine)
        assert shredder.gone == mine
        with harness.user("ann"), pytest.raises(Forbidden):
            await registry.owns(Ownership("default", "ann", tuple(mine)))


async def test_without_a_registry_a_rule_for_owners_allows_nothing():
    owners, shredder = RegistryOwners(), Shredder()
    async with Harness(policy=POLICY, owners=owners) as harness:
        container = await harness.container("c")
        await container.spawn(owners, name="owners")
        await container.spawn(shredder)
        with harness.user("ann"), pytest.raises(PelagosError, match="nobody serves"):
            await client(Shredder, container.edge).shred(["x"])
        assert shredder.gone == []
