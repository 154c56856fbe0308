"""Ages, tables, sentences; the fold of events; the live picture."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pelagos.cli.invocation import Invocation
from pelagos.cli.live import LiveProgress
from pelagos.cli.texts import age, clean, count, duration, join, table
from pelagos.cli.trail import Trail
from pelagos.cli.wording import sentence, subject
from pelagos.model.states import InfrastructureState, InstanceState
from support.fake_client import (
    BUILD_EVENTS,
    BUILD_PLAN,
    DESTROY_PLAN,
    STORE_1,
    WEB_1,
    WEB_2,
    FixedWorld,
    event,
    instance,
    shop,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86399, "23h"), (200_000, "2d")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3780, "1 h 3 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_words() -> None:
    assert [join([]), join(["a"]), join(["a", "b"]), join(["a", "b", "c"], "or")] == ["", "a", "a and b", "a, b or c"]
    assert [count(1, "node"), count(2, "node"), count(0, "entry", "entries")] == ["1 node", "2 nodes", "0 entries"]


@given(st.text())
def test_clean_text_is_one_line_that_cannot_steer_a_terminal(text: str) -> None:
    assert not any((ord(c) < 32 and c != "\t") or 127 <= ord(c) < 160 for c in clean(text))


def test_columns_align_in_spite_of_colours_and_empty_ones_are_left_out() -> None:
    text = table(["A", "NOTE", "B"], [["\x1b[32mxx\x1b[0m", "", "1"], ["yyyy", "", ""]])
    assert text == "A     B\n\x1b[32mxx\x1b[0m    1\nyyyy  -"


class TestWording:
    def test_every_kind_reads_as_a_sentence(self) -> None:
        assert sentence(event(1, "run.waiting", holder="up", pid=7, host="h", purpose="up of shop")) == (
            "waits for up of shop (process 7 on h)"
        )
        assert sentence(event(1, "run.failed", error={"code": "unavailable", "message": "away"})) == "run failed: away"
        assert sentence(event(1, "instance.checking", of=WEB_1, what=["ports", "urls"])) == "checking: ports and urls"
        assert sentence(event(1, "instance.failed", of=WEB_1, reason="late", error=None)) == "failed: late"
        refused = {"cloud": "east", "implementation": 0, "error": {"code": "cloud_capacity", "message": "no room"}}
        assert sentence(event(1, "node.refused", "web", **refused)) == "cannot be made on east: no room"
        untrue = "no longer true: getip('db') was 10.0.0.2, is 10.0.0.4"
        assert (
            sentence(event(1, "instance.outdated", of=WEB_1, reason=untrue)) == f"not as described any more: {untrue}"
        )
        again = "what it was told of others is true again"
        assert sentence(event(1, "instance.outdated", of=WEB_1, reason="")) == again
        assert subject(event(1, "instance.ready", "web", WEB_1)) == "web/aaaaaaaa"
        assert subject(event(1, "node.waiting", "web")) == "web"
        assert subject(event(1, "run.started")) == ""

    def test_data_of_any_shape_is_shown_and_never_fails(self) -> None:
        for kind in ("run.waiting", "node.waiting", "instance.ready", "instance.failed", "infrastructure.state", "new"):
            for data in ({}, {"on": "x", "seconds": "soon", "error": 5, "state": None, "reason": ["a"]}):
                assert sentence(event(1, kind, **data)) is not None


class TestTrail:
    def test_a_build(self) -> None:
        trail = Trail(BUILD_PLAN)
        states = []
        for one in BUILD_EVENTS:
            trail.feed(one)
            states.append((trail.nodes["store"].state, trail.nodes["web"].state, trail.nodes["web"].ready))
        assert states == [
            ("pending", "pending", 0),
            ("pending", "waiting", 0),
            ("building", "waiting", 0),
            ("ready", "waiting", 0),
            ("ready", "building", 0),
            ("ready", "building", 0),
            ("ready", "building", 1),
            ("ready", "ready", 2),
            ("ready", "ready", 2),
        ]
        assert (trail.created, trail.destroyed, trail.position) == (3, 0, 19)

    def test_what_is_known_already_is_taken_once(self) -> None:
        trail = Trail(BUILD_PLAN)
        assert [trail.feed(one) for one in (*BUILD_EVENTS, *BUILD_EVENTS)] == [True] * 9 + [False] * 9
        assert trail.created == 3

    def test_a_node_that_shrinks(self) -> None:
        trail = Trail(DESTROY_PLAN)
        web = trail.nodes["web"]
        assert (web.target, web.ready, web.state) == (1, 1, "ready")
        trail.feed(event(11, "instance.destroying", "web", WEB_2))
        assert web.state == "destroying"
        trail.feed(event(12, "instance.destroyed", "web", WEB_2))
        assert (web.state, trail.destroyed) == ("ready", 1)

    def test_a_replacement_of_one_that_was_there(self) -> None:
        trail = Trail()
        trail.adopt(shop())
        web = trail.nodes["web"]
        assert (web.target, web.ready) == (2, 2)
        trail.feed(event(11, "instance.failed", "web", WEB_1, reason="dead"))
        assert (web.state, web.ready) == ("failed", 1)
        assert trail.failed == ["web/aaaaaaaa: failed: dead"]
        trail.feed(event(12, "instance.destroyed", "web", WEB_1))
        trail.feed(event(13, "instance.building", "web", "eeeeeeee"))
        trail.feed(event(14, "instance.ready", "web", "eeeeeeee"))
        assert (web.state, web.ready, trail.created, trail.destroyed) == ("ready", 2, 1, 1)

    def test_what_a_cloud_refused_was_neither_made_nor_destroyed(self) -> None:
        trail = Trail(BUILD_PLAN)
        for position, (kind, of, data) in enumerate(
            [
                ("pending", WEB_1, {}),
                ("pending", WEB_2, {}),
                ("failed", WEB_1, {"reason": "full", "made": False}),
                ("failed", WEB_2, {"reason": "in error"}),
                ("destroyed", WEB_1, {}),
                ("destroyed", WEB_2, {}),
                ("pending", "eeeeeeee", {}),
                ("ready", "eeeeeeee", {}),
            ],
            1,
        ):
            trail.feed(event(position, f"instance.{kind}", "web", of, **data))
        assert (trail.created, trail.destroyed) == (2, 1)

    def test_without_any_waiting_told_the_address_is_of_the_node_that_was_ready_last(self) -> None:
        trail = Trail()
        for one in BUILD_EVENTS:
            if one.kind != "node.waiting":
                trail.feed(one)
        assert trail.urls() == ["http://127.83.0.2:8080/", "http://127.83.0.3:8080/"]

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["pending", "building", "checking", "ready", "failed", "destroying", "destroyed", "odd"]
                ),
                st.sampled_from(["store", "web"]),
                st.sampled_from([WEB_1, WEB_2, STORE_1]),
            )
        )
    )
    def test_any_order_of_events_gives_a_sensible_picture(self, steps: list[tuple[str, str, str]]) -> None:
        trail = Trail(BUILD_PLAN)
        for position, (kind, node, of) in enumerate(steps, 1):
            trail.feed(event(position, f"instance.{kind}", node, of))
        for node in trail.nodes.values():
            assert 0 <= node.ready <= max(node.target, len(node.instances))
            assert node.state


class TestLive:
    def _display(self, trail: Trail, height: int = 20) -> tuple[LiveProgress, io.StringIO]:
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=90, height=height, color_system=None)
        return LiveProgress(Invocation(world=FixedWorld()), trail, console=console), stream

    def test_a_line_a_node(self) -> None:
        display, stream = self._display(Trail(BUILD_PLAN))
        display.open()
        for one in BUILD_EVENTS:
            display.event(one)
            display.tick()
        display.message("a word of the command")
        display.close()
        display.close()
        last = stream.getvalue().split("✓ store")[-1]
        assert "1/1" in last
        assert "✓ web" in last
        assert "2/2 ready" in last
        assert "of about 12 s" in last
        assert "a word of the command" in stream.getvalue()

    def test_more_nodes_than_lines_are_counted_the_busy_ones_shown(self) -> None:
        trail = Trail()
        for number in range(50):
            trail.node(f"n{number}").target = 1
            trail.feed(event(number + 1, "instance.ready", f"n{number}", f"i{number}"))
        trail.feed(event(60, "instance.failed", "n42", "i42", reason="broken"))
        display, stream = self._display(trail, height=10)
        display._console.print(display.draw())
        text = stream.getvalue()
        assert "n42" in text
        assert "broken" in text
        assert "… and 45 more nodes; 49 of 50 done" in text
        assert len(text.splitlines()) <= 10


def test_an_instance_without_state_to_count_shows_as_missing() -> None:
    from pelagos.cli.views import status_line

    view = shop(InfrastructureState.DEGRADED, {"web": {WEB_1: instance(), WEB_2: instance(InstanceState.UNCERTAIN)}})
    assert "1 of 2 instances ready" in status_line(view)


def test_the_address_offered_after_a_healing_is_still_the_outermost_nodes() -> None:
    trail = Trail()
    ready = [("store", "s1"), ("web", "w1"), ("lb", "l1"), ("web", "w2")]
    for position, (node, of) in enumerate(ready, 1):
        trail.feed(event(position, "instance.ready", node, of, urls=[f"http://{of}/"]))
    trail.feed(event(9, "instance.destroyed", "web", "w1"))
    assert trail.urls() == ["http://l1/"]
