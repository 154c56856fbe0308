"""The EC2 driver on a service that takes no tags with a create, where servers are looked up by client token."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from contract.clouds.driver_suite import DriverSuite, SharedAccountSuite, create, limit
from contract.clouds.test_ec2_driver import Ec2Harness, Ec2Scene
from pelagos.clouds import CloudDriver
from pelagos.clouds.ec2.eucalyptus import DRIVER


class TestUntagged(Ec2Scene, DriverSuite, SharedAccountSuite):
    """moto knows no signatures of version 2, so the fourth stands in."""

    plugin = DRIVER
    options: ClassVar[dict[str, Any]] = {"signature_version": "4", "region": "us-east-1", "settle": 0.2}

    @pytest.mark.anyio
    async def test_no_tag_goes_with_the_create(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        await create(driver, harness.spec("one"), "token-one")
        (request,) = harness.proxy.seen(action="RunInstances")
        assert not [key for key in request.form if key.startswith("TagSpecification")]
        assert request.form["ClientToken"] == "pelagos-token-one"
        assert [one.name for one in await driver.list_servers(timeout=limit(driver))] == ["one"]
