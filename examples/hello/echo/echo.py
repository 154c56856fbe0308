"""Echo: says what it is told, and fails in every way one asks for. Good for trying out a system that is new.

Run it::

    pelagos container echo.yaml
    pelagos call echo echo --content '["anything", {"at": "all"}]'
    pelagos ping echo --count 3
"""

from typing import Any

from pelagos.model.errors import Conflict
from pelagos.process import ServiceProcess, operation


class EchoService(ServiceProcess):
    name = "echo"

    @operation
    async def echo(self, content: Any) -> Any:
        return content

    @operation
    async def refuse_it(self, reason: str) -> None:
        self.refuse(reason)

    @operation
    async def conflict(self, about: str) -> None:
        raise Conflict(f"there is one {about} already", advice="Choose another.")

    @operation
    async def crash(self, text: str) -> None:
        raise RuntimeError(text)
