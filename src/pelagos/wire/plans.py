"""The file of a saved plan: JSON, of a version, with a checksum over all the rest."""

from __future__ import annotations

import hashlib

import msgspec

from pelagos.model.errors import InvalidInput
from pelagos.wire.infrastructures import SavedPlan

__all__ = ["PLAN_VERSION", "checksum_of", "read_plan", "written"]

PLAN_VERSION = 2
_KIND = "plan"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pelagos: str
    plan: SavedPlan


class _Head(msgspec.Struct, frozen=True):
    """What of a file is looked at first: it may be of another version, with other fields."""

    pelagos: str = ""
    plan: msgspec.Raw = msgspec.Raw()


class _Version(msgspec.Struct, frozen=True):
    version: int


def checksum_of(plan: SavedPlan) -> str:
    """SHA-256 over the plan without its checksum."""
    bare = msgspec.structs.replace(plan, checksum="")
    return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def written(plan: SavedPlan) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(_File(pelagos=_KIND, plan=plan)), indent=2) + b"\n"


def read_plan(content: bytes, name: str) -> SavedPlan:
    """The plan in a file called ``name``. Raises InvalidInput for what is none, was cut or edited, or is of another
    version."""
    again = "Make it anew with `pelagos plan FILE... --out PLAN`."
    try:
        head = msgspec.json.decode(content, type=_Head)
        version = msgspec.json.decode(head.plan, type=_Version).version if head.pelagos == _KIND else None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{name} is no saved plan: {error}", advice=again) from None
    if version is None:
        raise InvalidInput(f"{name} is no saved plan", advice=again)
    if version != PLAN_VERSION:
        raise InvalidInput(
            f"{name} is a plan of version {version}, this program reads those of version {PLAN_VERSION}", advice=again
        )
    try:
        plan = msgspec.json.decode(content, type=_File).plan
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{name} is not as it was written: {error}", advice=again) from None
    if plan.checksum != checksum_of(plan):
        raise InvalidInput(f"{name} is not as it was written: its checksum does not fit", advice=again)
    return plan
