"""The conformance suite of the driver port: each sentence of `port.py` as a test, for every driver.

A driver's test module derives a class from :class:`DriverSuite` and gives the fixture ``harness``. If there is a
:class:`FaultInjector` between the driver and its provider, the class also derives from :class:`DriverFaultSuite`; if
others may make servers in the account, from :class:`SharedAccountSuite`; if the driver is a ``PartsDriver``, from
:class:`PartsSuite`, and :class:`PartsFaultSuite` where there is an injector. No test skips itself. Waiting goes through
``harness.sleep``, so a driver on virtual time waits no real time.
"""

from __future__ import annotations

import abc
import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from pelagos.clouds import (
    CloudBusy,
    CloudDriver,
    CloudError,
    CloudPart,
    CloudRateLimited,
    CloudRejected,
    CloudServer,
    CloudUncertain,
    CloudUnreachable,
    ForeignReader,
    PartsDriver,
    PartSpec,
    ServerAdopter,
    ServerNotFound,
    ServerSpec,
    ServerUpdater,
    TokenLookup,
)
from pelagos.model.errors import PelagosError, Retry, Unsupported
from pelagos.model.states import ServerState

NOTHING_WAS_DONE = (Retry.NEVER, Retry.TRANSIENT, Retry.AFTER)
SILENT = ("request_lost", "reply_lost")
"""Faults after which no answer comes: the call lasts until its deadline."""


class FaultInjector(abc.ABC):
    """Faults between the driver and its provider; the names are those of the simulated cloud's ``Fault``."""

    @abc.abstractmethod
    def inject(
        self, verb: str, fault: str, times: int = 1, *, delay: float | None = None, retry_after: float | None = None
    ) -> None:
        """The next ``times`` requests of ``verb`` get ``fault``."""


class DriverHarness(abc.ABC):
    """What the suite needs to know about one driver. One a test; the account is empty at first."""

    injector: FaultInjector | None = None
    """For :class:`DriverFaultSuite`."""
    echo: tuple[Sequence[str], str] = (("true",), "")
    """A command that succeeds in an instance, and text that its output then holds."""
    failing: Sequence[str] | None = None
    """A command that fails in an instance."""
    keeps_addresses = True
    """Whether the cloud keeps the addresses of a server that is stopped."""
    patience = 1.0
    """How many times the declared times the suite waits before it calls something missing; for loaded machines."""
    silence = 1.5
    """Deadline, in seconds, of a call that gets no answer: long enough to send it, and no longer, since it is waited
    for."""

    @abc.abstractmethod
    async def open(self) -> CloudDriver:
        """A new driver for the same account."""

    @abc.abstractmethod
    def spec(self, name: str) -> ServerSpec:
        """A server that the account takes."""

    @abc.abstractmethod
    def bad_spec(self, name: str) -> ServerSpec:
        """A server that the cloud will never take."""

    async def make_foreign(self) -> str:
        """Make a server as somebody else would; its provider id. For :class:`SharedAccountSuite`."""
        raise NotImplementedError

    def spec_with_parts(self, name: str) -> ServerSpec:
        """A server that needs at least two parts, a volume among them, none of them kept. For :class:`PartsSuite`."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def clean(self) -> None:
        """Remove whatever the test left; nothing to do where a test's cloud dies with it."""
        return


class DriverSuite:
    """Derive, name it Test..., and give a fixture ``harness``."""

    @pytest.fixture
    def harness(self) -> DriverHarness:
        raise NotImplementedError("the derived class gives its harness")

    @pytest.fixture
    async def driver(self, harness: DriverHarness) -> AsyncIterator[CloudDriver]:
        driver = await harness.open()
        try:
            yield driver
        finally:
            await driver.close()
            await harness.clean()

    # -- create, find, list, get -----------------------------------------------------------------------------------

    @pytest.mark.anyio
    async def test_a_new_account_is_empty(self, driver: CloudDriver) -> None:
        assert list(await driver.list_servers(timeout=limit(driver))) == []
        assert await driver.find_by_token("no-such-token", timeout=limit(driver)) is None

    @pytest.mark.anyio
    async def test_create_returns_a_server_that_carries_its_token(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        spec = harness.spec("one")
        made = await create(driver, spec, "token-one")
        assert made.token == "token-one"
        assert spec.name in made.name
        assert made.provider_id
        assert made.state in (ServerState.BUILD, ServerState.ACTIVE)

    @pytest.mark.anyio
    async def test_it_is_found_by_token_listed_and_got(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        found = await appear(driver, harness, "token-one")
        assert found.provider_id == made.provider_id
        got = await driver.get_server(made.provider_id, timeout=limit(driver))
        assert (got.provider_id, got.token, got.name) == (made.provider_id, "token-one", made.name)
        listed = await driver.list_servers(timeout=limit(driver))
        assert [(s.provider_id, s.token, s.name) for s in listed] == [(made.provider_id, "token-one", made.name)]
        assert await driver.find_by_token("token-other", timeout=limit(driver)) is None

    @pytest.mark.anyio
    async def test_it_becomes_active_with_an_address(self, driver: CloudDriver, harness: DriverHarness) -> None:
        await create(driver, harness.spec("one"), "token-one")
        server = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert server.addresses or server.private_addresses
        assert all(isinstance(address, str) and address for address in server.addresses + server.private_addresses)
        assert server.created_at is None or server.created_at > 1_000_000_000

    @pytest.mark.anyio
    async def test_states_on_the_way_to_active_are_build_only(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        seen = [made.state]

        async def active() -> bool:
            found = await driver.find_by_token("token-one", timeout=limit(driver))
            if found is not None:
                seen.append(found.state)
            return seen[-1] is ServerState.ACTIVE

        await eventually(harness, driver.capabilities.build_timeout, pause(driver), active, lambda: f"{seen}")
        assert set(seen) <= {ServerState.BUILD, ServerState.ACTIVE}
        assert seen == sorted(seen, key=[ServerState.BUILD, ServerState.ACTIVE].index)

    @pytest.mark.anyio
    async def test_a_second_create_with_a_known_token(self, driver: CloudDriver, harness: DriverHarness) -> None:
        """IDEMPOTENT: the same server, and no other. Otherwise the first is what a look-up finds."""
        spec = harness.spec("one")
        first = await create(driver, spec, "token-one")
        await appear(driver, harness, "token-one")
        if driver.capabilities.token_lookup is not TokenLookup.IDEMPOTENT:
            found = await driver.find_by_token("token-one", timeout=limit(driver))
            assert found is not None and found.provider_id == first.provider_id
            return
        again = await create(driver, spec, "token-one")
        assert again.provider_id == first.provider_id
        await settled(driver, harness)
        assert len(await driver.list_servers(timeout=limit(driver))) == 1

    @pytest.mark.anyio
    async def test_two_tokens_make_two_servers(self, driver: CloudDriver, harness: DriverHarness) -> None:
        one = await create(driver, harness.spec("one"), "token-one")
        two = await create(driver, harness.spec("two"), "token-two")
        assert one.provider_id != two.provider_id
        assert (await appear(driver, harness, "token-one")).provider_id == one.provider_id
        assert (await appear(driver, harness, "token-two")).provider_id == two.provider_id
        listed = await driver.list_servers(timeout=limit(driver))
        assert {s.token for s in listed} == {"token-one", "token-two"}

    @pytest.mark.anyio
    async def test_two_active_servers_have_addresses_of_their_own(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        for name in ("one", "two"):
            await create(driver, harness.spec(name), f"token-{name}")
        one = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        two = await reach(driver, harness, "token-two", ServerState.ACTIVE)
        assert not set(one.addresses + one.private_addresses) & set(two.addresses + two.private_addresses)

    @pytest.mark.anyio
    async def test_a_spec_that_never_fits_is_rejected_for_good(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        spec = harness.bad_spec("bad")
        with pytest.raises(PelagosError) as caught:
            await create(driver, spec, "token-bad")
        assert caught.value.retry is Retry.NEVER
        await settled(driver, harness)
        assert await driver.find_by_token("token-bad", timeout=limit(driver)) is None

    @pytest.mark.anyio
    async def test_get_of_a_server_that_never_was(self, driver: CloudDriver) -> None:
        with pytest.raises(ServerNotFound):
            await driver.get_server("no-such-server", timeout=limit(driver))

    # -- delete ----------------------------------------------------------------------------------------------------

    @pytest.mark.anyio
    async def test_deleted_servers_go_from_all_reads(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")
        with pytest.raises(ServerNotFound):
            await driver.get_server(made.provider_id, timeout=limit(driver))
        assert list(await driver.list_servers(timeout=limit(driver))) == []

    @pytest.mark.anyio
    async def test_delete_is_idempotent(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")
        await driver.delete_server(made.provider_id, timeout=limit(driver))

    @pytest.mark.anyio
    async def test_deleting_what_never_was_succeeds(self, driver: CloudDriver) -> None:
        await driver.delete_server("no-such-server", timeout=limit(driver))

    @pytest.mark.anyio
    async def test_delete_takes_one_server_and_no_other(self, driver: CloudDriver, harness: DriverHarness) -> None:
        one = await create(driver, harness.spec("one"), "token-one")
        await create(driver, harness.spec("two"), "token-two")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        await reach(driver, harness, "token-two", ServerState.ACTIVE)
        await driver.delete_server(one.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")
        assert (await reach(driver, harness, "token-two", ServerState.ACTIVE)).token == "token-two"

    @pytest.mark.anyio
    async def test_delete_during_build(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        await settled(driver, harness)
        await gone(driver, harness, "token-one")

    # -- console, power, execute -----------------------------------------------------------------------------------

    @pytest.mark.anyio
    async def test_console(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        if not driver.capabilities.console:
            with pytest.raises(Unsupported):
                await driver.console(made.provider_id, max_bytes=100, timeout=limit(driver))
            return
        whole = await driver.console(made.provider_id, max_bytes=1_000_000, timeout=limit(driver))
        end = await driver.console(made.provider_id, max_bytes=7, timeout=limit(driver))
        assert isinstance(whole, str)
        assert len(end.encode()) <= 7
        assert await driver.console(made.provider_id, max_bytes=0, timeout=limit(driver)) == ""
        with pytest.raises(ServerNotFound):
            await driver.console("no-such-server", max_bytes=100, timeout=limit(driver))

    @pytest.mark.anyio
    async def test_power(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        before = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        verbs = (driver.start_server, driver.stop_server, driver.reboot_server)
        if not driver.capabilities.power:
            for verb in verbs:
                with pytest.raises(Unsupported):
                    await verb(made.provider_id, timeout=limit(driver))
            return
        await driver.start_server(made.provider_id, timeout=limit(driver))
        assert (await reach(driver, harness, "token-one", ServerState.ACTIVE)).provider_id == made.provider_id
        await driver.stop_server(made.provider_id, timeout=limit(driver))
        await reach(driver, harness, "token-one", ServerState.STOPPED)
        await driver.stop_server(made.provider_id, timeout=limit(driver))
        await driver.start_server(made.provider_id, timeout=limit(driver))
        after = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert len(after.addresses) == len(before.addresses)
        if harness.keeps_addresses:
            assert after.addresses == before.addresses
        await driver.reboot_server(made.provider_id, timeout=limit(driver))
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        for verb in verbs:
            with pytest.raises(ServerNotFound):
                await verb("no-such-server", timeout=limit(driver))

    @pytest.mark.anyio
    async def test_a_stopped_server_can_be_deleted(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        if not driver.capabilities.power:
            with pytest.raises(Unsupported):
                await driver.stop_server(made.provider_id, timeout=limit(driver))
            return
        await driver.stop_server(made.provider_id, timeout=limit(driver))
        await reach(driver, harness, "token-one", ServerState.STOPPED)
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")

    @pytest.mark.anyio
    async def test_execute(self, driver: CloudDriver, harness: DriverHarness) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        argv, expected = harness.echo
        if not driver.capabilities.execute:
            with pytest.raises(Unsupported):
                await driver.execute(made.provider_id, argv, timeout=limit(driver))
            return
        result = await driver.execute(made.provider_id, argv, timeout=limit(driver))
        assert result.exit_code == 0
        assert expected in result.output
        if harness.failing is not None:
            assert (await driver.execute(made.provider_id, harness.failing, timeout=limit(driver))).exit_code != 0
        with pytest.raises(ServerNotFound):
            await driver.execute("no-such-server", argv, timeout=limit(driver))

    @pytest.mark.anyio
    async def test_keys_are_changed_in_place_only_if_the_account_declares_them(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        """What is declared, ``UpdateSuite`` tries."""
        assert not driver.capabilities.updates or isinstance(driver, ServerUpdater)
        if isinstance(driver, ServerUpdater):
            made = await create(driver, harness.spec("one"), "token-one")
            with pytest.raises(Unsupported):
                await driver.update_server(made.provider_id, {"no-such-key": 1}, timeout=limit(driver))

    # -- time, cancellation, concurrency, closing ------------------------------------------------------------------

    @pytest.mark.anyio
    async def test_a_create_that_times_out_is_uncertain_or_was_not_made(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        try:
            await driver.create_server(harness.spec("one"), token="token-one", timeout=0.001)
        except CloudUncertain:
            pass
        except CloudError as error:
            assert error.retry in NOTHING_WAS_DONE
            await settled(driver, harness)
            assert await driver.find_by_token("token-one", timeout=limit(driver)) is None
            return
        await settled(driver, harness)
        found = [s for s in await driver.list_servers(timeout=limit(driver)) if s.token == "token-one"]
        assert len(found) <= 1

    @pytest.mark.anyio
    async def test_a_read_that_times_out_is_unreachable(self, driver: CloudDriver) -> None:
        reads: list[Callable[[], Any]] = [
            lambda: driver.list_servers(timeout=0.000_001),
            lambda: driver.find_by_token("token-one", timeout=0.000_001),
        ]
        for read in reads:
            try:
                result = await read()
            except CloudUnreachable as error:
                assert error.retry is Retry.TRANSIENT
            else:
                assert not result

    @pytest.mark.anyio
    async def test_a_cancelled_create_leaves_one_server_or_none(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        """Cancelled at any await: at most one server carries the token, and the driver goes on working."""
        tokens = []
        for step in (0, 1, 2, 5, 20):
            token = f"token-{step}"
            tokens.append(token)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(
                    driver.create_server(
                        harness.spec(f"c{step}"), token=token, timeout=driver.capabilities.create_timeout
                    )
                )
                for _ in range(step):
                    await asyncio.sleep(0)
                if step == 20:
                    await harness.sleep(0.05)
                task.cancel()
        await settled(driver, harness)
        listed = await driver.list_servers(timeout=limit(driver))
        counts = {token: sum(1 for s in listed if s.token == token) for token in tokens}
        assert all(count <= 1 for count in counts.values()), counts
        await create(driver, harness.spec("after"), "token-after")
        await reach(driver, harness, "token-after", ServerState.ACTIVE)

    @pytest.mark.anyio
    async def test_cancelled_reads_do_no_harm(self, driver: CloudDriver, harness: DriverHarness) -> None:
        await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        for step in (0, 1, 3):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_list(driver))
                for _ in range(step):
                    await asyncio.sleep(0)
                task.cancel()
        assert len(await driver.list_servers(timeout=limit(driver))) == 1

    @pytest.mark.anyio
    async def test_calls_at_once_up_to_parallel_calls(self, driver: CloudDriver, harness: DriverHarness) -> None:
        many = min(driver.capabilities.parallel_calls, 8)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(create(driver, harness.spec(f"p{number}"), f"token-{number}"))
                for number in range(many)
            ]
        ids = [task.result().provider_id for task in tasks]
        assert len(set(ids)) == many
        await settled_listing(driver, harness, many)
        async with asyncio.TaskGroup() as group:
            for provider_id in ids:
                group.create_task(driver.delete_server(provider_id, timeout=limit(driver)))
        await settled_listing(driver, harness, 0)

    @pytest.mark.anyio
    async def test_servers_outlive_the_driver_that_made_them(self, driver: CloudDriver, harness: DriverHarness) -> None:
        first = await harness.open()
        made = await create(first, harness.spec("one"), "token-one")
        await first.close()
        assert (await appear(driver, harness, "token-one")).provider_id == made.provider_id
        assert (await reach(driver, harness, "token-one", ServerState.ACTIVE)).provider_id == made.provider_id

    @pytest.mark.anyio
    async def test_close_may_come_twice(self, harness: DriverHarness) -> None:
        driver = await harness.open()
        await driver.close()
        await driver.close()
        await harness.clean()

    @pytest.mark.anyio
    async def test_snapshot_is_plain_data(self, driver: CloudDriver) -> None:
        assert msgspec.json.decode(msgspec.json.encode(driver.snapshot())) is not None

    @pytest.mark.anyio
    async def test_declared_times_make_sense(self, driver: CloudDriver) -> None:
        declared = driver.capabilities
        assert declared.settle >= 0
        assert 0 < declared.create_timeout <= declared.build_timeout
        assert declared.call_timeout > 0
        assert 0 < declared.poll_interval <= declared.build_timeout
        assert declared.parallel_calls >= 1


class SharedAccountSuite:
    """Besides :class:`DriverSuite`, for clouds where others may make servers in the same account."""

    @pytest.mark.anyio
    async def test_a_server_of_somebody_else_is_not_listed(self, driver: CloudDriver, harness: DriverHarness) -> None:
        foreign = await harness.make_foreign()
        await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        listed = await driver.list_servers(timeout=limit(driver))
        assert [s.token for s in listed] == ["token-one"]
        assert foreign not in {s.provider_id for s in listed}


class AdoptionSuite:
    """Besides :class:`SharedAccountSuite`, for drivers that look at servers of others and adopt them."""

    @pytest.mark.anyio
    async def test_foreign_servers_are_listed_apart(self, driver: CloudDriver, harness: DriverHarness) -> None:
        assert isinstance(driver, ForeignReader)
        foreign = await harness.make_foreign()
        await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        listed = await driver.list_foreign_servers(timeout=limit(driver))
        assert [(s.provider_id, s.token) for s in listed] == [(foreign, "")]
        assert (await driver.get_server(foreign, timeout=limit(driver))).provider_id == foreign

    @pytest.mark.anyio
    async def test_an_adopted_server_is_ours_from_then_on(self, driver: CloudDriver, harness: DriverHarness) -> None:
        assert isinstance(driver, ForeignReader)
        assert isinstance(driver, ServerAdopter)
        foreign = await harness.make_foreign()
        for _ in range(2):  # repeatable
            adopted = await driver.adopt_server(foreign, token="token-one", timeout=limit(driver))
            assert (adopted.provider_id, adopted.token) == (foreign, "token-one")
        assert (await appear(driver, harness, "token-one")).provider_id == foreign
        assert [s.provider_id for s in await driver.list_servers(timeout=limit(driver))] == [foreign]
        assert list(await driver.list_foreign_servers(timeout=limit(driver))) == []

    @pytest.mark.anyio
    async def test_nobody_takes_what_carries_another_token(self, driver: CloudDriver, harness: DriverHarness) -> None:
        assert isinstance(driver, ServerAdopter)
        made = await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        with pytest.raises(CloudRejected):
            await driver.adopt_server(made.provider_id, token="token-two", timeout=limit(driver))
        assert (await driver.get_server(made.provider_id, timeout=limit(driver))).token == "token-one"

    @pytest.mark.anyio
    async def test_what_is_gone_cannot_be_adopted(self, driver: CloudDriver) -> None:
        assert isinstance(driver, ServerAdopter)
        with pytest.raises(ServerNotFound):
            await driver.adopt_server("no-such-server", token="token-one", timeout=limit(driver))


class DriverFaultSuite:
    """Besides :class:`DriverSuite`, for drivers that have a fault injector between them and their provider."""

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_after"])
    async def test_a_reply_lost_after_the_effect(self, driver: CloudDriver, harness: DriverHarness, fault: str) -> None:
        injector(harness).inject("create", fault)
        with pytest.raises(CloudUncertain) as caught:
            await create(driver, harness.spec("one"), "token-one", most=silence(harness, fault))
        assert caught.value.retry is Retry.UNCERTAIN
        assert (await appear(driver, harness, "token-one")).token == "token-one"

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["request_lost", "error_before"])
    async def test_a_request_that_had_no_effect_nobody_can_know(
        self, driver: CloudDriver, harness: DriverHarness, fault: str
    ) -> None:
        injector(harness).inject("create", fault)
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one"), "token-one", most=silence(harness, fault))
        await settled(driver, harness)
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is None

    @pytest.mark.anyio
    async def test_a_create_that_arrives_after_its_caller_gave_up(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        injector(harness).inject("create", "late")
        with pytest.raises(CloudUncertain):
            await driver.create_server(harness.spec("one"), token="token-one", timeout=1.0)
        assert (await appear(driver, harness, "token-one")).token == "token-one"

    @pytest.mark.anyio
    async def test_a_create_that_arrives_after_its_caller_was_cancelled(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        injector(harness).inject("create", "late")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(create(driver, harness.spec("one"), "token-one"))
            await harness.sleep(0.01)
            task.cancel()
        within = driver.capabilities.create_timeout + driver.capabilities.settle
        assert (await appear(driver, harness, "token-one", within=within)).token == "token-one"

    @pytest.mark.anyio
    async def test_429_has_no_effect_and_says_when(self, driver: CloudDriver, harness: DriverHarness) -> None:
        injector(harness).inject("create", "rate_limited", retry_after=3.0)
        with pytest.raises(CloudRateLimited) as caught:
            await create(driver, harness.spec("one"), "token-one")
        assert (caught.value.retry, caught.value.retry_after) == (Retry.AFTER, 3.0)
        await settled(driver, harness)
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is None
        await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")

    @pytest.mark.anyio
    async def test_a_refused_connection_had_no_effect(self, driver: CloudDriver, harness: DriverHarness) -> None:
        injector(harness).inject("create", "unreachable")
        with pytest.raises(CloudUnreachable) as caught:
            await create(driver, harness.spec("one"), "token-one")
        assert caught.value.retry is Retry.TRANSIENT
        await settled(driver, harness)
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is None

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_after"])
    async def test_a_delete_whose_reply_is_lost(self, driver: CloudDriver, harness: DriverHarness, fault: str) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        injector(harness).inject("delete", fault)
        with pytest.raises(CloudUncertain):
            await driver.delete_server(made.provider_id, timeout=min(limit(driver), silence(harness, fault)))
        await gone(driver, harness, "token-one")

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["unreachable", "request_lost", "reply_lost", "connection_closed", "error_after"])
    async def test_a_failed_read_is_unreachable_and_not_empty(
        self, driver: CloudDriver, harness: DriverHarness, fault: str
    ) -> None:
        await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        short = min(limit(driver), silence(harness, fault))
        injector(harness).inject("list", fault)
        with pytest.raises(CloudUnreachable):
            await driver.list_servers(timeout=short)
        injector(harness).inject("find", fault)
        with pytest.raises(CloudUnreachable):
            await driver.find_by_token("token-one", timeout=short)
        assert len(await driver.list_servers(timeout=limit(driver))) == 1


class PartsSuite:
    """Besides :class:`DriverSuite`, for drivers some of whose servers need parts."""

    @pytest.mark.anyio
    async def test_the_same_spec_gives_the_same_parts(self, driver: CloudDriver, harness: DriverHarness) -> None:
        verbs, spec = parts_driver(driver), harness.spec_with_parts("one")
        wanted = verbs.parts(spec)
        assert len(wanted) >= 2 and verbs.parts(spec) == wanted
        keys = [part.key for part in wanted]
        assert len(set(keys)) == len(keys)
        assert all(key == key.lower() and len(key) <= 63 and key.replace("-", "").isalnum() for key in keys), keys
        assert not any(part.keep for part in wanted)
        # Plain values, since they are journaled.
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(wanted), type=tuple[PartSpec, ...]) == tuple(wanted)
        # What cannot be read is the create call's to refuse.
        assert list(verbs.parts(msgspec.structs.replace(spec, options={"no_such_key": 1}))) == []

    @pytest.mark.anyio
    async def test_a_server_without_parts_needs_none(self, driver: CloudDriver, harness: DriverHarness) -> None:
        assert list(parts_driver(driver).parts(harness.spec("one"))) == []
        assert await _list_parts(driver) == []

    @pytest.mark.anyio
    async def test_a_part_carries_its_token_and_is_listed_until_it_is_deleted(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        for number, part in enumerate(parts_driver(driver).parts(harness.spec_with_parts("one"))):
            token = f"token-{number}"
            made = await create_part(driver, part, token)
            assert (made.kind, made.token) == (part.kind, token) and made.provider_id
            ready = await part_ready(driver, harness, token)
            assert ready.provider_id == made.provider_id and not ready.failed
            await parts_driver(driver).delete_part(ready, timeout=limit(driver))
            await part_gone(driver, harness, token)
            # Deleting what is gone succeeds.
            await parts_driver(driver).delete_part(ready, timeout=limit(driver))

    @pytest.mark.anyio
    async def test_a_server_is_made_with_its_parts_finished_and_taken_away(
        self, driver: CloudDriver, harness: DriverHarness
    ) -> None:
        verbs, spec = parts_driver(driver), harness.spec_with_parts("one")
        made = []
        for number, part in enumerate(verbs.parts(spec)):
            await create_part(driver, part, f"token-{number}")
            made.append((part, await part_ready(driver, harness, f"token-{number}")))
        spec = msgspec.structs.replace(spec, parts={part.key: there.provider_id for part, there in made})
        server = await create(driver, spec, "token-server")
        await reach(driver, harness, "token-server", ServerState.ACTIVE)
        for _ in range(2):
            finished = await verbs.finish_server(server.provider_id, spec, timeout=limit(driver))
            assert finished.provider_id == server.provider_id and finished.state is ServerState.ACTIVE
        # Its addresses are among the server's own, wherever it is looked at.
        addresses = {there.address for part, there in made if part.kind == "address"}
        assert addresses <= set(finished.addresses)
        shown = await driver.find_by_token("token-server", timeout=limit(driver))
        assert shown is not None and addresses <= set(shown.addresses)
        # The list of servers has servers only, the list of parts only parts.
        assert [s.token for s in await driver.list_servers(timeout=limit(driver))] == ["token-server"]
        assert {p.provider_id for p in await _list_parts(driver)} == {there.provider_id for _, there in made}
        await driver.delete_server(server.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-server")
        for number, (_, there) in reversed(list(enumerate(made))):
            await deleted(driver, harness, there)
            await part_gone(driver, harness, f"token-{number}")

    @pytest.mark.anyio
    async def test_a_part_in_use_is_busy(self, driver: CloudDriver, harness: DriverHarness) -> None:
        verbs, spec = parts_driver(driver), harness.spec_with_parts("one")
        made = []
        for number, part in enumerate(verbs.parts(spec)):
            await create_part(driver, part, f"token-{number}")
            made.append((part, await part_ready(driver, harness, f"token-{number}")))
        spec = msgspec.structs.replace(spec, parts={part.key: there.provider_id for part, there in made})
        server = await create(driver, spec, "token-server")
        await reach(driver, harness, "token-server", ServerState.ACTIVE)
        # Some clouds attach volumes to what runs only.
        await verbs.finish_server(server.provider_id, spec, timeout=limit(driver))
        volumes = [there for part, there in made if part.kind == "volume"]
        assert volumes
        for there in volumes:
            with pytest.raises(CloudBusy):
                await verbs.delete_part(there, timeout=limit(driver))
        listed = {p.provider_id for p in await _list_parts(driver)}
        assert {there.provider_id for there in volumes} <= listed

    @pytest.mark.anyio
    async def test_a_listing_of_parts_that_times_out_is_unreachable(self, driver: CloudDriver) -> None:
        try:
            result = await parts_driver(driver).list_parts(timeout=0.000_001)
        except CloudUnreachable as error:
            assert error.retry is Retry.TRANSIENT
        else:
            assert not result

    @pytest.mark.anyio
    async def test_finishing_a_server_that_is_gone(self, driver: CloudDriver, harness: DriverHarness) -> None:
        server = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        await driver.delete_server(server.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")
        spec = msgspec.structs.replace(harness.spec_with_parts("one"), parts={})
        with pytest.raises(ServerNotFound):
            await parts_driver(driver).finish_server(server.provider_id, spec, timeout=limit(driver))


class PartsFaultSuite:
    """Besides :class:`PartsSuite`, for drivers that have a fault injector: verbs ``part``, ``parts`` and ``unpart``."""

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_after"])
    async def test_a_part_whose_reply_is_lost_is_listed(
        self, driver: CloudDriver, harness: DriverHarness, fault: str
    ) -> None:
        for number, part in enumerate(parts_driver(driver).parts(harness.spec_with_parts("one"))):
            injector(harness).inject("part", fault)
            with pytest.raises(CloudUncertain) as caught:
                await create_part(driver, part, f"token-{number}", most=silence(harness, fault))
            assert caught.value.retry is Retry.UNCERTAIN
            assert (await part_ready(driver, harness, f"token-{number}")).kind == part.kind

    @pytest.mark.anyio
    async def test_a_refused_part_was_not_made(self, driver: CloudDriver, harness: DriverHarness) -> None:
        part = parts_driver(driver).parts(harness.spec_with_parts("one"))[0]
        injector(harness).inject("part", "unreachable")
        with pytest.raises(CloudUnreachable):
            await create_part(driver, part, "token-one")
        injector(harness).inject("part", "rate_limited", retry_after=3.0)
        with pytest.raises(CloudRateLimited):
            await create_part(driver, part, "token-one")
        await settled(driver, harness)
        assert await _list_parts(driver) == []

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["unreachable", "reply_lost", "error_after"])
    async def test_a_failed_listing_of_parts_is_unreachable_and_not_empty(
        self, driver: CloudDriver, harness: DriverHarness, fault: str
    ) -> None:
        part = parts_driver(driver).parts(harness.spec_with_parts("one"))[0]
        await create_part(driver, part, "token-one")
        await part_ready(driver, harness, "token-one")
        injector(harness).inject("parts", fault)
        with pytest.raises(CloudUnreachable):
            await parts_driver(driver).list_parts(timeout=min(limit(driver), silence(harness, fault)))
        assert len(await _list_parts(driver)) == 1

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_after"])
    async def test_a_deleted_part_whose_reply_is_lost_goes(
        self, driver: CloudDriver, harness: DriverHarness, fault: str
    ) -> None:
        part = parts_driver(driver).parts(harness.spec_with_parts("one"))[0]
        await create_part(driver, part, "token-one")
        ready = await part_ready(driver, harness, "token-one")
        injector(harness).inject("unpart", fault)
        with pytest.raises(CloudUncertain):
            await parts_driver(driver).delete_part(ready, timeout=min(limit(driver), silence(harness, fault)))
        await part_gone(driver, harness, "token-one")


# -- what the tests say ------------------------------------------------------------------------------------------------


def limit(driver: CloudDriver) -> float:
    """The deadline of a call other than a create."""
    return driver.capabilities.call_timeout


def silence(harness: DriverHarness, fault: str) -> float:
    """The deadline of a call that gets ``fault``, if it is shorter than the usual one."""
    return harness.silence if fault in SILENT else math.inf


def pause(driver: CloudDriver) -> float:
    """Between two looks; short enough for a quick suite in real time."""
    return min(0.1, driver.capabilities.poll_interval)


def injector(harness: DriverHarness) -> FaultInjector:
    assert harness.injector is not None, "this suite needs a harness with a fault injector"
    return harness.injector


async def create(driver: CloudDriver, spec: ServerSpec, token: str, *, most: float = math.inf) -> CloudServer:
    return await driver.create_server(spec, token=token, timeout=min(driver.capabilities.create_timeout, most))


async def _list(driver: CloudDriver) -> Sequence[CloudServer]:
    return await driver.list_servers(timeout=limit(driver))


async def eventually(
    harness: DriverHarness, within: float, pause: float, condition: Any, what: Callable[[], str]
) -> None:
    """Look again and again, for ``within`` seconds and one look more."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within * harness.patience
    while True:
        last = loop.time() > end
        if await condition():
            return
        assert not last, f"not within {within} s: {what()}"
        await harness.sleep(pause)


async def appear(
    driver: CloudDriver, harness: DriverHarness, token: str, *, within: float | None = None
) -> CloudServer:
    """The server with this token, which a look-up must show within ``settle`` of the create call's deadline."""
    within = driver.capabilities.settle if within is None else within
    found: list[CloudServer] = []

    async def shown() -> bool:
        server = await driver.find_by_token(token, timeout=limit(driver))
        if server is not None:
            found.append(server)
        return server is not None

    await eventually(harness, within, pause(driver), shown, lambda: f"{token} found")
    return found[0]


async def reach(driver: CloudDriver, harness: DriverHarness, token: str, state: ServerState) -> CloudServer:
    """The server with this token, once it is in ``state``; within ``build_timeout``."""
    seen: list[CloudServer | None] = [None]

    async def reached() -> bool:
        seen[0] = await driver.find_by_token(token, timeout=limit(driver))
        return seen[0] is not None and seen[0].state is state

    within = driver.capabilities.build_timeout
    await eventually(harness, within, pause(driver), reached, lambda: f"{token} {state}, last seen: {seen[0]}")
    assert seen[0] is not None
    return seen[0]


async def gone(driver: CloudDriver, harness: DriverHarness, token: str) -> None:
    """No read shows the token any more; deleting may take its time."""

    async def absent() -> bool:
        return await driver.find_by_token(token, timeout=limit(driver)) is None

    within = driver.capabilities.settle + driver.capabilities.build_timeout
    await eventually(harness, within, pause(driver), absent, lambda: f"{token} gone")


async def settled(driver: CloudDriver, harness: DriverHarness) -> None:
    """Let the time pass after which absent means: was not made."""
    await harness.sleep(driver.capabilities.settle)


async def settled_listing(driver: CloudDriver, harness: DriverHarness, many: int) -> None:
    counts: list[int] = []

    async def shown() -> bool:
        counts.append(len(await driver.list_servers(timeout=limit(driver))))
        return counts[-1] == many

    within = driver.capabilities.settle + driver.capabilities.build_timeout
    await eventually(harness, within, pause(driver), shown, lambda: f"{many} listed, but {counts[-1]}")


# -- of parts ----------------------------------------------------------------------------------------------------------


def parts_driver(driver: CloudDriver) -> PartsDriver:
    assert isinstance(driver, PartsDriver), "this suite needs a driver with parts"
    return driver


async def create_part(driver: CloudDriver, part: PartSpec, token: str, *, most: float = math.inf) -> CloudPart:
    timeout = min(driver.capabilities.create_timeout, most)
    return await parts_driver(driver).create_part(part, token=token, timeout=timeout)


async def _list_parts(driver: CloudDriver) -> list[CloudPart]:
    return list(await parts_driver(driver).list_parts(timeout=limit(driver)))


async def part_ready(driver: CloudDriver, harness: DriverHarness, token: str) -> CloudPart:
    """The part with this token, once a listing shows it ready."""
    seen: list[CloudPart] = []

    async def ready() -> bool:
        seen[:] = [part for part in await _list_parts(driver) if part.token == token]
        assert len(seen) <= 1
        return bool(seen) and seen[0].ready

    within = driver.capabilities.settle + driver.capabilities.build_timeout
    await eventually(harness, within, pause(driver), ready, lambda: f"{token} ready, last seen: {seen}")
    return seen[0]


async def part_gone(driver: CloudDriver, harness: DriverHarness, token: str) -> None:
    """No listing shows the part any more."""

    async def absent() -> bool:
        return all(part.token != token for part in await _list_parts(driver))

    within = driver.capabilities.settle + driver.capabilities.build_timeout
    await eventually(harness, within, pause(driver), absent, lambda: f"{token} gone")


async def deleted(driver: CloudDriver, harness: DriverHarness, part: CloudPart) -> None:
    """Delete a part as soon as the cloud lets it go."""

    async def accepted() -> bool:
        try:
            await parts_driver(driver).delete_part(part, timeout=limit(driver))
        except CloudBusy:
            return False
        return True

    within = driver.capabilities.settle + driver.capabilities.build_timeout
    await eventually(harness, within, pause(driver), accepted, lambda: f"{part.provider_id} deleted")
