"""All mistakes in a section's keys at once, in words that a person understands."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from pelagos.clouds.keys import check_keys


class Size(enum.StrEnum):
    SMALL = "small"
    LARGE = "large"


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gigabytes: int


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    flavor_id: str
    image: str = msgspec.field(name="image_id")
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    weight: float | None = None
    public: bool = False
    size: Size = Size.SMALL
    zone: Literal["a", "b"] = "a"
    disks: tuple[Disk, ...] = ()
    low: int = 0
    high: int = 10

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


FINE: dict[str, Any] = {"flavor_id": "f", "image_id": "i"}


def test_good_keys_come_back_as_plain_values_without_defaults() -> None:
    given = {**FINE, "size": "large", "disks": [{"gigabytes": 5}], "weight": 2}
    options, problems = check_keys(Resource, given)
    assert problems == []
    assert options == {**FINE, "size": "large", "disks": [{"gigabytes": 5}], "weight": 2.0}
    assert msgspec.convert(options, Resource).size is Size.LARGE


def test_text_that_reads_as_a_number_or_truth_value_passes_for_one() -> None:
    options, problems = check_keys(Resource, {**FINE, "count": "3", "weight": "1.5", "public": "true"})
    assert (options, problems) == ({**FINE, "count": 3, "weight": 1.5, "public": True}, [])


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    _, problems = check_keys(
        Resource,
        {"flavr_id": "f", "count": "many", "weight": [], "zone": "c", "size": "huge", "disks": [{"gigabytes": "x"}]},
    )
    assert problems == [
        ("flavr_id", "is not known; did you mean 'flavor_id'?"),
        ("count", "must be a whole number, not text ('many')"),
        ("weight", "must be a number, not a list ([])"),
        ("zone", "must be one of a, b, not 'c'"),
        ("size", "must be one of small, large, not 'huge'"),
        ("disks", "must be a whole number, not text, at [0].gigabytes"),
        ("flavor_id", "is missing"),
        ("image_id", "is missing"),
    ]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"count": 0}, ("count", "is wrong: expected `int` >= 1")),
        ({"colour": "red"}, ("colour", "is not known; known are: count, disks, flavor_id, high, image_id, low, "
                                       "public, size, weight, zone")),
        ({"flavor_id": None}, ("flavor_id", "must be text, not nothing")),
        ({"low": 5, "high": 1}, (None, "is wrong: low is above high")),
    ],
)  # fmt: skip
def test_single_mistakes(keys: dict[str, Any], problem: tuple[str | None, str]) -> None:
    assert check_keys(Resource, {**FINE, **keys})[1] == [problem]


def test_templates_are_passed_through_and_only_their_presence_counts() -> None:
    given = {"flavor_id": "{{variables.flavor}}", "image_id": "i", "count": "{{variables.count}}", "colour": "{{x}}"}
    options, problems = check_keys(Resource, given, unrendered={"flavor_id", "count", "colour"})
    assert options["count"] == "{{variables.count}}"
    assert [key for key, _ in problems] == ["colour"]
