"""The plug-in ``simulated``, and where the clouds live that its drivers open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clouds.port import CloudDriver, DriverContext
from pelagos.clouds.simulated.cloud import SimulatedCloud
from pelagos.clouds.simulated.driver import SimulatedDriver
from pelagos.clouds.simulated.options import SimulatedOptions, SimulatedResource

__all__ = ["DRIVER", "SimulatedPlugin"]


class SimulatedPlugin:
    """Opens drivers on simulated clouds.

    A cloud outlives its drivers: opening an account again finds the cloud that it had. ``clouds`` gives clouds by
    account name, as simulation, benchmarks and tests make them; then their own options hold. An account without one
    gets a new cloud, kept for as long as the same world opens it (another world is another universe); opened with other
    options, it behaves by these from then on."""

    name = "simulated"
    resource = SimulatedResource
    account_options = SimulatedOptions

    def __init__(self, clouds: Mapping[str, SimulatedCloud] | None = None) -> None:
        self._given = dict(clouds or {})
        self._made: dict[tuple[Path, str], SimulatedCloud] = {}

    stand_in_check: Sequence[str] = ("true",)
    """Its servers' addresses are nobody's; commands answer by what the cloud knows of their health."""

    def stand_in(self, type: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """The defaults: images and flavors of other clouds mean nothing here."""
        return {}

    async def open(self, context: DriverContext) -> CloudDriver:
        return SimulatedDriver(self.cloud(context))

    def cloud(self, context: DriverContext) -> SimulatedCloud:
        """The cloud of an account, made if there is none yet. Wrong options raise msgspec.ValidationError."""
        given = self._given.get(context.account)
        if given is not None:
            return given
        key = (context.home, context.account)
        options = msgspec.convert(dict(context.options), SimulatedOptions)
        made = self._made.get(key)
        if made is None or made.world is not context.world or made.options.state != options.state:
            folder = context.home / "clouds" / context.account
            made = self._made[key] = SimulatedCloud(context.world, name=context.account, options=options, folder=folder)
        elif made.options != options:
            made.behave(options)
        return made


DRIVER = SimulatedPlugin()
