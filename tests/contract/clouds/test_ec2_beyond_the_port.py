"""What the EC2 driver does besides the port's verbs, asked of moto itself, and what it says on the wire."""

from __future__ import annotations

import asyncio
import base64
import re

import pytest

from contract.clouds.driver_suite import create, eventually, limit
from contract.clouds.test_ec2_driver import Ec2Harness, Ec2Scene
from pelagos.clouds import (
    Catalogue,
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudDriver,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    CloudUnreachable,
    ForeignReader,
    PartKind,
    PartsDriver,
    ServerAdopter,
    ServerGone,
    ServerNotFound,
)
from pelagos.clouds.ec2.driver import Ec2Driver
from pelagos.clouds.ec2.launch import USER_DATA_LIMIT
from pelagos.model.states import ServerState
from pelagos.testing import ProxyFault, request_where

pytestmark = pytest.mark.anyio

RUN = request_where(action="RunInstances")
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2bVwqEYc0WgJ9S5k7m0oVh1m3oG1WmQmN5yTtq3b4E tester"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMq0Jm8b7pUO0vD5W3m7qk3l9v7Kf2u4m1s8n6r5t0aB tester"

TYPES = """
<DescribeInstanceTypesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><instanceTypeSet><item>
<instanceType>{name}</instanceType><vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo>
<memoryInfo><sizeInMiB>2048</sizeInMiB></memoryInfo>
</item></instanceTypeSet>{more}</DescribeInstanceTypesResponse>
"""


async def _known(driver: Ec2Driver) -> bool:
    return driver.snapshot()["late_servers"] == 1


def error_document(code: str) -> str:
    return f"<Response><Errors><Error><Code>{code}</Code><Message>as scripted</Message></Error></Errors></Response>"


@pytest.fixture
async def driver(harness: Ec2Harness):  # type: ignore[no-untyped-def]
    driver = await harness.open()
    yield driver
    await driver.close()


class TestOnTheWire(Ec2Scene):
    async def test_a_create_is_one_request_with_tag_and_client_token(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        spec = harness.spec("web-1", tags=[{"team": "blue"}, {"cost centre": 7}])
        await create(driver, spec, "token-one")
        (request,) = harness.proxy.requests
        form = request.form
        tags = {form[f"TagSpecification.1.Tag.{n}.Key"]: form[f"TagSpecification.1.Tag.{n}.Value"] for n in range(1, 5)}
        assert request.method == "POST"
        assert request.query == {}, "what is secret or long is not in the URL"
        assert form["ClientToken"] == "pelagos-token-one"
        assert (form["MinCount"], form["MaxCount"]) == ("1", "1")
        assert form["TagSpecification.1.ResourceType"] == "instance"
        assert tags == {"Name": "web-1", "pelagos:token": "token-one", "team": "blue", "cost centre": "7"}
        assert base64.b64decode(form["UserData"]).decode() == spec.user_data
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=testing/")

    async def test_the_same_token_gives_the_same_client_token(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        harness.proxy.fail(ProxyFault.REPLY_LOST, RUN)
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one"), "token-one")
        await create(driver, harness.spec("one"), "token-one")
        first, second = harness.proxy.seen(RUN)
        assert first.form["ClientToken"] == second.form["ClientToken"]

    async def test_a_token_of_any_length_fits(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        token = "t" * 200
        made = await create(driver, harness.spec("one"), token)
        found = await driver.find_by_token(token, timeout=limit(driver))
        assert found is not None and found.provider_id == made.provider_id
        assert len(harness.proxy.seen(RUN)[0].form["ClientToken"]) == 64

    async def test_a_driver_never_sends_twice(self, harness: Ec2Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIBCLOUD_RETRY_FAILED_HTTP_REQUESTS", "1")
        driver = await harness.open()
        for fault in (ProxyFault.CONNECTION_CLOSED, ProxyFault.HALF_CLOSED, ProxyFault.TRUNCATED):
            harness.proxy.fail(fault, RUN)
            with pytest.raises(CloudUncertain):
                await create(driver, harness.spec("one"), f"token-{fault}")
        harness.proxy.fail(ProxyFault.RATE_LIMITED, RUN)
        with pytest.raises(CloudRateLimited):
            await create(driver, harness.spec("one"), "token-four")
        assert len(harness.proxy.seen(RUN)) == 4
        assert len(harness.moto.instances()) == 3
        await driver.close()

    async def test_a_refused_connection_had_no_effect(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        async with harness.proxy.refusing():
            with pytest.raises(CloudUnreachable, match="refused"):
                await create(driver, harness.spec("one"), "token-one")
        await create(driver, harness.spec("one"), "token-one")
        assert len(harness.moto.instances()) == 1

    @pytest.mark.parametrize(
        ("code", "status", "expected"),
        [
            ("InsufficientInstanceCapacity", 500, CloudCapacity),
            ("VcpuLimitExceeded", 400, CloudCapacity),
            ("RequestLimitExceeded", 503, CloudRateLimited),
            ("AuthFailure", 401, CloudAuthFailed),
            ("UnauthorizedOperation", 403, CloudAuthFailed),
            ("IdempotentParameterMismatch", 400, CloudUncertain),
            ("InvalidAMIID.NotFound", 400, CloudRejected),
            ("IncorrectInstanceState", 400, CloudBusy),
            ("InternalError", 500, CloudUncertain),
            ("Unavailable", 503, CloudUnreachable),
        ],
    )
    async def test_error_documents(
        self, driver: CloudDriver, harness: Ec2Harness, code: str, status: int, expected: type[Exception]
    ) -> None:
        harness.proxy.fail(ProxyFault.ERROR_BEFORE, RUN, status=status, body=error_document(code))
        with pytest.raises(expected, match=code):
            await create(driver, harness.spec("one"), "token-one")

    async def test_no_error_and_no_snapshot_holds_a_secret(self, harness: Ec2Harness) -> None:
        driver = await harness.open(secret_key="very-secret-indeed", session_token="more-secret-still")
        harness.proxy.fail(ProxyFault.ERROR_BEFORE, RUN, status=400, body="you sent very-secret-indeed")
        with pytest.raises(CloudRejected) as caught:
            await create(driver, harness.spec("one"), "token-one")
        assert "secret" not in str(caught.value)
        assert "secret" not in str(driver.snapshot())
        assert isinstance(driver, Ec2Driver) and "secret" not in repr(driver._account)
        await driver.close()


class TestServers(Ec2Scene):
    async def test_user_data_over_the_limit_is_refused_before_the_call(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        for size, sent in ((USER_DATA_LIMIT + 1, 0), (USER_DATA_LIMIT, 1)):
            spec = harness.spec("one")
            large = type(spec)(name="one", options=spec.options, user_data="#!" + "x" * (size - 2))
            if sent:
                await create(driver, large, "token-one")
            else:
                with pytest.raises(CloudRejected, match="16385 bytes"):
                    await create(driver, large, "token-one")
            assert len(harness.proxy.seen(RUN)) == sent

    async def test_another_region_is_refused(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        with pytest.raises(CloudRejected, match="eu-west-1"):
            await create(driver, harness.spec("one", regionname="eu-west-1"), "token-one")
        assert harness.proxy.requests == []
        irish = await harness.open(region="eu-west-1")
        await create(irish, harness.spec("one", regionname="eu-west-1"), "token-one")
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is None
        assert await irish.find_by_token("token-one", timeout=limit(driver)) is not None
        await irish.close()

    async def test_what_somebody_terminated_is_gone(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        harness.moto.ask("TerminateInstances", **{"InstanceId.1": made.provider_id})
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is None
        with pytest.raises(ServerGone):
            await driver.get_server(made.provider_id, timeout=limit(driver))

    async def test_servers_of_others_are_seen_and_adopted(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        assert isinstance(driver, ForeignReader)
        assert isinstance(driver, ServerAdopter)
        foreign = await harness.make_foreign()
        assert [s.provider_id for s in await driver.list_foreign_servers(timeout=limit(driver))] == [foreign]
        assert list(await driver.list_servers(timeout=limit(driver))) == []
        for _ in range(2):
            adopted = await driver.adopt_server(foreign, token="token-new", timeout=limit(driver))
            assert (adopted.provider_id, adopted.token) == (foreign, "token-new")
        assert list(await driver.list_foreign_servers(timeout=limit(driver))) == []
        assert [s.token for s in await driver.list_servers(timeout=limit(driver))] == ["token-new"]
        with pytest.raises(CloudRejected):
            await driver.adopt_server(foreign, token="token-other", timeout=limit(driver))
        with pytest.raises(ServerNotFound):
            await driver.adopt_server("i-0123456789abcdef0", token="token-x", timeout=limit(driver))

    async def test_the_catalogue(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        assert isinstance(driver, Catalogue)
        made = await create(driver, harness.spec("one"), "token-one")
        harness.moto.ask("CreateImage", InstanceId=made.provider_id, Name="golden")
        assert [image.name for image in await driver.list_images(timeout=limit(driver))] == ["golden"]
        types = request_where(action="DescribeInstanceTypes")
        for name, more in (("t3.small", "<nextToken>more</nextToken>"), ("x9.none", "")):
            harness.proxy.fail(ProxyFault.ERROR_BEFORE, types, status=200, body=TYPES.format(name=name, more=more))
        small, unknown = await driver.list_flavors(timeout=limit(driver))
        assert harness.proxy.seen(types)[1].form["NextToken"] == "more"
        assert (small.id, small.vcpus, small.ram_mb, small.currency) == ("t3.small", 2.0, 2048, "USD")
        assert small.price_per_hour is not None and 0 < small.price_per_hour < 1
        assert (unknown.id, unknown.price_per_hour) == ("x9.none", None)

    async def test_more_keys(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        """Those that moto keeps are asked back, the others are seen on the wire."""
        group = re.findall("<groupId>(.*?)</groupId>", harness.moto.ask("CreateSecurityGroup", **GROUP))[0]
        subnet, zone = re.findall(
            "<subnetId>(.*?)</subnetId>.*?<availabilityZone>(.*?)</availabilityZone>",
            harness.moto.ask("DescribeSubnets"),
            re.DOTALL,
        )[0]
        spec = harness.spec(
            "one",
            public_address=True,
            subnet_id=subnet,
            security_group_ids=[group],
            ebs_optimized=True,
            spot=True,
            spot_max_price=0.5,
            extra={"CreditSpecification.CpuCredits": "unlimited"},
        )
        made = await create(driver, spec, "token-one")
        said = harness.moto.ask("DescribeInstances", **{"InstanceId.1": made.provider_id})
        assert subnet in said and group in said and zone in said
        form = harness.proxy.seen(RUN)[0].form
        assert form["InstanceMarketOptions.SpotOptions.MaxPrice"] == "0.5"
        assert (form["EbsOptimized"], form["CreditSpecification.CpuCredits"]) == ("true", "unlimited")


GROUP = {"GroupName": "given", "GroupDescription": "made beforehand"}


class TestParts(Ec2Scene):
    async def test_a_server_with_volumes_and_an_address_of_its_own(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        assert isinstance(driver, PartsDriver)
        spec = harness.spec(
            "db-1",
            volumes=[{"size": 10, "type": "gp3"}, {"size": 5, "device": "/dev/sdz", "keep": True}],
            elastic_ip=True,
            security_group={"ingress": [{"ports": 5432, "cidr": "10.0.0.0/8"}, {"protocol": "icmp"}]},
        )
        wanted = driver.parts(spec)
        assert [(part.key, part.kind, part.keep) for part in wanted] == [
            ("security-group", PartKind.NETWORK, False),
            ("volume-1", PartKind.VOLUME, False),
            ("volume-2", PartKind.VOLUME, True),
            ("address", PartKind.ADDRESS, False),
        ]
        assert [part.size_gb for part in wanted] == [0, 10, 5, 0]
        assert list(driver.parts(spec)) == list(wanted)
        with pytest.raises(CloudRejected, match="volume-1"):
            await create(driver, spec, "token-early")
        made = {}
        for part in wanted:
            made[part.key] = await driver.create_part(part, token=f"token-{part.key}", timeout=limit(driver))
            assert made[part.key].token == f"token-{part.key}"
        listed = {part.token: part for part in await driver.list_parts(timeout=limit(driver))}
        assert {token: part.provider_id for token, part in listed.items()} == {
            part.token: part.provider_id for part in made.values()
        }
        assert all(part.ready and not part.failed for part in listed.values())
        assert listed["token-address"].address

        whole = type(spec)(
            name=spec.name, options=spec.options, parts={key: part.provider_id for key, part in made.items()}
        )
        server = await create(driver, whole, "token-one")
        for _ in range(2):
            finished = await driver.finish_server(server.provider_id, whole, timeout=limit(driver))
        assert listed["token-address"].address in finished.addresses
        said = harness.moto.ask("DescribeInstances", **{"InstanceId.1": server.provider_id})
        for key in ("volume-1", "volume-2", "security-group"):
            assert made[key].provider_id in said
        assert "/dev/sdf" in said and "/dev/sdz" in said
        with pytest.raises(CloudBusy):
            await driver.delete_part(made["volume-1"], timeout=limit(driver))

        await driver.delete_server(server.provider_id, timeout=limit(driver))
        for part in made.values():
            for _ in range(2):
                await driver.delete_part(part, timeout=limit(driver))
        assert list(await driver.list_parts(timeout=limit(driver))) == []
        for action, left in (("DescribeVolumes", "vol-"), ("DescribeAddresses", "eipalloc-")):
            assert left not in harness.moto.ask(action)

    @pytest.mark.parametrize("action", ["CreateVolume", "AllocateAddress", "CreateSecurityGroup"])
    async def test_a_part_whose_reply_is_lost_is_found_by_its_token(
        self, driver: CloudDriver, harness: Ec2Harness, action: str
    ) -> None:
        assert isinstance(driver, PartsDriver)
        spec = harness.spec("one", volumes=[{"size": 1}], elastic_ip=True, security_group={})
        kind = {"CreateVolume": "volume", "AllocateAddress": "address", "CreateSecurityGroup": "network"}[action]
        part = next(one for one in driver.parts(spec) if one.kind == kind)
        harness.proxy.fail(ProxyFault.CONNECTION_CLOSED, request_where(action=action))
        with pytest.raises(CloudUncertain):
            await driver.create_part(part, token="token-part", timeout=limit(driver))
        assert [one.token for one in await driver.list_parts(timeout=limit(driver))] == ["token-part"]

    async def test_a_group_whose_rules_are_refused_is_taken_back(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        assert isinstance(driver, PartsDriver)
        (part,) = driver.parts(harness.spec("one", security_group={"ingress": [{"ports": "1-2"}]}))
        rules = request_where(action="AuthorizeSecurityGroupIngress")
        harness.proxy.fail(ProxyFault.ERROR_BEFORE, rules, status=400, body=error_document("InvalidPermission"))
        with pytest.raises(CloudRejected):
            await driver.create_part(part, token="token-part", timeout=limit(driver))
        assert list(await driver.list_parts(timeout=limit(driver))) == []

    async def test_a_key_pair_lives_as_long_as_an_instance_has_it(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        pair = {"name": "web-key", "public_key": PUBLIC_KEY}
        one = await create(driver, harness.spec("one", key_pair=pair), "token-one")
        two = await create(driver, harness.spec("two", key_pair=pair), "token-two")
        assert len(harness.proxy.seen(action="ImportKeyPair")) == 1
        with pytest.raises(CloudRejected, match="another key"):
            other = {"name": "web-key", "public_key": OTHER_KEY}
            await create(driver, harness.spec("three", key_pair=other), "token-three")
        await driver.delete_server(one.provider_id, timeout=limit(driver))
        assert "web-key" in harness.moto.ask("DescribeKeyPairs")
        await driver.delete_server(two.provider_id, timeout=limit(driver))
        assert "web-key" not in harness.moto.ask("DescribeKeyPairs")

    async def test_instances_that_go_at_once_take_their_key_pair_along(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        pair = {"name": "web-key", "public_key": PUBLIC_KEY}
        made = [await create(driver, harness.spec(f"n{n}", key_pair=pair), f"token-{n}") for n in range(4)]
        async with asyncio.TaskGroup() as group:
            for one in made:
                group.create_task(driver.delete_server(one.provider_id, timeout=limit(driver)))
        assert "web-key" not in harness.moto.ask("DescribeKeyPairs")

    async def test_a_key_pair_that_could_not_be_released_is_released_by_the_next_try(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        pair = {"name": "web-key", "public_key": PUBLIC_KEY}
        one = await create(driver, harness.spec("one", key_pair=pair), "token-one")
        harness.proxy.fail(ProxyFault.UNAVAILABLE, request_where(action="DeleteKeyPair"))
        with pytest.raises(CloudUncertain, match="web-key"):
            await driver.delete_server(one.provider_id, timeout=limit(driver))
        assert harness.moto.instances() == {}
        await driver.delete_server(one.provider_id, timeout=limit(driver))
        assert "web-key" not in harness.moto.ask("DescribeKeyPairs")

    async def test_a_key_pair_of_somebody_else_stays(self, driver: CloudDriver, harness: Ec2Harness) -> None:
        harness.moto.ask(
            "ImportKeyPair",
            KeyName="theirs",
            PublicKeyMaterial=base64.b64encode(PUBLIC_KEY.encode()).decode(),
        )
        made = await create(driver, harness.spec("one", key_name="theirs"), "token-one")
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        assert "theirs" in harness.moto.ask("DescribeKeyPairs")

    async def test_a_key_pair_that_goes_meanwhile_is_no_failure_for_good(
        self, driver: CloudDriver, harness: Ec2Harness
    ) -> None:
        spec = harness.spec("one", key_pair={"name": "web-key", "public_key": PUBLIC_KEY})
        gone = error_document("InvalidKeyPair.NotFound")
        harness.proxy.fail(ProxyFault.ERROR_BEFORE, RUN, status=400, body=gone)
        with pytest.raises(CloudBusy):
            await create(driver, spec, "token-one")
        await create(driver, spec, "token-one")


class TestTheCircuit(Ec2Scene):
    async def test_an_answer_after_the_deadline_is_known_by_its_token(self, harness: Ec2Harness) -> None:
        """The cloud does not show what it made yet; the late answer does."""
        driver = await harness.open(settle=60.0)
        assert isinstance(driver, Ec2Driver)
        release = asyncio.Event()
        harness.proxy.fail(ProxyFault.LATE, RUN, until=release)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                driver.create_server(harness.spec("one"), token="token-one", timeout=harness.patience * 10)
            )
            await harness.proxy.arrival(RUN)
            task.cancel()
        release.set()
        await eventually(harness, 6.0, 0.05, lambda: _known(driver), lambda: "a late answer")
        harness.moto.reset()  # nothing of it is listed
        found = await driver.find_by_token("token-one", timeout=limit(driver))
        assert found is not None and found.state is ServerState.BUILD
        assert [s.token for s in await driver.list_servers(timeout=limit(driver))] == ["token-one"]
        await driver.close()
