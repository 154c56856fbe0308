"""How an account is, by what its calls came to."""

from __future__ import annotations

import pytest

from pelagos.clouds import CloudAuthFailed, CloudCapacity, CloudError, CloudRejected, CloudUnreachable, ServerNotFound
from pelagos.model.errors import InvalidInput, Unsupported
from pelagos.operations.health import AccountHealth, AccountState
from pelagos.simulation import SimulatedWorld
from support.operations_world import ACCOUNT

pytestmark = pytest.mark.anyio

ONE_REQUEST = (CloudRejected, CloudCapacity, ServerNotFound, Unsupported)


@pytest.fixture
async def health() -> AccountHealth:
    return AccountHealth(SimulatedWorld())


@pytest.mark.parametrize("error", ONE_REQUEST)
async def test_what_is_refused_by_itself_is_an_answer(health, error):
    health.failed(error("no"))
    assert health.state is AccountState.OK and health.answered_at is not None


@pytest.mark.parametrize("error", [*ONE_REQUEST, CloudError, InvalidInput])
async def test_who_refuses_to_list_is_no_such_cloud_until_a_call_succeeds(health, error):
    health.failed(error("HTTP 404"), of_account=True)
    assert health.state is AccountState.FAILING
    assert health.snapshot()["error"] == "HTTP 404" and health.answered_at is None
    health.failed(CloudRejected("bad image"))
    health.failed(ServerNotFound("no such server"))
    assert health.state is AccountState.FAILING, "to be refused is not to succeed"
    health.answered(0.1)
    assert health.state is AccountState.OK


async def test_an_error_that_fits_nothing_is_told(health):
    health.failed(CloudError("the answer could not be understood"))
    assert health.state is AccountState.FAILING


@pytest.mark.parametrize(
    ("error", "state"),
    [(CloudUnreachable, AccountState.UNREACHABLE), (CloudAuthFailed, AccountState.REFUSED)],
)
async def test_the_account_itself_has_its_own_states(health, error, state):
    for of_account in (False, True):
        health.failed(error("no"), of_account=of_account)
        assert health.state is state


@pytest.mark.parametrize("error", [InvalidInput, Unsupported, CloudError])
async def test_what_cannot_be_opened_is_broken(health, error):
    health.not_opened(error("no"))
    assert health.state is AccountState.BROKEN and health.answered_at is None


async def test_a_listing_that_is_refused_shows_in_the_workers_health(make_universe, monkeypatch):
    from pelagos.clouds.simulated import SimulatedDriver

    universe = await make_universe()
    one = await universe.incarnate()

    async def refused(driver, *, timeout):
        raise ServerNotFound("list servers: File not found (HTTP 404)")

    monkeypatch.setattr(SimulatedDriver, "list_servers", refused)
    found = await one.engine.refresh([ACCOUNT])
    assert found.errors
    assert one.engine.workers()[ACCOUNT].health.state is AccountState.FAILING
    monkeypatch.undo()
    await one.engine.check(ACCOUNT)
    assert one.engine.workers()[ACCOUNT].health.state is AccountState.OK
