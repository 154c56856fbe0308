"""Results as JSON or YAML documents: the same keys in both, those of the API's Structs."""

from __future__ import annotations

import io
from typing import Any

import msgspec

__all__ = ["encode"]


def encode(value: Any, form: str, *, many: bool = False) -> str:
    """``value`` as text that ends with a newline. ``many``: one of a stream (a JSON line, or a YAML document that
    begins with ``---``)."""
    raw = msgspec.json.encode(value)
    if form == "json":
        return (raw if many else msgspec.json.format(raw, indent=2)).decode() + "\n"
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.explicit_start = many
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    writer.dump(msgspec.json.decode(raw), stream)
    return stream.getvalue()
