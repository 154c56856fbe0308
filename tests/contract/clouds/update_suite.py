"""What `ServerUpdater` of `port.py` says, as tests for every driver that changes keys of a server in place.

A driver's test module derives a class from :class:`UpdateSuite` and a ``DriverSuite``; with a fault injector also from
:class:`UpdateFaultSuite`. Its harness is an :class:`UpdateHarness`: it says which values are tried, and asks the cloud
itself, past the driver, what holds.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverHarness, create, injector, limit, reach, silence
from pelagos.clouds import CloudDriver, CloudUncertain, ServerNotFound, ServerUpdater
from pelagos.model.errors import PelagosError, Retry, Unsupported
from pelagos.model.states import ServerState


class UpdateHarness(DriverHarness):
    """``spec`` gives a server that has the first value of each key."""

    updated: Mapping[str, tuple[Any, Any]] = {}
    """Key -> two values; exactly the keys that the account declares."""
    refused: tuple[str, Any] = ("no-such-key", 1)
    """A key of a server that this account does not change in place, and a value for it."""
    wrong: Mapping[str, Any] = {}
    """Values that the cloud never takes."""
    takes_while_stopped = True
    """Whether a stopped server can be changed, and has the values when it is started."""

    @abc.abstractmethod
    async def values(self, provider_id: str) -> Mapping[str, Any]:
        """What of ``updated`` holds for the server, as the cloud itself says."""


class UpdateSuite:
    """Besides ``DriverSuite``."""

    @pytest.mark.anyio
    async def test_each_declared_key_is_changed_on_the_server_that_runs(
        self, driver: CloudDriver, harness: UpdateHarness
    ) -> None:
        assert driver.capabilities.updates == frozenset(harness.updated)
        updater = updating(driver)
        made = await create(driver, harness.spec("one"), "token-one")
        before = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        expected = {key: first for key, (first, _) in harness.updated.items()}
        assert await harness.values(made.provider_id) == expected
        for key, (_, second) in harness.updated.items():
            expected[key] = second
            for _ in range(2):  # wanted values: to say them again changes nothing
                await updater.update_server(made.provider_id, {key: second}, timeout=limit(driver))
                assert await harness.values(made.provider_id) == expected
            now = await driver.get_server(made.provider_id, timeout=limit(driver))
            assert (now.state, now.token, now.addresses) == (ServerState.ACTIVE, before.token, before.addresses)
        first = {key: value for key, (value, _) in harness.updated.items()}
        await updater.update_server(made.provider_id, first, timeout=limit(driver))
        assert await harness.values(made.provider_id) == first

    @pytest.mark.anyio
    async def test_other_keys_are_refused_and_nothing_is_changed(
        self, driver: CloudDriver, harness: UpdateHarness
    ) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        key, value = harness.refused
        with pytest.raises(Unsupported):
            values = {**{key: second for key, (_, second) in harness.updated.items()}, key: value}
            await updating(driver).update_server(made.provider_id, values, timeout=limit(driver))
        assert await harness.values(made.provider_id) == {k: first for k, (first, _) in harness.updated.items()}

    @pytest.mark.anyio
    async def test_values_that_the_cloud_never_takes(self, driver: CloudDriver, harness: UpdateHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        for key, value in harness.wrong.items():
            with pytest.raises(PelagosError) as caught:
                await updating(driver).update_server(made.provider_id, {key: value}, timeout=limit(driver))
            assert caught.value.retry is Retry.NEVER
        assert await harness.values(made.provider_id) == {k: first for k, (first, _) in harness.updated.items()}

    @pytest.mark.anyio
    async def test_a_server_that_never_was_is_not_changed(self, driver: CloudDriver, harness: UpdateHarness) -> None:
        values = {key: second for key, (_, second) in harness.updated.items()}
        with pytest.raises(ServerNotFound):
            await updating(driver).update_server("no-such-server", values, timeout=limit(driver))

    @pytest.mark.anyio
    async def test_what_is_changed_stays_so_when_it_is_stopped_and_started(
        self, driver: CloudDriver, harness: UpdateHarness
    ) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        second = {key: value for key, (_, value) in harness.updated.items()}
        await driver.stop_server(made.provider_id, timeout=limit(driver))
        await reach(driver, harness, "token-one", ServerState.STOPPED)
        if not harness.takes_while_stopped:
            with pytest.raises(PelagosError):
                await updating(driver).update_server(made.provider_id, second, timeout=limit(driver))
            return
        await updating(driver).update_server(made.provider_id, second, timeout=limit(driver))
        await driver.start_server(made.provider_id, timeout=limit(driver))
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert await harness.values(made.provider_id) == second


class UpdateFaultSuite:
    """Besides :class:`UpdateSuite`, with faults injected between driver and provider."""

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_after"])
    async def test_an_update_whose_reply_is_lost(self, driver: CloudDriver, harness: UpdateHarness, fault: str) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        second = {key: value for key, (_, value) in harness.updated.items()}
        injector(harness).inject("update", fault)
        with pytest.raises(CloudUncertain) as caught:
            most = min(silence(harness, fault), limit(driver))
            await updating(driver).update_server(made.provider_id, second, timeout=most)
        assert caught.value.retry is Retry.UNCERTAIN
        assert await harness.values(made.provider_id) == second
        await updating(driver).update_server(made.provider_id, second, timeout=limit(driver))
        assert await harness.values(made.provider_id) == second

    @pytest.mark.anyio
    async def test_an_update_that_had_no_effect_nobody_can_know(
        self, driver: CloudDriver, harness: UpdateHarness
    ) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        second = {key: value for key, (_, value) in harness.updated.items()}
        injector(harness).inject("update", "error_before")
        with pytest.raises(CloudUncertain):
            await updating(driver).update_server(made.provider_id, second, timeout=limit(driver))
        assert await harness.values(made.provider_id) == {k: first for k, (first, _) in harness.updated.items()}


def updating(driver: CloudDriver) -> ServerUpdater:
    assert isinstance(driver, ServerUpdater)
    return driver
