"""State machines for users: a table as a value, and an object that goes by it. See :mod:`.machine`.

DOOR = StateTable(
    "door",
    initial="closed",
    table=(
        On("closed", "open", "opened", action="ring"),
        On("opened", "close", "closed"),
        On(ANY, "break", "broken"),
        After("opened", 30, "close"),
    ),
    final=("broken",),
)

class Door(ServiceProcess):
    async def on_activate(self) -> None:
        self.machine = StateMachine(DOOR, self, start=self.start_task)

    async def ring(self, event: Occurred) -> None: ...

    @operation
    async def open(self) -> str:
        return (await self.machine.feed("open")).to
"""

from pelagos.process.machines.machine import Occurred, StateMachine, Step
from pelagos.process.machines.table import ANY, ERROR, After, On, StateTable

__all__ = ["ANY", "ERROR", "After", "Occurred", "On", "StateMachine", "StateTable", "Step"]
