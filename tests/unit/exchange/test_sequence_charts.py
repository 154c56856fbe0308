"""Charts against golden files. After a change that is meant: PELAGOS_WRITE_GOLDEN=1 pytest on this file, and read
the difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from pelagos.exchange import Performative, Status
from pelagos.exchange.charts import mermaid, svg
from pelagos.exchange.observing import Direction, Observation
from pelagos.exchange.sequences import Sequence, arrange

GOLDEN = Path(__file__).parent / "charts"
EDGE, SHOP, STORE = "process:c-1.1", "process:c-1.2", "process:c-2.4"


def seen(
    seq: int, at: float, sender: str, receiver: str, op: str, performative: Performative, conversation: str, **more: Any
) -> Observation:
    values: dict[str, Any] = {"direction": Direction.SENT, "container": "c-1", "conv_seq": 1, "bytes": 12, **more}
    return Observation(
        seq=seq,
        at=1_700_000_000 + at,
        sender=sender,
        receiver=receiver,
        op=op,
        performative=performative,
        conv_id=conversation,
        **values,
    )


def story() -> list[Observation]:
    answer: dict[str, Any] = {"conv_seq": 2}
    return [
        seen(1, 0.0, EDGE, "service:demo.shop", "buy", Performative.REQUEST, "c-1.1#1", sender_name="edge"),
        seen(2, 0.004, SHOP, "service:demo.store", "take", Performative.REQUEST, "c-1.2#1", sender_name="shop"),
        seen(
            1,
            0.0035,  # this host's clock is behind
            STORE,
            SHOP,
            "result",
            Performative.FAILURE,
            "c-1.2#1",
            container="c-2",
            status=Status.ERROR,
            error="not_found",
            answers="service:demo.store",
            answers_op="take",
            took=1.25,
            **answer,
        ),
        seen(
            3,
            0.012,
            SHOP,
            "topic:demo.event.sold_out",
            "event",
            Performative.INFORM,
            "c-1.2#2",
            sender_name="shop",
        ),
        seen(
            4,
            0.020,
            SHOP,
            EDGE,
            "result",
            Performative.REFUSE,
            "c-1.1#1",
            status=Status.ERROR,
            error="refused",
            answers="service:demo.shop",
            answers_op="buy",
            took=20.0,
            **answer,
        ),
        seen(5, 0.1, EDGE, "service:demo.gone", "buy", Performative.REQUEST, "c-1.1#2", sender_name="edge"),
        seen(
            6,
            0.101,
            EDGE,
            "service:demo.gone",
            "buy",
            Performative.REQUEST,
            "c-1.1#2",
            direction=Direction.FAILED,
            status=Status.ERROR,
            error="unavailable",
        ),
        seen(7, 0.2, SHOP, SHOP, "tick", Performative.REQUEST, "c-1.2#3", sender_name="shop"),
    ]


def hostile() -> list[Observation]:
    name = 'end;\n</text><script>alert(1)</script>&"#'
    return [
        seen(1, 0.0, EDGE, f"service:demo.{name}", name, Performative.REQUEST, f"{name}1", sender_name=name),
        seen(2, 0.1, "process:\ud800\x00", EDGE, "result", Performative.FAILURE, f"{name}1", error=name),
    ]


def noted() -> Sequence:
    return msgspec.structs.replace(arrange(story()[:1], "demo"), notes=("c-1.1#1: inform_result <after> the end",))


CASES = {
    "story": lambda: arrange(story(), "demo"),
    "hostile": lambda: arrange(hostile(), "demo"),
    "noted": noted,
    "nothing": lambda: Sequence((), ()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("draw", "suffix"), [(mermaid, "mmd"), (svg, "svg")])
def test_the_chart_is_the_golden_one(name: str, draw: Any, suffix: str) -> None:
    golden = GOLDEN / f"{name}.{suffix}"
    drawn = draw(CASES[name](), title="" if name == "nothing" else f"demo: {name}")
    if os.environ.get("PELAGOS_WRITE_GOLDEN"):
        golden.write_text(drawn, encoding="utf-8")
    assert drawn == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_svg_is_well_formed_and_shows_each_row(name: str) -> None:
    sequence = CASES[name]()
    root = ElementTree.fromstring(svg(sequence, title="t"))
    arrows = [path for path in root.findall("{http://www.w3.org/2000/svg}path") if path.get("marker-end")]
    assert len(arrows) == len(sequence.rows)
    assert not root.findall(".//{http://www.w3.org/2000/svg}script")


def test_no_answer_stands_before_its_request() -> None:
    rows = arrange(story(), "demo").rows
    assert [(row.op, row.performative) for row in rows] == [
        ("buy", "request"),
        ("take", "request"),
        ("take", "failure"),
        ("event", "inform"),
        ("buy", "refuse"),
        ("buy", "request"),
        ("tick", "request"),
    ]


def test_a_message_that_could_not_be_delivered_is_one_row() -> None:
    failed = arrange(story(), "demo").rows[5]
    assert (failed.error, failed.status, failed.delivered) == ("unavailable", Status.ERROR, False)


def test_participants_of_one_name_are_told_apart() -> None:
    two = [
        seen(1, 0.0, SHOP, EDGE, "a", Performative.INFORM, "x", sender_name="worker"),
        seen(2, 0.1, STORE, EDGE, "a", Performative.INFORM, "y", sender_name="worker"),
    ]
    assert [one.label for one in arrange(two, "demo").participants] == ["worker (c-1.2)", "c-1.1", "worker (c-2.4)"]


def test_an_observation_that_came_twice_counts_once() -> None:
    assert arrange(story() * 2, "demo") == arrange(story(), "demo")
