"""What other systems call accounts and their options, in this one's words."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pelagos.clouds.port import AccountDescriber, DriverPlugin
from pelagos.model.names import MAX_NAME

__all__ = ["account_keys", "account_name"]

_SPELLINGS = (
    ("endpoint", "auth_url", "url", "base_url"),
    ("regionname", "region_name", "region"),
    ("accesskey", "access_key", "access_key_id", "key"),
    ("secretkey", "secret_key", "secret_access_key", "secret"),
    ("username", "user", "email"),
    ("password", "secret"),
    ("email", "username", "user"),
    ("id", "application_credential_id"),
    ("secret", "application_credential_secret"),
)
"""How the ancestor spells a key, and how drivers do, the more telling name first."""


def account_name(label: str) -> str:
    """The label with a hyphen for each character that no account's name may have: ``lab_cloud`` is ``lab-cloud``."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in label)[:MAX_NAME]


def account_keys(plugin: DriverPlugin) -> Mapping[str, str]:
    """Key of a resource section or of ``auth_data`` -> the account's option it is. The plug-in says so itself, or its
    options are recognised by their names."""
    if isinstance(plugin, AccountDescriber):
        return plugin.account_keys
    known = {field.encode_name for field in msgspec.structs.fields(plugin.account_options)}
    found = {name: name for name in known}
    for spelling, *others in _SPELLINGS:
        option = next((other for other in others if other in known), None)
        if spelling not in found and option is not None:
            found[spelling] = option
    return found
