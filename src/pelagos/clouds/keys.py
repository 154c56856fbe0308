"""Checks the keys of a ``resource`` section, or of an account, against a driver's Struct, and reports all mistakes.

msgspec stops at the first mistake; a person who wrote a file wants them all. So each field is converted by itself, and
the whole once more if nothing was wrong, for what a Struct checks across its fields.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

__all__ = ["TYPE_WORDS", "KeyProblem", "check_keys", "check_presence"]

KeyProblem = tuple[str | None, str]
"""The key at fault (None: the section as a whole) and the end of a sentence that begins with it."""

TYPE_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
"""msgspec's words for types -> those for people."""
_EXPECTED = re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`(?: - at `\$(?P<path>[^`]*)`)?\Z")
_AT = re.compile(r" - at `\$(?P<path>[^`]*)`\Z")


def check_keys(
    struct: type[msgspec.Struct],
    keys: Mapping[str, Any],
    *,
    unrendered: Collection[str] = (),
    hidden: Collection[str] = (),
) -> tuple[dict[str, Any], list[KeyProblem]]:
    """The given keys as plain values of the Struct's types, and all that is wrong with them.

    Values of keys in ``unrendered`` are templates still: they are passed through, and only their presence counts.
    Those of keys in ``hidden`` appear in no message. Text that reads as a number or a truth value passes for one, since
    that is what a rendered template gives.
    """
    fields = _fields(struct)
    options: dict[str, Any] = {}
    problems: list[KeyProblem] = []
    for key, value in keys.items():
        field = fields.get(key)
        if field is None:
            problems.append((str(key), _unknown(str(key), list(fields))))
        elif key in unrendered:
            options[key] = value
        else:
            try:
                options[key] = _plain(msgspec.to_builtins(msgspec.convert(value, field.type, strict=False)))
            except msgspec.ValidationError as error:
                problems.append((key, _explain(str(error), value, field.type, hidden=key in hidden)))
    for key, field in fields.items():
        if field.required and key not in keys:
            problems.append((key, "is missing"))
    if not problems and not any(key in unrendered for key in keys):
        try:
            msgspec.convert(options, struct)
        except msgspec.ValidationError as error:
            problems.append((None, _explain(str(error), None)))
    return options, problems


def check_presence(struct: type[msgspec.Struct], keys: Collection[str]) -> list[KeyProblem]:
    """What is wrong with the keys alone, whatever their values: unknown ones, and those that are missing."""
    fields = _fields(struct)
    unknown: list[KeyProblem] = [(key, _unknown(key, list(fields))) for key in keys if key not in fields]
    return unknown + [(key, "is missing") for key, field in fields.items() if field.required and key not in keys]


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """By encoded name. Working them out costs more than all the rest of a check, and each instance is checked."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _plain(value: Any) -> Any:
    """Lists for tuples: as the value comes back from a journal, so that comparing the two finds no change."""
    match value:
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case _:
            return value


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known)) or 'none'}"
    return f"is not known; {hint}"


def _explain(message: str, value: object, type: object = None, *, hidden: bool = False) -> str:
    """msgspec's message in plain words, with the value if it is short and not hidden."""
    choices = _choices(type)
    if choices and message.startswith("Invalid enum value"):
        return f"must be one of {', '.join(choices)}" + ("" if hidden else f", not {value!r}")
    match = _EXPECTED.match(message)
    if match is None:
        if hidden:
            return "is wrong"  # the message may repeat the value
        wanted = _wanted(type)
        if wanted and "matching regex" in message:
            return f"must be {wanted}, not {value!r}"
        at = _AT.search(message)
        path = at["path"] if at else ""
        text = _AT.sub("", message)
        return f"is wrong{f' at {path}' if path else ''}: {text[:1].lower()}{text[1:]}"
    parts = match["expected"].split(" | ")
    expected = " or ".join(_word(part) for part in parts if part != "null" or len(parts) == 1)
    shown = repr(value)
    path = match["path"] or ""
    got = _word(match["got"]) + (
        f" ({shown})" if len(shown) <= 40 and not path and value is not None and not hidden else ""
    )
    return f"must be {expected}, not {got}" + (f", at {path}" if path else "")


def _wanted(type: object) -> str:
    """What a text must be, as its type describes it; empty if it does not."""
    metas = getattr(type, "__metadata__", ())
    return next((meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description), "")


def _choices(type: object) -> list[str]:
    """The values that a Literal or an enumeration admits."""
    match msgspec.inspect.type_info(type) if type is not None else None:
        case msgspec.inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case msgspec.inspect.EnumType(cls=cls):
            return [str(member.value) for member in cls]
        case _:
            return []


def _word(name: str) -> str:
    return TYPE_WORDS.get(name, name)
