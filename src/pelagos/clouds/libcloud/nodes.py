"""Libcloud's nodes as the port's servers, and the token that they carry. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pelagos.clouds.values import CloudServer
from pelagos.model.states import ServerState

__all__ = ["TOKEN_KEY", "named", "server", "split", "token_of"]

TOKEN_KEY = "pelagos-token"  # noqa: S105 - the name of a piece of metadata
_MARK = "-pt-"
_MARKED = re.compile(rf"\A(?P<name>.+){_MARK}(?P<token>[A-Za-z0-9][A-Za-z0-9-]*)\Z")
_STATES = {
    "running": ServerState.ACTIVE,
    "normal": ServerState.ACTIVE,
    "reconfiguring": ServerState.ACTIVE,
    "migrating": ServerState.ACTIVE,
    "updating": ServerState.ACTIVE,
    "stopping": ServerState.ACTIVE,
    "starting": ServerState.BUILD,
    "pending": ServerState.BUILD,
    "rebooting": ServerState.REBOOT,
    "stopped": ServerState.STOPPED,
    "suspended": ServerState.STOPPED,
    "paused": ServerState.STOPPED,
    "terminated": ServerState.DELETED,
    "error": ServerState.ERROR,
}
"""By Libcloud's own words; what is not here is UNKNOWN. One that stops still is what it was."""


def named(name: str, token: str, limit: int) -> str:
    """A server's name that holds its token; the readable part is cut where both do not fit."""
    return f"{name[: max(1, limit - len(token) - len(_MARK))]}{_MARK}{token}"


def token_of(node: Any, *, by_name: bool) -> tuple[str, str]:
    """(token, name without it) of a node; no token if it is not ours."""
    name = str(node.name or "")
    if not by_name:
        return _metadata(node.extra or {}).get(TOKEN_KEY, ""), name
    return split(name)


def split(name: str) -> tuple[str, str]:
    """(token, readable part) of a name that :func:`named` made; no token for others."""
    match = _MARKED.match(name)
    return (match["token"], match["name"]) if match is not None else ("", name)


def server(node: Any, *, by_name: bool) -> CloudServer:
    """A node as a server."""
    token, name = token_of(node, by_name=by_name)
    extra = node.extra or {}
    state = _STATES.get(str(getattr(node.state, "value", node.state)).lower(), ServerState.UNKNOWN)
    return CloudServer(
        provider_id=str(node.id),
        name=name,
        state=state,
        token=token,
        addresses=_plain(node.public_ips),
        private_addresses=_plain(node.private_ips),
        reason=str(extra.get("status") or "") if state in (ServerState.ERROR, ServerState.UNKNOWN) else "",
        created_at=_time(node),
        flavor=_id(node.size) or str(extra.get("instance_type") or extra.get("flavorId") or ""),
        image=_id(node.image) or str(extra.get("image_id") or extra.get("imageId") or ""),
    )


def _metadata(extra: Mapping[str, Any]) -> dict[str, str]:
    """The metadata that a node's ``extra`` holds: a mapping, or the list of items that one provider makes of it."""
    for key in ("metadata", "tags", "meta"):
        match extra.get(key):
            case {"items": [*items]}:
                return {str(one.get("key")): str(one.get("value")) for one in items if isinstance(one, Mapping)}
            case Mapping() as found if found:
                return {str(name): str(value) for name, value in found.items()}
    return {}


def _plain(addresses: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(address) for address in addresses or () if address))


def _id(thing: Any) -> str:
    return "" if thing is None else str(getattr(thing, "id", thing) or "")


def _time(node: Any) -> float | None:
    created = getattr(node, "created_at", None)
    if not isinstance(created, datetime):
        return None
    return (created if created.tzinfo is not None else created.replace(tzinfo=UTC)).timestamp()
