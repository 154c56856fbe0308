"""Failpoints: one is armed by its name, and reached so many times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pelagos.model import failpoints
from pelagos.model.errors import InvalidInput
from pelagos.model.failpoints import Step, arm, armed, names, through


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm({})


async def work() -> int:
    return 7


async def broken() -> None:
    raise ValueError("broken")


def test_each_step_has_two() -> None:
    assert len(names()) == 2 * len(Step) == len(set(names()))
    assert "cloud.create.after" in names()


@pytest.mark.anyio
async def test_unarmed_a_step_is_its_work() -> None:
    arm({})
    assert armed() is None
    assert await through(Step.CLAIM, work()) == 7


@pytest.mark.anyio
async def test_it_dies_at_the_place_that_is_named_and_at_that_time() -> None:
    deaths: list[str] = []
    arm({failpoints.VARIABLE: "operations.claim.after:2"}, lambda: deaths.append("dead"))
    assert armed() == "operations.claim.after:2"
    assert await through(Step.CLAIM, work()) == 7
    assert await through(Step.SETTLE, work()) == 7
    assert deaths == []
    assert await through(Step.CLAIM, work()) == 7
    assert await through(Step.CLAIM, work()) == 7
    assert deaths == ["dead"]


@pytest.mark.anyio
async def test_after_is_reached_by_what_fails_too() -> None:
    deaths: list[str] = []
    arm({failpoints.VARIABLE: "cloud.create.after"}, lambda: deaths.append("dead"))
    with pytest.raises(ValueError, match="broken"):
        await through(Step.CREATE, broken())
    assert deaths == ["dead"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("cloud.creat.after", "there is no failpoint"),
        ("cloud.create", "there is no failpoint"),
        ("cloud.create.after:0", "no number of times"),
        ("cloud.create.after:x", "no number of times"),
    ],
)
def test_a_mistake_is_refused(value: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        arm({failpoints.VARIABLE: value})
    assert caught.value.advice
