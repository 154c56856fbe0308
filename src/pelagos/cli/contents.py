"""Contents of messages on the command line: YAML in, text or a document out.

A word is a word (``--content you``), ``{name: you}`` a mapping, ``@file`` and ``-`` come from elsewhere. The receiver's
operation checks the shape; here is only syntax.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelagos.model.errors import InvalidInput

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation

__all__ = ["pairs", "read_content", "show_result"]


def read_content(text: str | None) -> Any:
    """Plain values; None for nothing given. Raises InvalidInput for what is no YAML, OSError for a file that cannot be
    read."""
    if not text:
        return text  # an empty word that was given is one, though YAML would call it null
    where = "--content"
    if text == "-":
        where, text = "stdin", sys.stdin.read()
    elif text.startswith("@"):
        where, text = text[1:], Path(text[1:]).read_text(encoding="utf-8")
    return _load(text, where)


def pairs(given: tuple[str, ...], option: str = "--arg") -> dict[str, Any]:
    """``key=value`` arguments; values are YAML. Raises InvalidInput."""
    found: dict[str, Any] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key.strip():
            raise InvalidInput(f"{one!r} is not KEY=VALUE", advice=f"For example {option} greeting=Hello")
        found[key.strip()] = _load(value, f"{option} {key}")
    return found


def show_result(invocation: Invocation, value: Any) -> None:
    """A text as it is, nothing for nothing, anything else as YAML; with ``-o`` always as a document."""
    if not invocation.plain:
        invocation.document(value)
    elif isinstance(value, str):
        invocation.say(value)
    elif value is not None:
        from pelagos.cli.documents import encode

        invocation.say(encode(value, "yaml").removesuffix("...\n"), end="")


def _load(text: str, where: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        told = " ".join(str(error).split())
        raise InvalidInput(
            f"{where} is not YAML: {told}", advice="Quote it, or write a file and give @FILE."
        ) from error
    return text if value is None and text.strip() not in ("", "~", "null") else value
