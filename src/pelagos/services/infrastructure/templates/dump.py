"""Plain values as a YAML text: small, fast, and always valid, since every text is quoted or a literal block.

ruamel's emitter needs milliseconds for what an instance is told; here it is one pass over strings. Texts of several
lines become literal blocks, so that a person can still read what an instance was given.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["dump"]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_RESERVED = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def dump(value: Any) -> str:
    """The YAML text of mappings, lists, texts, numbers, truth values and None; ends with a newline."""
    if isinstance(value, dict | list | tuple) and value:
        lines: list[str] = []
        _block(value, "", lines)
        return "\n".join(lines) + "\n"
    return f"{_inline(value)}\n"


def _block(value: Any, indent: str, lines: list[str]) -> None:
    deeper = indent + "  "
    if isinstance(value, dict):
        for key, item in value.items():
            name = str(key)
            shown = name if _PLAIN_KEY.match(name) and name.lower() not in _RESERVED else _quoted(name)
            if len(shown) > 1000:
                shown = f"? {shown}\n{indent}"  # a simple key may be 1024 characters long
            _item(f"{indent}{shown}:", item, deeper, lines)
    else:
        for item in value:
            _item(f"{indent}-", item, deeper, lines)


def _item(head: str, item: Any, deeper: str, lines: list[str]) -> None:
    if isinstance(item, dict | list | tuple) and item:
        lines.append(head)
        _block(item, deeper, lines)
    elif isinstance(item, str) and _fits_literal(item):
        body = item[:-1] if item.endswith("\n") else item
        lines.append(f"{head} |" if item.endswith("\n") else f"{head} |-")
        lines.extend(deeper + line if line else "" for line in body.split("\n"))
    else:
        lines.append(f"{head} {_inline(item)}")


def _fits_literal(text: str) -> bool:
    return (
        "\n" in text
        and text[0] not in " \n\t"
        and not text.endswith("\n\n")
        and _UNPRINTABLE.search(text) is None
        and not any(line and not line.strip(" \t") for line in text.split("\n"))
    )


def _inline(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case dict():
            return "{}"
        case list() | tuple():
            return "[]"
        case _:
            return _quoted(str(value))


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
