"""What a driver's resources in Azure are called, and the tags that say whose they are. Pure.

A name is derived from the token of the call that makes the resource: a create that is sent again names the same one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pelagos.clouds.errors import ServerNotFound

__all__ = ["NAME", "TOKEN", "group_and_name", "provider_id", "resource_name", "tags", "token_of"]

TOKEN = "pelagos-token"  # noqa: S105 - the name of a tag
NAME = "pelagos-name"
_PART = re.compile(r"(?!\.+\Z)[\w.()-]+\Z")
_READABLE = 40


def resource_name(name: str, token: str) -> str:
    """Lower-case letters, digits and hyphens; at most 53 characters, so that a suffix fits everywhere."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_READABLE].strip("-")
    digest = hashlib.sha256(token.encode()).hexdigest()[:12]
    return f"{readable or 'server'}-{digest}"


def tags(name: str, token: str) -> dict[str, str]:
    """The tags of what a call with ``token`` makes."""
    return {TOKEN: token, NAME: name}


def token_of(resource: Mapping[str, Any]) -> str:
    """The token that a resource carries; empty if it is not ours."""
    return str((resource.get("tags") or {}).get(TOKEN) or "")


def provider_id(resource: Mapping[str, Any]) -> str:
    """``group/name`` of a resource: Azure spells the group now so, now so, and looks at no case."""
    parts = str(resource["id"]).split("/")
    return f"{parts[4].lower()}/{parts[-1].lower()}"


def group_and_name(id_: str) -> tuple[str, str]:
    """The inverse. Raises ServerNotFound for what no resource is called."""
    group, slash, name = id_.partition("/")
    if not slash or not _PART.match(group) or not _PART.match(name):
        raise ServerNotFound(f"no server of Azure's is called {id_!r}")
    return group, name
