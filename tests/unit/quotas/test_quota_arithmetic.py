"""The store's holdings against the pure model, under any interleaving of reserve, commit, cancel and limits."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, func, select

from pelagos import quotas
from pelagos.model.errors import QuotaExceeded
from pelagos.quotas import Holding
from pelagos.store.schema import metadata, quota_reservations

steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(-4, 6)),
        st.tuples(st.just("force"), st.integers(1, 6)),
        st.tuples(st.just("commit"), st.integers(0, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("limit"), st.one_of(st.none(), st.integers(0, 12))),
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = create_engine(f"sqlite:///{Path(tmp_path_factory.mktemp('quotas')) / 'q.db'}")
    metadata.create_all(made)
    yield made
    made.dispose()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_holdings_follow_the_model_and_never_over_grant(engine, script):
    with engine.connect() as connection:
        model = Holding()
        asked: list[int] = []
        state: list[str] = []
        for verb, value in script:
            if verb in ("reserve", "force"):
                operation = f"op-{len(asked)}"
                fits = model.fits(value) or verb == "force"
                call = partial(quotas.reserve, connection, "p", operation, {"servers": value}, force=verb == "force")
                if fits:
                    call()
                    model = model.reserve(value)
                    asked.append(value)
                    state.append("reserved")
                    if verb == "reserve" and value > 0:
                        assert not model.over
                else:
                    with pytest.raises(QuotaExceeded) as refused:
                        call()
                    assert refused.value.details == {
                        "resource": "servers",
                        "limit": model.limit,
                        "used": model.used,
                        "reserved": model.reserved,
                        "asked": value,
                    }
            elif verb == "limit":
                quotas.set_limit(connection, "p", "servers", value)
                model = Holding(quotas.UNLIMITED if value is None else value, model.used, model.reserved)
            else:
                getattr(quotas, verb)(connection, f"op-{value}")
                if value < len(asked) and state[value] == "reserved":
                    model = getattr(model, verb)(asked[value])
                    state[value] = verb
            assert quotas.holdings(connection, "p").get("servers", Holding(model.limit)) == model
        reserved = connection.execute(
            select(func.coalesce(func.sum(quota_reservations.c.amount), 0)).where(
                quota_reservations.c.state == "reserved", quota_reservations.c.amount > 0
            )
        ).scalar_one()
        assert reserved == model.reserved
        connection.rollback()


def test_a_batch_is_granted_whole_or_not_at_all(engine):
    with engine.connect() as connection:
        quotas.set_limit(connection, "p", "cores", 10)
        with pytest.raises(QuotaExceeded):
            quotas.reserve_many(connection, "p", {f"o{i}": {"servers": 1, "cores": 4} for i in range(3)})
        quotas.reserve_many(connection, "p", {f"o{i}": {"servers": 1, "cores": 4} for i in range(2)})
        assert quotas.holdings(connection, "p")["cores"] == Holding(10, 0, 8)
        quotas.commit_many(connection, ["o0", "o1", "o1", "unknown"])
        quotas.release(connection, "p", {"servers": 1, "cores": 4})
        assert quotas.holdings(connection, "p")["cores"] == Holding(10, 4, 0)
        assert quotas.holdings(connection, "p")["servers"].used == 1
        assert quotas.holdings(connection, "other") == {}
        connection.rollback()


def test_what_was_adopted_may_exceed_and_then_nothing_more_is_granted(engine):
    with engine.connect() as connection:
        quotas.set_limit(connection, "p", "servers", 1)
        quotas.reserve(connection, "p", "a", {"servers": 3}, force=True)
        quotas.commit(connection, "a")
        assert quotas.holdings(connection, "p")["servers"].over
        with pytest.raises(QuotaExceeded):
            quotas.reserve(connection, "p", "b", {"servers": 1})
        connection.rollback()
