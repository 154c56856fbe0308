"""Hello, policy: who may call what is said in policy.yaml, not in the service.

Four operations: for everybody, for who has logged in, for a role, and for who owns what the argument names. Who
does, `pelagos container` asks of the registry, and the test of this service.

Run it::

    PELAGOS_POLICY=policy.yaml pelagos container hello_policy.yaml
    pelagos call board pin --content '{"note": "milk", "text": "We need milk"}'
    pelagos call board read
"""

import msgspec

from pelagos.model.errors import NotFound
from pelagos.model.scope import Scope
from pelagos.process import ServiceProcess, operation


class Pin(msgspec.Struct, frozen=True):
    note: str
    text: str


class BoardService(ServiceProcess):
    name = "board"

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, str] = {}
        self.owners: dict[str, Scope] = {}

    @operation
    async def read(self) -> dict[str, str]:
        return self.notes

    @operation
    async def pin(self, pin: Pin) -> None:
        self.notes[pin.note] = pin.text
        self.owners[pin.note] = self.context.scope

    @operation
    async def clear(self) -> None:
        self.notes.clear()

    @operation
    async def tear_off(self, note: str) -> str:
        if note not in self.notes:
            raise NotFound(f"there is no note {note!r}")
        return self.notes.pop(note)

    def owns(self, scope: Scope, kind: str, ids: tuple[str, ...]) -> bool:
        """What the policy asks: does that user own all these notes?"""
        return kind == "note" and all(self.owners.get(note) == scope for note in ids)
