"""What other systems call accounts and their options, in this one's words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec

from pelagos.clouds.port import AccountDescriber, DriverPlugin
from pelagos.model.names import MAX_NAME
from pelagos.model.redaction import names_secret

__all__ = ["account_name", "option_names", "secret_options", "section_keys"]

_SPELLINGS = (
    ("endpoint", "auth_url", "url", "base_url"),
    ("region", "region_name", "regionname"),
    ("access_key", "accesskey", "access_key_id", "key"),
    ("secret_key", "secretkey", "secret_access_key", "secret"),
    ("username", "user", "email"),
    ("password", "secret"),
    ("application_credential_id", "id"),
    ("application_credential_secret", "secret"),
)
"""Words for one thing, the more telling first: as drivers call it, and the ancestors."""
_SECTION = ("endpoint", "regionname", "region_name", "region")


def account_name(label: str) -> str:
    """The label with a hyphen for each character that no account's name may have: ``lab_cloud`` is ``lab-cloud``."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in label)[:MAX_NAME]


def option_names(plugin: DriverPlugin) -> Mapping[str, str]:
    """Word for an account's option -> the driver's own. The plug-in says so itself, or they are recognised."""
    names = dict(_recognised(plugin.account_options))
    if isinstance(plugin, AccountDescriber) and isinstance(plugin.account_keys, Mapping):
        names |= plugin.account_keys
    return names


def section_keys(plugin: DriverPlugin) -> frozenset[str]:
    """Keys of a resource section that say which account it means."""
    told = (*_SECTION[:1], *plugin.account_keys) if isinstance(plugin, AccountDescriber) else _SECTION
    names = option_names(plugin)
    return frozenset(key for key in told if key in names)


@cache
def secret_options(struct: type[msgspec.Struct]) -> frozenset[str]:
    """Options that are secret: their type says so, ``Annotated[str, Meta(extra={"secret": True})]``, or they are any
    text and called like a secret."""
    return frozenset(
        field.encode_name
        for field in msgspec.structs.fields(struct)
        if _told_secret(field.type) or (names_secret(field.encode_name) and _any_text(field.type))
    )


def _told_secret(type: object) -> bool:
    metas = [meta for meta in getattr(type, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return any((meta.extra or {}).get("secret") for meta in metas)


def _any_text(type: object) -> bool:
    """Whether it is ``str`` and no choice of words."""
    match msgspec.inspect.type_info(type):
        case msgspec.inspect.StrType():
            return True
        case msgspec.inspect.UnionType(types=types):
            return any(isinstance(one, msgspec.inspect.StrType) for one in types)
        case _:
            return False


@cache
def _recognised(struct: type[msgspec.Struct]) -> Mapping[str, str]:
    known = {field.encode_name for field in msgspec.structs.fields(struct)}
    found = {name: name for name in known}
    for words in _SPELLINGS:
        option = next((word for word in words if word in known), None)
        if option is not None:
            for word in words:
                found.setdefault(word, option)
    return found
