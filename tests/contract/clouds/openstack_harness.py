"""What the driver suite knows of an OpenStack cloud, emulated or real: a fault proxy stands before it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contract.clouds.driver_suite import DriverHarness, eventually
from contract.clouds.proxy_injector import ProxyInjector
from pelagos.clouds import CloudDriver, DriverContext, ServerSpec
from pelagos.clouds.openstack import OpenStackPlugin
from pelagos.model.world import SystemWorld
from pelagos.testing import FaultProxy, request_where

__all__ = ["REQUESTS", "OpenStackHarness"]

REQUESTS = {
    "create": request_where(method="POST", path="/servers$"),
    "delete": request_where(method="DELETE", path="/servers/"),
    "list": request_where(method="GET", path="/servers/detail$"),
    "find": request_where(method="GET", path="/servers/detail$"),
    "part": request_where(method="POST", path="/(volumes|ports|floatingips)$"),
    "unpart": request_where(method="DELETE", path="/(volumes|ports|floatingips)/"),
    "parts": request_where(method="GET", path="/volumes/detail$"),
}
"""By which each verb of the suite is known, as far as the proxy stands before the service."""


class OpenStackHarness(DriverHarness):
    """The proxy stands before ``upstream``, where the services of ``paths`` are; ``resource`` gives the options of a
    server of a flavor. Silence lasts until the socket's time-out, ``socket_timeout``."""

    silence = math.inf

    def __init__(
        self,
        plugin: OpenStackPlugin,
        home: Path,
        account: Mapping[str, Any],
        *,
        upstream: str,
        paths: Mapping[str, str],
        resource: Callable[[str], dict[str, Any]],
        flavor: str,
        socket_timeout: float,
        late_by: float = 1.2,
        patience: float = 5.0,
    ) -> None:
        self.patience = patience
        self.proxy = FaultProxy(upstream)
        self.injector = ProxyInjector(self.proxy, REQUESTS, late_by=late_by)
        self.world = SystemWorld(threads=12)
        self._plugin = plugin
        self._home = home
        self._account = {**account, "socket_timeout": socket_timeout}
        self._paths = paths
        self._resource = resource
        self._flavor = flavor
        self._drivers: list[CloudDriver] = []
        self._stack: contextlib.AsyncExitStack | None = None

    async def open(self) -> CloudDriver:
        if self._stack is None:
            self._stack = contextlib.AsyncExitStack()
            await self._stack.enter_async_context(self.proxy)
        endpoints = {service: self.proxy.url + path for service, path in self._paths.items()}
        options = {**self._account, "endpoints": endpoints}
        driver = await self._plugin.open(
            DriverContext(account="os", world=self.world, home=self._home, options=options)
        )
        self._drivers.append(driver)
        return driver

    def spec(self, name: str) -> ServerSpec:
        return self._spec(name, self._flavor)

    def bad_spec(self, name: str) -> ServerSpec:
        return self._spec(name, "none-such")

    def _spec(self, name: str, flavor: str) -> ServerSpec:
        return ServerSpec(name=name, user_data="#!/bin/sh\necho hello\n", options=self._resource(flavor))

    async def quiet(self) -> None:
        """Wait until no call is under way, also none whose caller is gone."""

        async def idle() -> bool:
            return not any(driver.snapshot()["threads"] for driver in self._drivers)

        await eventually(self, 60.0, 0.01, idle, lambda: "calls are under way")

    async def clean(self) -> None:
        await self.quiet()
        if self._stack is not None:
            await self._stack.aclose()
            self._stack = None

    def close(self) -> None:
        self.world.close()
