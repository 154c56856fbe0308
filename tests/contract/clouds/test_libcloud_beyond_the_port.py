"""What the generic driver says to a provider, in the provider's words, and what it refuses before saying anything."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contract.clouds.driver_suite import create, limit
from contract.clouds.test_libcloud_driver import LISTING, REQUESTS, TinyHarness, TinyScene
from pelagos.clouds import (
    Catalogue,
    CloudAuthFailed,
    CloudDriver,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    ForeignReader,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import Unsupported
from pelagos.testing import ProxyFault, request_where

pytestmark = pytest.mark.anyio

LABEL = request_where(method="POST", path="/label$")


@pytest.fixture
async def driver(harness: TinyHarness) -> AsyncIterator[CloudDriver]:
    driver = await harness.open()
    yield driver
    await driver.close()


class TestFullProvider(TinyScene):
    async def test_a_spec_in_the_providers_words(self, driver: CloudDriver, harness: TinyHarness) -> None:
        options = {
            "size": "size-2",
            "image": "im-plain",
            "location": "Here",
            "key_name": "mine",
            "metadata": {"team": "blue"},
            "extra": {"ex_colour": "red"},
        }
        spec = ServerSpec(name="one", user_data="#!/bin/sh\n", options=options)
        await create(driver, spec, "token-one")
        (server,) = harness.cloud.servers.values()
        assert {key: server[key] for key in ("name", "size", "image", "location", "key", "colour", "user_data")} == {
            "name": "one",
            "size": "2",
            "image": "plain",
            "location": "here",
            "key": "mine",
            "colour": "red",
            "user_data": "#!/bin/sh\n",
        }
        assert server["metadata"] == {"team": "blue", "pelagos-token": "token-one"}
        assert driver.capabilities.token_lookup is TokenLookup.TAG

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"extra": {"ex_color": "red"}}, "Did you mean 'ex_colour'?"),
            ({"extra": {"ex_metadata": {}}}, "what other keys are for"),
            ({"image": "twice"}, "im-twice, im-again"),
            ({"image": "plane"}, "Did you mean 'plain'"),
            ({"size": "9"}, "There are: 1, 2."),
            ({"location": "there"}, "Here"),
            ({"ssh_key": "ssh-ed25519 AAAA"}, "no `ssh_key`"),
            ({"sise": 1}, "sise"),
        ],
    )
    async def test_what_it_never_takes_is_not_sent(
        self, driver: CloudDriver, harness: TinyHarness, options: dict[str, object], said: str
    ) -> None:
        with pytest.raises(CloudRejected) as caught:
            await create(driver, harness.spec("one", **options), "token-one")
        assert said in f"{caught.value} {caught.value.advice}"
        assert harness.proxy.seen(REQUESTS["create"]) == []

    @pytest.mark.parametrize("fault", [ProxyFault.RATE_LIMITED, ProxyFault.UNAVAILABLE, ProxyFault.AUTH_FAILED])
    async def test_a_second_step_that_fails_does_not_deny_the_first(
        self, driver: CloudDriver, harness: TinyHarness, fault: ProxyFault
    ) -> None:
        harness.proxy.fail(fault, LABEL)
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one", extra={"ex_second_step": True}), "token-one")
        found = await driver.find_by_token("token-one", timeout=limit(driver))
        assert found is not None and len(harness.cloud.servers) == 1

    async def test_an_error_page_is_judged_by_its_status(self, driver: CloudDriver, harness: TinyHarness) -> None:
        harness.proxy.fail(ProxyFault.RATE_LIMITED, REQUESTS["create"], retry_after=9, body="<html>slow down</html>")
        with pytest.raises(CloudRateLimited) as caught:
            await create(driver, harness.spec("one"), "token-one")
        assert caught.value.retry_after == 9.0
        assert harness.cloud.servers == {}

    async def test_wrong_keys_are_told_without_them(self, harness: TinyHarness) -> None:
        driver = await harness.open(key="a-wrong-key")
        with pytest.raises(CloudAuthFailed) as caught:
            await driver.list_servers(timeout=limit(driver))
        assert "a-wrong-key" not in str(caught.value) + str(driver.snapshot())
        await driver.close()

    async def test_sizes_and_images_are_asked_for_once(self, driver: CloudDriver, harness: TinyHarness) -> None:
        assert isinstance(driver, Catalogue)
        assert [image.id for image in await driver.list_images(timeout=limit(driver))][:1] == ["im-plain"]
        (small, large) = await driver.list_flavors(timeout=limit(driver))
        assert (small.ram_mb, small.disk_gb, large.price_per_hour, large.currency) == (512, 10.0, 0.02, "USD")

    async def test_servers_of_others(self, driver: CloudDriver, harness: TinyHarness) -> None:
        assert isinstance(driver, ForeignReader)
        foreign = await harness.make_foreign()
        await create(driver, harness.spec("one"), "token-one")
        assert [one.provider_id for one in await driver.list_foreign_servers(timeout=limit(driver))] == [foreign]
        assert (await driver.get_server(foreign, timeout=limit(driver))).token == ""


class TestBareProvider(TinyScene):
    @pytest.fixture
    def provider(self) -> str:
        return "tiny-name"

    async def test_the_token_is_in_the_name(self, driver: CloudDriver, harness: TinyHarness) -> None:
        token = "0b4dd3f1-3d02-4c1c-a4e6-2a3b7f0c9d11"
        await create(driver, harness.spec("a-very-long-name-of-a-server-that-will-be-cut"), token)
        (server,) = harness.cloud.servers.values()
        assert server["name"] == f"a-very-long-name-of-a-s-pt-{token}"
        assert len(server["name"]) == 63
        found = await driver.find_by_token(token, timeout=limit(driver))
        assert found is not None and found.name == "a-very-long-name-of-a-s"
        assert driver.capabilities.token_lookup is TokenLookup.NAME

    async def test_what_it_cannot_do(self, driver: CloudDriver, harness: TinyHarness) -> None:
        plain = harness.spec("one")
        with pytest.raises(CloudRejected, match="no user data"):
            await create(driver, ServerSpec(name="one", user_data="#!", options=plain.options), "token-one")
        for key, value in (("location", "here"), ("key_name", "mine"), ("metadata", {"a": "b"})):
            with pytest.raises(CloudRejected, match=f"no `{key}`"):
                await create(driver, harness.spec("one", **{key: value}), "token-one")
        with pytest.raises(Unsupported, match="cannot stop"):
            await driver.stop_server("1", timeout=limit(driver))
        with pytest.raises(Unsupported, match="no metadata"):
            await harness.open(token="metadata")
        assert harness.proxy.seen(LISTING) == [], "nothing needed to be asked"
