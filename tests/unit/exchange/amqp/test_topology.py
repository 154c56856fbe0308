"""Which exchange, key and queue an address has."""

from __future__ import annotations

import pytest

pytest.importorskip("aio_pika", reason="aio-pika is not installed")

from pelagos.exchange.amqp.topology import Binding, Topology
from pelagos.model.errors import InvalidInput

TOPOLOGY = Topology("demo.site", "c-1", 100)


@pytest.mark.parametrize(
    ("address", "exchange", "key", "mandatory"),
    [
        ("process:c-1.7", "demo.site.calls", "process.c-1", True),
        ("process:host.example.7", "demo.site.calls", "process.host.example", True),
        ("process:alone", "demo.site.calls", "process.alone", True),
        ("service:demo.site.store", "demo.site.calls", "service.demo.site.store", True),
        ("fanout:demo.site.news", "demo.site.calls", "fanout.demo.site.news", False),
        ("topic:demo.site.server.created", "demo.site.events", "demo.site.server.created", False),
        ("topic:demo.site.stream.sea", "demo.site.streams", "demo.site.stream.sea", False),
        ("topic:demo.site.streams.sea", "demo.site.events", "demo.site.streams.sea", False),
    ],
)
def test_where_a_message_goes(address: str, exchange: str, key: str, mandatory: bool) -> None:
    route = TOPOLOGY.route(address)
    assert (route.exchange, route.key, route.mandatory) == (exchange, key, mandatory)


@pytest.mark.parametrize(
    ("pattern", "exchanges"),
    [
        ("demo.site.server.*", {"events"}),
        ("demo.site.stream.sea.*", {"streams"}),
        ("demo.site.#", {"events", "streams"}),
        ("demo.site.*.created", {"events", "streams"}),
        ("#", {"events", "streams"}),
        ("*.site.stream.x", {"events", "streams"}),
        ("demo.*", {"events"}),
        ("other.#", {"events"}),
    ],
)
def test_a_pattern_is_bound_wherever_it_may_match(pattern: str, exchanges: set[str]) -> None:
    bindings = TOPOLOGY.bindings(f"topic:{pattern}")
    assert set(bindings) == {Binding(f"demo.site.{exchange}", pattern) for exchange in exchanges}


def test_addresses_that_are_none_or_too_long() -> None:
    for address in ("", "nonsense", "service:", "service:" + "x" * 250):
        with pytest.raises(InvalidInput):
            TOPOLOGY.route(address)


def test_a_durable_queue_is_handed_out_as_often_as_said() -> None:
    arguments = TOPOLOGY.work_arguments(10, 3)
    assert (arguments["x-delivery-limit"], arguments["x-dead-letter-routing-key"]) == (2, "failed.3")
