"""What a service depends on: names of services, with ranges of versions, waited for before activation.

``"catalog>=1.2,<2"`` is a name and a range as Python packages write them (PEP 440). The version is what the service's
process says of itself (operation ``describe``); a dependency without a range costs no request. The ancestor recorded
versions and dependencies and checked neither (reference section 4.7).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from pelagos.exchange import Address, Kind
from pelagos.model.errors import Conflict, InvalidInput, Unavailable
from pelagos.process.statistics import ProcessDescription

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

    from pelagos.process.process import Process

__all__ = ["Dependency", "wait_for_dependencies"]

_WRITTEN = re.compile(r"\s*([^\s<>=!~]+)\s*(.*?)\s*")


class Dependency(msgspec.Struct, frozen=True):
    """``name`` is a service's, or an address; ``versions`` a range, empty for any."""

    name: str
    versions: str = ""

    @classmethod
    def parse(cls, text: str) -> Dependency:
        """``store``, ``catalog>=1.2,<2``, ``service@local:disk ~=1.0``. Raises :class:`InvalidInput`."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"{text!r} is not a dependency", advice='Write a name, or a name and a range: "a>=1,<2".'
            )
        found = cls(match[1], match[2])
        if found.versions:
            found.range()
        return found

    def range(self) -> SpecifierSet:
        """The range of versions. Raises :class:`InvalidInput`."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet  # only whoever names versions pays for it

        try:
            return SpecifierSet(self.versions)
        except InvalidSpecifier as error:
            raise InvalidInput(
                f"{self.versions!r} is not a range of versions (of {self.name})",
                advice='Write ">=1.2,<2", for example.',
            ) from error


async def wait_for_dependencies(process: Process, depends: tuple[str, ...]) -> None:
    """Return when all are served, in versions that fit.

    Raises :class:`Unavailable` naming those that nobody served within the container's ``dependency_timeout``, and
    :class:`Conflict` for a version out of range.
    """
    host = process.container
    until = process.world.monotonic() + host.dependency_timeout
    missing = []
    for text in depends:
        wanted = Dependency.parse(text)
        address = host.names.full(wanted.name if ":" in wanted.name else Address(Kind.SERVICE, wanted.name))
        if not await host.transport.wait_served(address, max(0.0, until - process.world.monotonic())):
            missing.append(wanted.name)
        elif wanted.versions:
            await _check_version(process, wanted, address, until)
    if missing:
        raise Unavailable(
            f"{process.label} depends on {', '.join(missing)}, "
            f"which nobody served within {host.dependency_timeout:g} s",
            advice="Start them before it, or check that two services do not wait for each other.",
            details={"missing": missing},
        )


async def _check_version(process: Process, wanted: Dependency, address: str, until: float) -> None:
    from packaging.version import InvalidVersion, Version

    decode = msgspec.msgpack.Decoder(ProcessDescription).decode
    patience = max(0.001, until - process.world.monotonic())
    there: ProcessDescription = await process.caller.call(address, "describe", b"\xc0", decode, patience, None)
    try:
        fits = Version(there.version) in wanted.range()
    except InvalidVersion:
        fits = False
    if not fits:
        raise Conflict(
            f"{process.label} {process.version} needs {wanted.name}{wanted.versions}, "
            f"but {there.kind} serves it in version {there.version}",
            advice="Start a version that fits, or widen the range in depends.",
            details={"name": wanted.name, "wanted": wanted.versions, "found": there.version},
        )
