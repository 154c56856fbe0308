"""Bodies that describe infrastructures: raw YAML, or a bundle of files."""

from __future__ import annotations

import msgspec

from pelagos.api.binding import Call
from pelagos.api.problems import rejected

__all__ = ["YAML", "Bundle", "read_bundle_body"]

YAML = ("application/yaml", "text/plain")
"""Media types by which a raw description is documented; any but JSON will do."""

RAW_NAME = "infrastructure.yaml"
"""The name under which mistakes in a raw body are told."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``sources`` is {name: text}; ``entries`` are the names to begin with, in order. ``map_clouds`` is the account, or
    its driver, that stands in for all described clouds."""

    sources: dict[str, str]
    entries: tuple[str, ...]
    map_clouds: str = ""


async def read_bundle_body(call: Call) -> Bundle:
    """JSON is a bundle; anything else is one YAML text, as the ancestor took it."""
    if call.content_type == "application/json":
        bundle = await call.body(Bundle)
        missing = [entry for entry in bundle.entries if entry not in bundle.sources]
        if missing or not bundle.entries:
            what = f"the entry {missing[0]!r} is not among the sources" if missing else "there is no entry"
            raise rejected(422, what, advice="Name files of `sources` in `entries`.")
        return bundle
    raw = await call.raw()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise rejected(400, f"the description is not UTF-8: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise rejected(400, "the body is empty", advice="Send the description as YAML, or a bundle as JSON.")
    return Bundle(sources={RAW_NAME: text}, entries=(RAW_NAME,))
