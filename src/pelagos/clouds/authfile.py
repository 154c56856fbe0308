"""The authentication file of Occopus (reference, section 3.4): credentials chosen by what a resource section says.

    resource:
      - type: ec2                                        # every key but auth_data is a filter
        endpoint: https://ec2.eu-west-1.amazonaws.com
        auth_data: {accesskey: AK, secretkey: SK}

An entry fits a section that has each of its filter keys with an equal value. Of several that fit, the one that says
more wins: its filter has all of the other's and more. There it was an error, and a final slash of an endpoint made an
entry fit nothing. Two that fit and of which neither says more are an error here, too: guessing would put servers on
somebody's bill by accident.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import Ambiguous, DescriptionError, InvalidInput
from pelagos.model.yaml_layer import Layer, read_layer

__all__ = ["AuthEntry", "AuthFile", "same_endpoint"]

_SECTIONS = ("resource", "config_management")


class AuthEntry(msgspec.Struct, frozen=True):
    """One entry: what it is for, and the credentials."""

    filter: dict[str, Any]
    auth_data: dict[str, Any]
    position: Position | None = None

    def __repr__(self) -> str:
        return f"AuthEntry({self.filter}, at {self.position})"

    def fits(self, section: Mapping[str, Any]) -> bool:
        return all(key in section and _equal(key, section[key], value) for key, value in self.filter.items())

    def says_more_than(self, other: AuthEntry) -> bool:
        """Whether its filter has all of the other's, equal as :meth:`fits` judges it, and more."""
        return len(self.filter) > len(other.filter) and other.fits(self.filter)


class AuthFile:
    """The file at ``path``; it is read when first asked for, and again after :meth:`forget`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[str, tuple[AuthEntry, ...]] | None = None

    def forget(self) -> None:
        """Read the file anew when next asked for: a secret in it may have been rotated."""
        self._read = None

    def entries(self, section: str = "resource") -> tuple[AuthEntry, ...]:
        """The entries of a section. Blocks on the disk the first time. Raises DescriptionError with all mistakes, each
        with its place; InvalidInput if the file cannot be read."""
        if self._read is None:
            self._read = self._parse()
        return self._read.get(section, ())

    def find(self, section: Mapping[str, Any], *, of: str = "resource") -> AuthEntry | None:
        """The entry that a section means; None if none fits. Raises Ambiguous, and as :meth:`entries`."""
        fitting = [entry for entry in self.entries(of) if entry.fits(section)]
        best = [entry for entry in fitting if not any(other.says_more_than(entry) for other in fitting)]
        if len(best) > 1 and any(entry.auth_data != best[0].auth_data for entry in best):
            where = " and ".join(str(entry.position) for entry in best)
            raise Ambiguous(
                f"{len(best)} entries of the authentication file fit this {of} section, and neither says more than the"
                f" other: {where}",
                advice="Give one of them a key more, such as the resource's `name` or `endpoint`.",
                details={"entries": [str(entry.position) for entry in best]},
            )
        return best[0] if best else None

    def with_filter(self, wanted: Mapping[str, Any], *, of: str = "resource") -> AuthEntry | None:
        """The entry with exactly this filter, read anew from the disk. Raises as :meth:`entries`."""
        self.forget()
        return next((entry for entry in self.entries(of) if entry.filter == dict(wanted)), None)

    def readable_by_others(self) -> bool:
        """Whether the file's mode lets others than its owner read it. Raises OSError."""
        return bool(self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))

    def _parse(self) -> dict[str, tuple[AuthEntry, ...]]:
        mistakes: list[Diagnostic] = []
        try:
            layer = read_layer(self.path, mistakes, what="the authentication file", texts=True)
        except OSError as error:
            raise InvalidInput(
                f"the authentication file {str(self.path)!r} cannot be read: {error.strerror}",
                advice="Check `auth_file` in the configuration, or OCCOPUS_AUTH_DATA_PATH.",
            ) from error
        found: dict[str, tuple[AuthEntry, ...]] = {}
        for section, listed in layer.data.items():
            if section not in _SECTIONS:
                mistakes.append(
                    layer.diagnostic((section,), f"there is no section {section!r}", "There are: resource.")
                )
            elif not isinstance(listed, list):
                if listed is not None:
                    mistakes.append(layer.diagnostic((section,), f"{section} must be a list of entries"))
            else:
                read = [_entry(layer, section, index, item, mistakes) for index, item in enumerate(listed)]
                found[section] = tuple(entry for entry in read if entry is not None)
        if mistakes:
            count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            shown = tuple(msgspec.structs.replace(mistake, source="") for mistake in mistakes)  # a line holds secrets
            raise DescriptionError(f"{count} in the authentication file", diagnostics=shown)
        return found


def same_endpoint(one: str, other: str) -> bool:
    """Whether two addresses are the same: a final slash and the case of scheme and host make no difference."""
    return one == other or _plain(one) == _plain(other)


def _plain(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        return endpoint
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl().rstrip("/")


def _equal(key: str, one: object, other: object) -> bool:
    if key == "endpoint" and isinstance(one, str) and isinstance(other, str):
        return same_endpoint(one, other)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _entry(layer: Layer, section: str, index: int, item: Any, mistakes: list[Diagnostic]) -> AuthEntry | None:
    path = (section, index)
    if not isinstance(item, dict):
        mistakes.append(layer.diagnostic(path, "an entry must be a mapping"))
        return None
    data = item.get("auth_data")
    if not isinstance(data, dict):
        said = "has no auth_data" if "auth_data" not in item else "has an auth_data that is no mapping"
        mistakes.append(layer.diagnostic(path, f"this entry {said}", "Put the credentials there, key by key."))
        return None
    origin = layer.origin(path)
    return AuthEntry(
        filter={key: value for key, value in item.items() if key != "auth_data"},
        auth_data=data,
        position=origin if isinstance(origin, Position) else None,
    )
