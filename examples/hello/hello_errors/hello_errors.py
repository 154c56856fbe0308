"""Hello, errors: what an operation can come to. Nothing, a value, a refusal, an error of the family, and a defect.

Run it::

    pelagos container hello_errors.yaml
    pelagos call hello-errors count_to --content -1   # exit code 64
    pelagos call hello-errors divide --content 0   # exit code 70
"""

import msgspec

from pelagos.model.errors import InvalidInput
from pelagos.process import ServiceProcess, operation


class Accepted(msgspec.Struct, frozen=True):
    ticket: int
    status: str = "ACCEPTED"


class HelloErrors(ServiceProcess):
    name = "hello-errors"

    @operation
    async def nothing(self) -> None:
        """The reply is OK and empty."""

    @operation
    async def accept(self, ticket: int) -> Accepted:
        return Accepted(ticket)

    @operation
    async def count_to(self, number: int) -> list[int]:
        """An error of the family travels as it is: class, text, advice, details."""
        if number < 0:
            raise InvalidInput(f"nobody counts to {number}", advice="Give 0 or more.", details={"least": 0})
        return list(range(1, number + 1))

    @operation
    async def favour(self) -> None:
        """A refusal is no failure: the service is well, and does not want to."""
        self.refuse("not on a Sunday")

    @operation
    async def divide(self, by: int) -> float:
        """What no operation should raise is a defect: answered as InternalError, and the service goes on."""
        return 1 / by
