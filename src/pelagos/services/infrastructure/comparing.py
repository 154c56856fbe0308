"""What two descriptions differ in: place by place, and text by text. Pure.

Secrets are hidden before anything is shown, so a diff can be shown and logged.

The places are those of the YAML as it stands, not of the compiled description: what templates make of it differs from
instance to instance, and a person wants to find the place again. Items of a list that have names are compared by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

from pelagos.model.errors import InternalError
from pelagos.model.redaction import HIDDEN, redact, redact_text
from pelagos.repository import Added, Changed, Link, Removed, compare
from pelagos.services.infrastructure.values import StoredBundle
from pelagos.wire.infrastructures import DescriptionChange

__all__ = ["changes_between", "differences", "file_diffs", "shown_files"]

_KEY = re.compile(r'\["((?:[^"\\]|\\.)*)"\]')
_CONTEXT = 3
_LONGEST = 200
"""Characters of a value that are shown; the text diffs have all of it."""


def shown_files(sources: Mapping[str, str]) -> dict[str, str]:
    """The texts without what looks like a secret."""
    return {name: redact_text(text) for name, text in sources.items()}


def file_diffs(old: StoredBundle, new: StoredBundle) -> dict[str, str]:
    """Name -> unified diff, for the texts that differ; a project's definition is ``definitions/<type>/<file>``."""
    before, after = _all_files(old), _all_files(new)
    found: dict[str, str] = {}
    for name in sorted({*before, *after}):
        a, b = before.get(name), after.get(name)
        if a == b:
            continue
        lines = difflib.unified_diff(
            redact_text(a or "").splitlines(),
            redact_text(b or "").splitlines(),
            f"a/{name}" if a is not None else "/dev/null",
            f"b/{name}" if b is not None else "/dev/null",
            n=_CONTEXT,
            lineterm="",
        )
        found[name] = "\n".join(lines) or "the texts differ in what is hidden here, or in the ends of their lines"
    return found


def changes_between(old: StoredBundle, new: StoredBundle) -> tuple[DescriptionChange, ...]:
    """The places that differ, in the order of their paths. Empty if the texts say the same in other words."""
    return differences(_places(old), _places(new))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[DescriptionChange, ...]:
    """Where two mappings of plain values differ, in the order of their paths."""
    changes: list[DescriptionChange] = []
    for found in compare(before, after, _no_links):
        path = _KEY.sub(_plain_key, found.path).removeprefix(".") or "."
        match found:
            case Added(_, value):
                changes.append(_change("added", path, None, value))
            case Removed(_, value):
                changes.append(_change("removed", path, value, None))
            case Changed(_, a, b):
                changes.append(_change("changed", path, a, b))
    return tuple(changes)


def _change(
    change: Literal["added", "removed", "changed"], path: str, old: Any, new: Any
) -> DescriptionChange:  # fmt: skip
    return DescriptionChange(change=change, path=path, old=_shown(old, path), new=_shown(new, path))


def _plain_key(match: re.Match[str]) -> str:
    return f".{match[1]}" if re.fullmatch(r"[\w:-]+", match[1]) else match[0]


def _shown(value: Any, path: str) -> Any:
    if value is None:
        return None
    found = redact(value, name=path.rpartition(".")[2])
    if isinstance(found, str) and found != HIDDEN and len(found) > _LONGEST:
        return found[:_LONGEST] + "…"
    return found


def _all_files(bundle: StoredBundle) -> dict[str, str]:
    files = dict(bundle.sources)
    for type_, definition in bundle.definitions.items():
        files.update({f"definitions/{type_}/{name}": text for name, text in definition.sources.items()})
    return files


def _places(bundle: StoredBundle) -> dict[str, Any]:
    """All that the entries and the project's definitions say, as one mapping."""
    places: dict[str, Any] = {}
    for name in bundle.entries:
        places.update(_plain(bundle.sources, name))
    for definition in bundle.definitions.values():
        places.update(_plain(definition.sources, definition.file))
    named: dict[str, Any] = _by_name(places)
    return named


def _plain(sources: Mapping[str, str], name: str) -> dict[str, Any]:
    from pelagos.services.infrastructure.source.bundle import Bundle
    from pelagos.services.infrastructure.source.problems import Problems

    root = Bundle(sources, Problems()).load(name) if name in sources else None
    value = root.plain() if root is not None else None
    return value if isinstance(value, dict) else {}


def _by_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _by_name(item) for key, item in value.items()}
    if isinstance(value, list):
        named = {str(item["name"]): item for item in value if isinstance(item, dict) and "name" in item}
        if value and len(named) == len(value):
            return {name: _by_name(item) for name, item in named.items()}
        return [_by_name(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _no_links(link: Link[Any]) -> Any:
    raise InternalError(f"a description has no links, but here is {link!r}")
