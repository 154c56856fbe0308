"""Accounts that nobody configured: a resource section says which cloud it means, an authentication file how to enter.

In the ancestor that is all there is: each operation looks for credentials that fit the node's section. Here each
distinct cloud that sections mean (type, endpoint, what else decides which account it is, and the entry of the
authentication file) is an account of the pool, so that its servers share one driver, one pacer and one worker.

Such an account must be found again by its name, years later and in another process: the name is made of what it means,
and what it means (no secrets) is journaled with each server (``ServerSpec.account``). The credentials are looked up
by the entry's filter whenever the account is opened; so rotating a key changes neither name nor account.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pelagos.clouds.authfile import AuthFile
from pelagos.clouds.errors import CloudAuthFailed
from pelagos.clouds.labels import option_names
from pelagos.clouds.port import DriverPlugin

__all__ = ["DescribedAccount"]

_HOST = re.compile(r"[^a-z0-9]+")


class DescribedAccount(msgspec.Struct, frozen=True):
    """What an account is that a resource section means; no secrets."""

    type: str
    section: dict[str, Any] = {}
    """The keys of the resource section that say which account it is, ``endpoint`` among them."""
    entry: dict[str, Any] | None = None
    """Filter of the entry in the authentication file; None: there are no credentials."""

    @property
    def endpoint(self) -> str:
        return str(self.section.get("endpoint", ""))

    @property
    def name(self) -> str:
        """Stable and readable: ``ec2-eu-west-1-amazonaws-com-5d0c31f7``."""
        try:
            host = urlsplit(self.endpoint).netloc.rpartition("@")[2] or self.endpoint
        except ValueError:
            host = self.endpoint
        told = _HOST.sub("-", f"{self.type}-{host.removeprefix(f'{self.type}.')}".lower())[:54].strip("-")
        parts = [self.type, {**self.section, "endpoint": self.endpoint.rstrip("/").lower()}, self.entry]
        digest = hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
        return f"{told}-{digest[:8]}"

    def options(self, plugin: DriverPlugin, auth: AuthFile | None) -> dict[str, Any]:
        """What the driver is given, credentials and all. Blocks on the disk. Raises CloudAuthFailed if the entry is
        there no more, and what reading the file raises."""
        names = option_names(plugin)
        options = {names[key]: value for key, value in self.section.items() if key in names}
        if self.entry is None:
            return options
        found = auth.with_filter(self.entry) if auth is not None else None
        if found is None:
            where = (
                f"the authentication file {auth.path} has no" if auth is not None else "no authentication file has an"
            )
            raise CloudAuthFailed(
                f"{where} entry for {self.entry or 'everything'} any more, which the account {self.name!r} was made of",
                advice="Put the entry back, or add an account of that name to the pool.",
            )
        for key, value in found.auth_data.items():
            options[names.get(key, key)] = value
        return options
