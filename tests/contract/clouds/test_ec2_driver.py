"""The EC2 driver passes the suites of the driver port against moto's server, with a fault proxy between the two."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from contract.clouds.driver_suite import (
    DriverFaultSuite,
    DriverSuite,
    PartsFaultSuite,
    PartsSuite,
    SharedAccountSuite,
    create,
    limit,
)
from contract.clouds.proxy_injector import ProxiedHarness
from contract.clouds.update_suite import UpdateFaultSuite, UpdateHarness, UpdateSuite, updating
from pelagos.clouds import CloudDriver, DriverContext, DriverPlugin, PartsDriver, ServerSpec
from pelagos.clouds.ec2 import DRIVER
from pelagos.model import SystemWorld
from pelagos.testing import FaultProxy, fault_proxy, request_where
from support.moto_server import MotoServer

TOKEN_FILTER = "tag:pelagos:token"
REQUESTS = {
    "create": request_where(action="RunInstances"),
    "delete": request_where(action="TerminateInstances"),
    "update": request_where(action="ModifyInstanceAttribute"),
    "list": request_where(
        action="DescribeInstances", that=lambda r: r.form.get("Filter.2.Name") == "tag-key", method="post"
    ),
    "find": request_where(action="DescribeInstances", form={"Filter.1.Name": TOKEN_FILTER}),
    "part": request_where(that=lambda r: r.action in ("CreateVolume", "AllocateAddress", "CreateSecurityGroup")),
    "parts": request_where(action="DescribeAddresses"),
    "unpart": request_where(that=lambda r: r.action in ("DeleteVolume", "ReleaseAddress", "DeleteSecurityGroup")),
}


class Ec2Harness(ProxiedHarness):
    patience = 5.0

    def __init__(
        self, moto: MotoServer, proxy: FaultProxy, home: Path, plugin: DriverPlugin, options: dict[str, Any]
    ) -> None:
        self._plugin = plugin
        self._options = options
        self.moto = moto
        super().__init__(proxy, REQUESTS, late_by=1.2)
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "access_key": "testing",
            "secret_key": "testing-secret",
            "endpoint": self.proxy.url,
            "create_timeout": 3.0,
            "call_timeout": 3.0,
            "build_timeout": 20.0,
            "settle": 0.4,
            **self._options,
            **options,
        }
        return await self._plugin.open(DriverContext(account="aws", world=self.world, home=self._home, options=given))

    def spec(self, name: str, **options: Any) -> ServerSpec:
        """Without a public address: one that the cloud chooses changes with every stop."""
        resource = {
            **({"regionname": "us-east-1"} if self._plugin is DRIVER else {}),
            "image_id": "ami-12c6146b",
            "instance_type": "t3.small",
            "public_address": False,
            **options,
        }
        return ServerSpec(name=name, user_data="#!/bin/sh\necho hello\n", options=resource)

    def spec_with_parts(self, name: str) -> ServerSpec:
        return self.spec(name, security_group={"ingress": [{"ports": 22}]}, volumes=[{"size": 1}], elastic_ip=True)

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(name, subnet_id="subnet-none-such")

    async def make_foreign(self) -> str:
        self.moto.ask("RunInstances", ImageId="ami-12c6146b", MinCount="1", MaxCount="1", ClientToken="somebody-elses")
        (made,) = self.moto.instances()
        return made


class Ec2Scene:
    """Gives the harness to a class of tests."""

    plugin: DriverPlugin = DRIVER
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def harness(self, moto: MotoServer, tmp_path: Path) -> AsyncIterator[Ec2Harness]:
        async with fault_proxy(moto.url) as proxy:
            harness = Ec2Harness(moto, proxy, tmp_path, self.plugin, self.options)
            yield harness
            harness.world.close()


class TestEc2Driver(Ec2Scene, DriverSuite, DriverFaultSuite, SharedAccountSuite, PartsSuite, PartsFaultSuite):
    """All of the suites, unchanged."""


class UpdatingHarness(Ec2Harness, UpdateHarness):
    """Two groups that somebody has made. moto changes the groups of instances that were launched without saying
    anything of their interfaces, and takes groups that are not there."""

    refused = ("instance_type", "t3.large")
    wrong: ClassVar = {"security_group_ids": []}

    def __init__(
        self, moto: MotoServer, proxy: FaultProxy, home: Path, plugin: DriverPlugin, options: dict[str, Any]
    ) -> None:
        super().__init__(moto, proxy, home, plugin, options)
        one, two = [self._group(name) for name in ("one", "two")]
        self.updated = {"security_group_ids": ([one], sorted([one, two]))}

    def _group(self, name: str) -> str:
        made = self.moto.ask("CreateSecurityGroup", GroupName=name, GroupDescription=name)
        (group,) = re.findall("<groupId>(.*?)</groupId>", made)
        return str(group)

    def spec(self, name: str, **options: Any) -> ServerSpec:
        return super().spec(
            name, public_address=None, security_group_ids=self.updated["security_group_ids"][0], **options
        )

    async def values(self, provider_id: str) -> dict[str, Any]:
        told = self.moto.ask("DescribeInstanceAttribute", InstanceId=provider_id, Attribute="groupSet")
        return {"security_group_ids": sorted(re.findall("<groupId>(.*?)</groupId>", told))}


class TestEc2DriverThatUpdates(UpdateSuite, UpdateFaultSuite):
    driver = DriverSuite.driver

    @pytest.fixture
    async def harness(self, moto: MotoServer, tmp_path: Path) -> AsyncIterator[UpdatingHarness]:
        async with fault_proxy(moto.url) as proxy:
            harness = UpdatingHarness(moto, proxy, tmp_path, DRIVER, {})
            yield harness
            harness.world.close()

    @pytest.mark.anyio
    async def test_a_group_of_its_own_stays(self, driver: CloudDriver, harness: UpdatingHarness) -> None:
        """The one that was made for it is no group that anybody names."""
        assert isinstance(driver, PartsDriver)
        spec = harness.spec("one", security_group={"ingress": [{"ports": 22}]})
        (part,) = driver.parts(spec)
        own = await driver.create_part(part, token="token-part", timeout=limit(driver))
        made = await create(driver, msgspec.structs.replace(spec, parts={part.key: own.provider_id}), "token-one")
        _, second = harness.updated["security_group_ids"]
        await updating(driver).update_server(made.provider_id, {"security_group_ids": second}, timeout=limit(driver))
        assert (await harness.values(made.provider_id))["security_group_ids"] == sorted([*second, own.provider_id])
