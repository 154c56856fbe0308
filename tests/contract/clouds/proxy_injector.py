"""The faults of the driver suite by a fault proxy, for every driver whose provider speaks HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from contract.clouds.driver_suite import DriverFaultSuite, DriverHarness, FaultInjector
from pelagos.clouds import CloudDriver
from pelagos.testing import FaultProxy, ProxyFault
from pelagos.testing.http_requests import Match

__all__ = ["ProxiedFaultSuite", "ProxiedHarness", "ProxyInjector"]

FAULTS = {
    "unreachable": ProxyFault.UNAVAILABLE,
    "rate_limited": ProxyFault.RATE_LIMITED,
    "auth_failed": ProxyFault.AUTH_FAILED,
    "error_before": ProxyFault.ERROR_BEFORE,
    "error_after": ProxyFault.ERROR_AFTER,
    "request_lost": ProxyFault.REQUEST_LOST,
    "reply_lost": ProxyFault.REPLY_LOST,
    "connection_closed": ProxyFault.CONNECTION_CLOSED,
    "late": ProxyFault.LATE,
    "slow": ProxyFault.SLOW,
}


class ProxyInjector(FaultInjector):
    """``requests`` says by which request of the driver's each verb of the suite (create, delete, list, find) is known.

    ``late_by``: seconds until a late effect, where the test does not say: longer than the second that the suite's call
    waits, and shorter than the driver's ``settle`` after it."""

    def __init__(self, proxy: FaultProxy, requests: Mapping[str, Match], *, late_by: float = 1.5) -> None:
        self._proxy = proxy
        self._requests = requests
        self._late_by = late_by

    def inject(
        self, verb: str, fault: str, times: int = 1, *, delay: float | None = None, retry_after: float | None = None
    ) -> None:
        self._proxy.fail(
            FAULTS[fault],
            self._requests[verb],
            times,
            delay=self._late_by if delay is None else delay,
            retry_after=1.0 if retry_after is None else retry_after,
        )


class ProxiedHarness(DriverHarness):
    """A harness with a proxy before the provider. ``requests`` and ``late_by`` are those of :class:`ProxyInjector`."""

    def __init__(self, proxy: FaultProxy, requests: Mapping[str, Match], *, late_by: float = 1.5) -> None:
        self.proxy = proxy
        self.injector = ProxyInjector(proxy, requests, late_by=late_by)
        self._create = requests["create"]

    async def sleep(self, seconds: float) -> None:
        """The moment before a create is cancelled lasts until it is on its way: a busy machine starts threads late."""
        await asyncio.sleep(seconds)
        if seconds <= 0.01:
            async with asyncio.timeout(60):
                await self.proxy.arrival(self._create)


class ProxiedFaultSuite(DriverFaultSuite):
    """The faults alone, for a class whose harness has short deadlines: a lost reply is noticed only then."""

    @pytest.fixture
    async def driver(self, harness: DriverHarness) -> AsyncIterator[CloudDriver]:
        driver = await harness.open()
        try:
            yield driver
        finally:
            await driver.close()
            await harness.clean()
