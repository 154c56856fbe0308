"""The simulated driver passes the suite of the driver port, in several characters of its cloud, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contract.clouds.driver_suite import (
    AdoptionSuite,
    DriverFaultSuite,
    DriverHarness,
    DriverSuite,
    FaultInjector,
    PartsFaultSuite,
    PartsSuite,
    SharedAccountSuite,
)
from contract.clouds.update_suite import UpdateFaultSuite, UpdateHarness, UpdateSuite
from pelagos.clouds import CloudDriver, CommandResult, DriverContext, ServerSpec, TokenLookup
from pelagos.clouds.simulated import Delay, SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.simulation import SimulatedWorld, VirtualLoop

SLOW: dict[str, Any] = {
    "create_latency": Delay(uniform=(0.2, 2.0)),
    "delete_latency": 0.5,
    "list_latency": 0.3,
    "get_latency": 0.1,
    "power_latency": 0.2,
    "boot_seconds": Delay(lognormal=(20.0, 0.5)),
    "delete_seconds": 3.0,
    "power_seconds": 2.0,
    "part_latency": 0.2,
    "part_seconds": Delay(uniform=(1.0, 5.0)),
    "part_delete_seconds": 1.0,
    "visibility_delay": Delay(uniform=(0.0, 6.0)),
    "settle": 8.0,
    "flavors": ("small",),
}
CHARACTERS: dict[str, SimulatedOptions] = {
    "at-once": SimulatedOptions(flavors=("small",)),
    "slow-tag": SimulatedOptions(**SLOW),
    "slow-idempotent": SimulatedOptions(**SLOW, token_lookup=TokenLookup.IDEMPOTENT),
    "bare-name": SimulatedOptions(
        **SLOW, token_lookup=TokenLookup.NAME, power=False, console=False, execute=False, parallel_calls=1
    ),
    "in-a-file": SimulatedOptions(**SLOW, state="file"),
}


class CloudInjector(FaultInjector):
    def __init__(self, harness: SimulatedHarness) -> None:
        self._harness = harness

    def inject(
        self, verb: str, fault: str, times: int = 1, *, delay: float | None = None, retry_after: float | None = None
    ) -> None:
        self._harness.cloud.inject(verb, fault, times, delay=delay, retry_after=retry_after)


class SimulatedHarness(DriverHarness):
    echo = (("echo", "hello"), "hello")
    failing = ("false",)

    def __init__(self, options: SimulatedOptions, home: Path) -> None:
        self.world = SimulatedWorld()
        self._options = options
        self._home = home
        self._cloud: SimulatedCloud | None = None
        self.injector = CloudInjector(self)

    @property
    def cloud(self) -> SimulatedCloud:
        """Made inside the loop, whose clock it reads."""
        if self._cloud is None:
            self._cloud = SimulatedCloud(self.world, options=self._options, folder=self._home / "clouds" / "sim")
            self._cloud.answer(["echo"], CommandResult(0, "hello\n"))
            self._cloud.answer(["false"], CommandResult(1, ""))
        return self._cloud

    async def open(self) -> CloudDriver:
        plugin = SimulatedPlugin({"sim": self.cloud})
        return await plugin.open(DriverContext(account="sim", world=self.world, home=self._home))

    def spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, user_data="#!/bin/sh\necho hello\n", options={"flavor": "small"})

    def bad_spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"flavor": "none-such"})

    def spec_with_parts(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"flavor": "small", "volumes": 2, "volume_gb": 1, "address": True})

    async def make_foreign(self) -> str:
        return self.cloud.add_foreign("somebody-elses")


class TestSimulatedDriver(
    DriverSuite, DriverFaultSuite, SharedAccountSuite, PartsSuite, PartsFaultSuite, AdoptionSuite
):
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return "asyncio", {"loop_factory": VirtualLoop}

    @pytest.fixture(params=sorted(CHARACTERS))
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SimulatedHarness]:
        harness = SimulatedHarness(CHARACTERS[request.param], tmp_path)
        yield harness


UPDATING: dict[str, SimulatedOptions] = {
    "at-once": SimulatedOptions(flavors=("small", "large"), updates=frozenset({"flavor", "health"})),
    "in-a-file": SimulatedOptions(
        **{**SLOW, "flavors": ("small", "large")}, state="file", updates=frozenset({"flavor", "health"})
    ),
}


class UpdatingHarness(SimulatedHarness, UpdateHarness):
    updated: ClassVar = {"flavor": ("small", "large"), "health": ("ok", "bad")}
    refused = ("image", "other")
    wrong: ClassVar = {"flavor": "none-such", "health": "splendid"}

    def spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"flavor": "small", "health": "ok"})

    async def values(self, provider_id: str) -> dict[str, Any]:
        (server,) = [server for server in self.cloud.servers() if server.provider_id == provider_id]
        well = server.state != "active" or self.cloud.healthy(provider_id)
        return {"flavor": server.flavor, "health": "ok" if well else "bad"}


class TestSimulatedDriverThatUpdates(UpdateSuite, UpdateFaultSuite, DriverSuite):
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return "asyncio", {"loop_factory": VirtualLoop}

    @pytest.fixture(params=sorted(UPDATING))
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UpdatingHarness]:
        harness = UpdatingHarness(UPDATING[request.param], tmp_path)
        yield harness
