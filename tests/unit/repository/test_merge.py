"""The three-way merge: examples, and the law that no change of either side is lost in silence."""

from typing import ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.model.errors import InvalidInput
from pelagos.repository import (
    MISSING,
    BothAdded,
    BothChanged,
    ChangedAndRemoved,
    Choice,
    Link,
    Reordered,
    Use,
    compare,
    merge_values,
)
from pelagos.repository.merge import as_resolver, virtual_base
from pelagos.repository.values import same
from support.repository_types import TYPES, Label, Part, Rack, Site

link = TYPES.link


def load(reference):
    raise AssertionError("all links here have their targets")


def merge(base, ours, theirs, **choices):
    resolver = as_resolver(choices["choose"]) if "choose" in choices else None
    return merge_values(base, ours, theirs, load=load, link=link, resolver=resolver)


def test_fields_keys_identities_and_links_are_merged_one_by_one():
    base = Site(
        "a",
        racks={"x": link(Rack("x", (link(Part("p")),)))},
        labels=(Label("k", "1"), Label("l")),
        first=link(Part("f")),
    )
    ours = Site(
        "b", racks=base.racks, labels=(Label("k", "1"), Label("l", "2"), Label("m")), first=link(Part("f", 2.0))
    )
    theirs = Site(
        "a",
        size=3,
        racks={**base.racks, "y": link(Rack("y"))},
        labels=(Label("new"), Label("k", "1", weight=5), Label("l")),
        first=link(Part("f", note="n")),
    )
    merged = merge(base, ours, theirs)
    assert merged.conflicts == ()
    assert merged.value == Site(
        "b",
        size=3,
        racks={**base.racks, "y": link(Rack("y"))},
        labels=(Label("new"), Label("k", "1", weight=5), Label("l", "2"), Label("m")),
        first=link(Part("f", 2.0, "n")),
    )


def test_conflicts_are_typed_and_say_where():
    base = Site("a", racks={"x": link(Rack("x"))}, labels=(Label("k", "1"),), tags=("t",))
    ours = Site("b", racks={"z": link(Rack("one"))}, labels=(Label("k", "2"),), tags=("t", "u"))
    theirs = Site("c", racks={"x": link(Rack("xx")), "z": link(Rack("two"))}, labels=(), tags=("v",))
    merged = merge(base, ours, theirs)
    assert merged.conflicts == (
        BothChanged("name", "a", "b", "c"),
        ChangedAndRemoved('racks["x"]', link(Rack("x")), MISSING, link(Rack("xx"))),
        BothAdded('racks["z"]', link(Rack("one")), link(Rack("two"))),
        ChangedAndRemoved('labels[key="k"]', Label("k", "1"), Label("k", "2"), MISSING),
        BothChanged("tags", ("t",), ("t", "u"), ("v",)),
    )
    choose = {"name": "theirs", 'racks["x"]': Choice.OURS, 'racks["z"]': "base", "*": "theirs", "tags": Use(("w",))}
    decided = merge(base, ours, theirs, choose=choose)
    assert decided.conflicts == () and decided.resolved == merged.conflicts
    assert decided.value == Site("c", tags=("w",))
    with pytest.raises(InvalidInput):
        merge(base, ours, theirs, choose={"name": "newest"})


def test_the_order_of_identities_is_a_change_too():
    a, b, c = Label("a"), Label("b"), Label("c")
    base = Site("s", labels=(a, b, c))
    turned, edited = Site("s", labels=(c, b, a)), Site("s", labels=(a, Label("b", "2"), c))
    assert merge(base, turned, edited).value.labels == (c, Label("b", "2"), a)
    assert merge(base, edited, turned).value.labels == (c, Label("b", "2"), a)
    other = Site("s", labels=(b, a, c))
    conflict = BothChanged("labels[order]", ("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c"))
    assert merge(base, turned, other).conflicts == (conflict,)
    assert merge(base, turned, other, choose={"labels[order]": "theirs"}).value.labels == (b, a, c)
    with pytest.raises(InvalidInput):
        merge(base, turned, other, choose={"labels[order]": Use(("a",))})


def test_values_of_another_kind_are_a_change():
    assert merge({"a": 1}, {"a": True}, {"a": 1.0}).conflicts == (BothChanged('["a"]', 1, True, 1.0),)


def test_histories_without_a_common_base_conflict_as_a_whole():
    assert merge(MISSING, Site("a"), Site("b")).conflicts == (BothAdded("", Site("a"), Site("b")),)
    assert merge(MISSING, Site("a"), Site("a")).conflicts == ()


def test_an_undecided_base_asks_again_only_where_the_older_merges_differ():
    base = link(Site("a", size=1, first=link(Part("p"))))
    one, two = link(Site("one", size=1, first=link(Part("p", 2)))), link(Site("two", size=1, first=link(Part("p", 3))))
    virtual = virtual_base(base, one, two, load=load, link=link)
    ours, theirs = (
        link(Site("one", size=5, first=link(Part("p", 2)))),
        link(Site("two", size=1, first=link(Part("p", 2)))),
    )
    merged = merge(virtual, ours, theirs)
    assert [conflict.path for conflict in merged.conflicts] == ["name"]
    decided = merge(virtual, ours, theirs, choose={"name": "theirs"})
    assert decided.value.target == Site("two", size=5, first=link(Part("p", 2)))
    with pytest.raises(InvalidInput, match="no one base"):
        merge(virtual, ours, theirs, choose={"name": "base"})


class Item(msgspec.Struct, frozen=True):
    __identity__: ClassVar[str] = "key"

    key: str
    value: int = 0
    more: dict[str, int] = {}


@TYPES.stored("test.tree")
class Tree(msgspec.Struct, frozen=True):
    name: int = 0
    items: tuple[Item, ...] = ()
    keys: dict[str, dict[str, int]] = {}
    plain: tuple[int, ...] = ()
    below: "Link[Tree] | None" = None


few = st.sampled_from("abcd")
small = st.integers(0, 2)
maps = st.dictionaries(few, small, max_size=3)
items = st.lists(st.builds(Item, few, small, maps), unique_by=lambda item: item.key, max_size=4).map(tuple)
leaves = st.builds(Tree, small, items, st.dictionaries(few, maps, max_size=3), st.lists(small, max_size=3).map(tuple))
trees = st.builds(
    lambda top, below: msgspec.structs.replace(top, below=None if below is None else link(below)),
    leaves,
    st.none() | leaves,
)


def covered(change, conflicts):
    """Whether a conflict is at the change's place, above or below it."""
    place = f"{change.path}[order]" if isinstance(change, Reordered) else change.path
    return any(place.startswith(c.path) or c.path.startswith(change.path) for c in conflicts)


@settings(max_examples=120, deadline=None)
@given(trees, trees, trees)
def test_no_change_of_either_side_is_lost_in_silence(base, ours, theirs):
    merged = merge(base, ours, theirs)
    for side in (ours, theirs):
        done = {change.path: change for change in compare(base, merged.value, load)}
        for change in compare(base, side, load):
            if covered(change, merged.conflicts):
                continue
            if isinstance(change, Reordered):
                assert in_order(merged.value, base, side, change.path)
                continue
            if change.path.startswith("plain") or ".plain" in change.path:
                continue  # positions; that they are whole is asserted below
            assert same(done[change.path].new if hasattr(change, "new") else MISSING, getattr(change, "new", MISSING))
        if not any(c.path == "plain" for c in merged.conflicts) and not same(base.plain, side.plain):
            assert merged.value.plain == side.plain


def in_order(result, base, side, path):
    """The items that base, side and result all have stand in the side's order."""

    def identities(tree):
        tree = tree.below.target if path.startswith("below") and tree.below is not None else tree
        return [item.key for item in tree.items]

    kept = set(identities(base)) & set(identities(result)) & set(identities(side))
    return [k for k in identities(side) if k in kept] == [k for k in identities(result) if k in kept]


@settings(max_examples=80, deadline=None)
@given(trees, trees)
def test_a_merge_with_itself_or_with_nothing_new(base, ours):
    for merged in (merge(base, ours, ours), merge(base, ours, base), merge(base, base, ours), merge(ours, ours, ours)):
        assert merged.conflicts == () and same(merged.value, ours)


def turned(conflict):
    return msgspec.structs.replace(conflict, ours=conflict.theirs, theirs=conflict.ours)


def prints(conflicts):
    return sorted(repr(conflict) for conflict in conflicts)


@settings(max_examples=120, deadline=None)
@given(trees, trees, trees)
def test_sides_can_be_exchanged(base, ours, theirs):
    one, two = merge(base, ours, theirs), merge(base, theirs, ours)
    assert prints(one.conflicts) == prints(map(turned, two.conflicts))
    if not one.conflicts:
        assert same(one.value, two.value)
    first = merge(base, ours, theirs, choose={"*": "ours"})
    second = merge(base, theirs, ours, choose={"*": "theirs"})
    assert same(first.value, second.value)


@settings(max_examples=80, deadline=None)
@given(trees, trees)
def test_a_diff_is_empty_only_for_the_same(old, new):
    assert (compare(old, new, load) == []) == same(old, new)
