"""``pelagos services`` stays within the terminal, whatever a service can do."""

from __future__ import annotations

import pytest

from pelagos.cli.tables import services
from pelagos.container.messages import ServiceInfo
from support.container_scene import Scene


@pytest.fixture
def pelagos(capsys: pytest.CaptureFixture[str]) -> Scene:
    return Scene(capsys)


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_a_row_a_service_within_the_terminal(pelagos: Scene, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = pelagos("services").out.splitlines()
    [agent] = [line for line in lines if line.startswith("agent ")]
    assert max(map(len, lines)) <= width
    shown, _, left = agent.partition(" and ")
    operations = next(one["operations"] for one in pelagos("services", "-o", "json").json if one["name"] == "agent")
    own = len(operations) - 2  # ping and describe have all
    assert shown.count(",") + 1 + int(left.removesuffix(" more")) == own
    [hello] = [line for line in lines if line.startswith("hello ")]
    assert hello.endswith("buy, hello, lose and 2 more" if width == 72 else "buy, hello, lose, nothing, wait")


def test_what_fits_is_shown_whole_and_no_word_is_cut() -> None:
    one = ServiceInfo("hello", "1.0", ("c-1.5",), ("c-1",), ("ping", "an_operation_with_a_name_of_some_length", "b"))
    assert services([one], 120).splitlines()[1].endswith("an_operation_with_a_name_of_some_length, b")
    assert services([one], 40).splitlines()[1].endswith("an_operation_with_a_name_of_some_length and 1 more")
    assert services([], 40) == "SERVICE  VERSION  PROCESSES  CONTAINERS  OPERATIONS"
