"""Checks a plan's values against its Structs, and reports all mistakes.

msgspec stops at the first mistake, and says neither which keys there are nor where a stray one belongs. A plan is a
tree of Structs, so that is known here, from the fields alone.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from pelagos.clouds.keys import TYPE_WORDS
from pelagos.model.yaml_layer import PathKey, did_you_mean

__all__ = ["check_plan"]

Tell = Callable[[PathKey, str, str], None]
"""(place, what is wrong there, advice)."""

_NAME = "A name has small letters, digits and, for parts, '_'; for the launch, '-'."


def check_plan(data: object, plan: type[msgspec.Struct], tell: Tell) -> None:
    """Call ``tell`` with each mistake of ``data``, which is to become a ``plan``."""
    owners: dict[str, list[str]] = {}
    for struct, what in _structs(plan, "the plan"):
        for field in msgspec.structs.fields(struct):
            owners.setdefault(field.encode_name, []).append(what)
    _Check(owners, tell).struct(data, plan, "the plan", ())


class _Check:
    """``owners``: key -> which Structs have it, in words."""

    def __init__(self, owners: dict[str, list[str]], tell: Tell) -> None:
        self._owners = owners
        self._tell = tell

    def struct(self, data: object, struct: type[msgspec.Struct], what: str, place: PathKey) -> None:
        if not isinstance(data, dict):
            self._tell(place, f"{what} must be a mapping, not {_kind(data)}", f"Its keys are {_keys(struct)}.")
            return
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        hints = get_type_hints(struct, include_extras=True)
        for key, value in data.items():
            if key in fields:
                self._value(value, hints[fields[key].name], str(key), (*place, key))
            else:
                self._tell((*place, key), f"{what} knows no key {str(key)!r}", self._advice(str(key), struct, what))
        for key, field in fields.items():
            if field.required and key not in data:
                self._tell(place, f"{what} lacks {key!r}", f"Its keys are {_keys(struct)}.")

    def _advice(self, key: str, struct: type[msgspec.Struct], what: str) -> str:
        known = f"Its keys are {_keys(struct)}."
        owners = [owner for owner in self._owners.get(key, ()) if owner != what]
        if owners:
            return f"{key!r} is a key of {' and of '.join(owners)}. {known}"
        guess = did_you_mean(key, [field.encode_name for field in msgspec.structs.fields(struct)])
        return f"{guess} {known}" if guess else known

    def _value(self, value: object, hint: Any, key: str, place: PathKey) -> None:
        struct, many = _struct_of(hint)
        if struct is None or (value is None and not many):
            self._plain(value, hint, key, place)
        elif not many:
            self.struct(value, struct, _called(key), place)
        elif isinstance(value, list) and value:
            for index, item in enumerate(value):
                self.struct(item, struct, _called(key), (*place, index))
        else:
            wrong = "is empty" if value == [] else f"must be a list, not {_kind(value)}"
            self._tell(place, f"{key!r} {wrong}", f"Each of its items is {_called(key)}, with {_keys(struct)}.")

    def _plain(self, value: object, hint: Any, key: str, place: PathKey) -> None:
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            text, advice = _explained(str(error), value)
            self._tell(place, f"{key!r} {text}", advice)


def _structs(struct: type[msgspec.Struct], what: str) -> Iterator[tuple[type[msgspec.Struct], str]]:
    """It and those that its fields hold, each with what it is called."""
    yield struct, what
    for key, hint in get_type_hints(struct, include_extras=True).items():
        inner, _ = _struct_of(hint)
        if inner is not None:
            yield from _structs(inner, _called(key))


def _struct_of(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The Struct that a field holds, and whether it holds many; through ``Annotated``, ``| None`` and ``tuple``."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, False
    inner = [_struct_of(one)[0] for one in get_args(hint)]
    found = next((one for one in inner if one is not None), None)
    origin = get_origin(hint)
    if found is None or isinstance(origin, types.UnionType):
        return found, False
    return found, any(get_origin(one) is tuple for one in (hint, *get_args(hint)))


def _called(key: str) -> str:
    return {"levels": "a level", "parts": "a part"}.get(key, repr(key))


def _keys(struct: type[msgspec.Struct]) -> str:
    names = [field.encode_name for field in msgspec.structs.fields(struct)]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f"the text {value!r}" if len(value) <= 40 else "text"
        case _:
            return repr(value)


def _explained(message: str, value: object) -> tuple[str, str]:
    """msgspec's message in plain words, as the end of a sentence, and advice."""
    text, _, where = message.partition(" - at `$")
    if "matching regex" in text:
        return f"must be a name, not {_kind(value)}", _NAME
    if "of length >= 1" in text:
        return "is empty", ""
    if text.startswith("Expected `float` > "):
        return f"must be more than {text.rpartition(' ')[2].rstrip('0').rstrip('.')}, not {_kind(value)}", ""
    expected = text.partition("`")[2].partition("`")[0]
    if not text.startswith("Expected `") or not expected:
        return f"is wrong: {text[:1].lower()}{text[1:]}", ""
    words = " or ".join(TYPE_WORDS.get(one, one) for one in expected.split(" | ") if one != "null")
    got = text.rpartition("got `")[2].rstrip("`")
    if where:  # msgspec does not say in which item of a mapping, and the list's item is plain to see
        return f"holds {TYPE_WORDS.get(got, got)} where {words} must be", ""
    return f"must be {words}, not {_kind(value)}", ""
