"""Programs that die at an edge of their transactions, on the virtual loop."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pelagos.container import Container, ContainerConfig
from pelagos.simulation import SimulatedWorld, VirtualLoop, VirtualProcess
from pelagos.store import LeaseKeeper, open_simulated_store
from pelagos.store.simulated import SimulatedDatabase
from support.services_world import Crash, Facts

__all__ = ["MortalProgram"]


class MortalProgram(ABC):
    """A container in a program of its own, which dies at an ``edge``: before or after a commit, counted from its start;
    0 for never. :meth:`serve` is what it does."""

    def __init__(self, loop: VirtualLoop, world: SimulatedWorld, database: SimulatedDatabase, name: str, edge: int):
        self._world = world
        self._left = edge
        self.name = name
        self.process = VirtualProcess(loop, name)
        self.store = open_simulated_store(
            world, database=database, hooks=self, before=(0.0, 0.02), after=(0.0, 0.02), name=name
        )
        self.process.start(self._live())

    @abstractmethod
    async def serve(self, container: Container, keeper: LeaseKeeper) -> None:
        """Spawn into the container what lives in it."""

    @property
    def dead(self) -> bool:
        return self.process.state == "dead"

    def before_commit(self) -> None:
        self._step()

    def after_commit(self) -> None:
        self._step()

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            crash = Crash(self.name)
            self.process.kill()
            self.store.kill(crash)
            raise crash

    async def _live(self) -> None:
        await self.store.start()
        keeper = LeaseKeeper(self.store, self._world, Facts(), holder_id=self.name)
        config = ContainerConfig(id=self.name, system=self.name)
        async with keeper.running(), Container(self._world, config) as container:
            await self.serve(container, keeper)
            await container.wait()
