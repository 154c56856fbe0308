"""Canonical bytes, digests, the registry: the same value is the same object, and nothing else is."""

import hashlib
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.model.errors import InternalError, InvalidInput, Unsupported
from pelagos.repository import CorruptObject, Link, Opaque, TypeRegistry
from pelagos.repository.encoding import MAX_OBJECT, StoredObject, canonical, check_canonical, digest_of, verify
from support.repository_types import TYPES, Part, Rack, Site

keys = st.text(max_size=5)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_the_canonical_form_is_found_again_and_does_not_depend_on_the_order_of_keys(value):
    raw = canonical(value)
    assert canonical(msgspec.msgpack.decode(raw)) == raw
    assert check_canonical(raw) == ()

    def turned(item):
        if isinstance(item, dict):
            return {key: turned(item[key]) for key in reversed(item)}
        return [turned(inner) for inner in item] if isinstance(item, list) else item

    assert canonical(turned(value)) == raw


def test_the_digest_is_the_documented_one():
    value = canonical(Part("p", 2))
    assert value == b"\x83\xa4name\xa1p\xa4note\xc0\xa4size\x02"  # without its type: the number as it was given
    packed = TYPES.link(Part("p", 2)).packed
    assert packed.value == b"\x83\xa4name\xa1p\xa4note\xc0\xa4size\xcb@\x00\x00\x00\x00\x00\x00\x00"
    frame = b"pelagos.object.1\0" + struct.pack(">IQQ", 9, 1, len(packed.value)) + b"test.part" + packed.value
    assert packed.digest == hashlib.sha256(frame).hexdigest()


def test_type_version_and_value_are_framed_unambiguously():
    digests = {
        digest_of("ab", 1, b"c"), digest_of("a", 1, b"bc"), digest_of("abc", 1, b""), digest_of("ab", 2, b"c"),
    }  # fmt: skip
    assert len(digests) == 4


def test_numbers_that_are_equal_are_the_same_object_in_a_float_field():
    assert TYPES.link(Part("p", 1)) == TYPES.link(Part("p", 1.0)) != TYPES.link(Part("p", 1.5))
    assert TYPES.link(Part("p", 0.0)) == TYPES.link(Part("p", -0.0))


@pytest.mark.parametrize("wrong", [Part("p", float("nan")), Part(7), Part("p", note=b"x"), Site("a", size=2**65)])
def test_what_has_no_canonical_form_or_does_not_fit_its_type_is_refused(wrong):
    with pytest.raises(InvalidInput):
        TYPES.link(wrong)


def test_an_object_is_bounded():
    with pytest.raises(InvalidInput, match="too large"):
        TYPES.link(Part("p", note="x" * MAX_OBJECT))


def test_links_are_found_without_the_type():
    part, rack = TYPES.link(Part("p")), TYPES.link(Rack("r"))
    site = TYPES.link(Site("a", racks={"x": rack}, first=part))
    assert set(check_canonical(site.packed.value)) == {part.digest, rack.digest} == set(site.packed.links)
    assert [packed.type for packed in TYPES.pack(site)][-1] == "test.site"
    assert len(TYPES.pack(site)) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"\x82\xa1b\x01\xa1a\x02",  # keys not sorted
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x02",  # a key that is no text
        b"\xcd\x00\x01",  # an integer longer than it need be
        b"\xca\x3f\x80\x00\x00",  # a short float
        b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00",  # negative zero
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # not a number
        b"\xd4\x01x",  # a link that is no digest
        b"\xd4\x63x",  # an extension nobody has
        b"\xc1",
        b"",
        b"\x01\x02",
        b"\x91" * 100_000 + b"\x01",
    ],
)
def test_bytes_that_are_not_canonical_are_refused(raw):
    with pytest.raises(InvalidInput):
        verify(StoredObject(digest_of("t", 1, raw), "t", 1, (), raw))


def test_links_of_what_arrives_are_not_believed():
    packed = TYPES.link(Rack("r", (TYPES.link(Part("p")),))).packed
    assert verify(msgspec.structs.replace(packed, links=("ab" * 32,))) == packed
    with pytest.raises(InvalidInput, match=packed.digest):
        verify(msgspec.structs.replace(packed, value=packed.value + b"\x00"))


def test_older_versions_are_upgraded_and_newer_ones_refused():
    class One(msgspec.Struct, frozen=True):
        name: str

    class Three(msgspec.Struct, frozen=True):
        title: str
        size: float

    old, new = TypeRegistry(), TypeRegistry()
    old.register(One, "t")
    new.register(
        Three,
        "t",
        version=3,
        upgrades={1: lambda v: {"title": v["name"]}, 2: lambda v: {**v, "size": len(v["title"])}},
    )
    assert new.decode(old.link(One("abc")).packed) == Three("abc", 3.0)
    with pytest.raises(Unsupported) as caught:
        old.decode(new.link(Three("abc", 1.0)).packed)
    assert "Upgrade" in caught.value.advice
    lacking = TypeRegistry()
    lacking.register(Three, "t", version=3, upgrades={2: lambda v: v})
    with pytest.raises(Unsupported, match="version 1"):
        lacking.decode(old.link(One("abc")).packed)


def test_an_unknown_type_is_carried_as_it_came():
    packed = TYPES.link(Site("a", first=TYPES.link(Part("p")))).packed
    other = TypeRegistry()
    value = other.decode(packed)
    assert value == Opaque("test.site", 1, packed.value)
    assert other.link(value).packed == packed


def test_bytes_that_do_not_fit_their_type_are_corrupt():
    raw = canonical({"name": 7})
    with pytest.raises(CorruptObject):
        TYPES.decode(StoredObject(digest_of("test.part", 1, raw), "test.part", 1, (), raw))


def test_registration_mistakes_are_errors():
    registry = TypeRegistry()

    class Loose(msgspec.Struct):
        name: str

    for arguments in ((Loose, "loose"), (Part, ""), (Part, "p", 0)):
        cls, type_id, *version = arguments
        with pytest.raises(InternalError):
            registry.register(cls, type_id, **({"version": version[0]} if version else {}))
    registry.register(Part, "p")
    with pytest.raises(InternalError):
        registry.register(Rack, "p")
    with pytest.raises(InternalError):
        registry.register(Part, "q")
    with pytest.raises(InvalidInput):
        registry.link(Site("a"))


def test_the_cache_is_bounded_and_never_shares_what_can_be_changed():
    registry = TypeRegistry(cached_bytes=2000)
    registry.register(Part, "test.part")
    registry.register(Site, "test.site")
    parts = [registry.link(Part(f"p{n}", note="x" * 100)).packed for n in range(50)]
    for packed in parts:
        registry.decode(packed)
    assert sum(registry.cached(packed.digest) is not None for packed in parts) == 2000 // len(parts[0].value)
    assert registry.cached(parts[-1].digest) is registry.decode(parts[-1])
    site = registry.link(Site("a")).packed  # has a dict
    assert registry.decode(site) is not registry.decode(site)
    assert registry.cached(site.digest) is None


def test_a_link_is_its_digest():
    with pytest.raises(InvalidInput):
        Link("short")
    assert {Link("ab" * 32)} == {Link("ab" * 32, object())}


def test_a_type_that_leaves_out_its_defaults_is_not_stored_wherever_it_stands() -> None:
    """Whether a field *is* its default depends on which object holds it, so the digest would."""

    class Inner(msgspec.Struct, frozen=True, omit_defaults=True):
        kind: str = "pump"

    class Outer(msgspec.Struct, frozen=True):
        parts: dict[str, tuple[Inner | None, ...]] = {}

    types = TypeRegistry()
    types.register(Outer, "test.outer")
    types.register(Inner, "test.inner")
    for value in (Outer({"a": (Inner(),)}), Inner()):
        with pytest.raises(InternalError, match=r"Inner.*leaves out"):
            types.pack(value)
