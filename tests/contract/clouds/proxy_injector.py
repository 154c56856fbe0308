"""The faults of the driver suite by a fault proxy, for every driver whose provider speaks HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from contract.clouds.driver_suite import FaultInjector
from pelagos.testing import FaultProxy, ProxyFault
from pelagos.testing.http_requests import Match

__all__ = ["ProxyInjector"]

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
