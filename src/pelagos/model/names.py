"""What infrastructures, nodes and accounts may be called.

The rule is that of the Occopus format (reference section 4.3): letters, digits and hyphens, 1 to 63 characters. The
ancestor's anchor also let a final newline pass; ours does not.
"""

from __future__ import annotations

import re

__all__ = ["MAX_NAME", "name_problem", "unique_server_name"]

MAX_NAME = 63
_ALLOWED = re.compile(r"[A-Za-z0-9-]+\Z")


def name_problem(name: object) -> str | None:
    """What is wrong with ``name``, as the end of a sentence that begins with it, or None if nothing is."""
    if not isinstance(name, str):
        return f"is a {type(name).__name__}, not text"
    if not name:
        return "is empty"
    if "." in name:
        return "contains a dot; only letters, digits and hyphens are allowed"
    if len(name) > MAX_NAME:
        return f"is {len(name)} characters long; {MAX_NAME} are allowed"
    if not _ALLOWED.match(name):
        bad = next(c for c in name if not _ALLOWED.match(c))
        return f"contains {bad!r}; only letters, digits and hyphens are allowed"
    return None


def unique_server_name(infra_name: str, infra_id: str, node: str, instance_id: str) -> str:
    """The server's name at its cloud (reference 2.4): readable, and unique by the two ids' first characters."""
    return f"pelagos-{infra_name[:18]}-{infra_id[:8]}-{node[:18]}-{instance_id[:8]}"
