from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.exchange import Address, Kind, Names, NameScope, kind_of, topic_matches
from pelagos.model.errors import InvalidInput

NAMES = Names(container="c1", system="demo")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("service:compute", "service:demo.compute"),
        ("service@local:compute", "service:c1.compute"),
        ("service@global:compute", "service:compute"),
        ("process:c7.3", "process:c7.3"),
        ("fanout:announce", "fanout:demo.announce"),
        ("topic:events.#", "topic:demo.events.#"),
    ],
)
def test_scopes_make_full_names(text: str, full: str) -> None:
    assert NAMES.full(text) == full
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["compute", "queue:compute", "service:", "service@moon:compute", ":x", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput, match="not an address"):
        Address.parse(text)


def test_kinds() -> None:
    assert kind_of("topic:demo.a.b") is Kind.TOPIC
    assert Address(Kind.SERVICE, "x", NameScope.LOCAL) == Address.parse("service@local:x")


def _by_definition(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    head, *rest = pattern
    if head == "#":
        return any(_by_definition(rest, name[n:]) for n in range(len(name) + 1))
    return bool(name) and head in ("*", name[0]) and _by_definition(rest, name[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6),
)
def test_topics_match_as_amqp_defines(pattern: list[str], name: list[str]) -> None:
    assert topic_matches(".".join(pattern), ".".join(name)) is _by_definition(pattern, name)


def test_many_hashes_take_no_exponential_time() -> None:
    assert not topic_matches(".".join(["#", "a"] * 40), ".".join(["a"] * 200 + ["b"]))
