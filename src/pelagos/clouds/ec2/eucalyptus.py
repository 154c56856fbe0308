"""``type: eucalyptus``: the EC2 driver for Eucalyptus clouds, and others that speak EC2 as it was.

Signatures are of version 2, an endpoint must be given, and the create call takes no tags: a server is found by the
client token that made it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pelagos.clouds.ec2.options import Ec2Account, Ec2Resource
from pelagos.clouds.ec2.plugin import Ec2Plugin

__all__ = ["DRIVER", "EucalyptusAccount", "EucalyptusPlugin", "EucalyptusResource"]


class EucalyptusAccount(Ec2Account, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: eucalyptus``: those of ``ec2``, with other defaults."""

    endpoint: str
    """``https://host:8773/services/compute``, or ``/services/Eucalyptus`` of old."""
    signature_version: Literal["2", "4", 2, 4] = "2"
    tags_at_creation: bool | None = False
    image_owners: tuple[str, ...] = ()
    region: str = "eucalyptus"
    updates: frozenset[Literal["security_group_ids"]] = frozenset()


class EucalyptusResource(Ec2Resource, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: eucalyptus``: those of ``ec2``."""

    regionname: str = ""
    """Default: the account's."""


class EucalyptusPlugin(Ec2Plugin):
    """Opens accounts of Eucalyptus clouds."""

    name = "eucalyptus"
    resource: type[msgspec.Struct] = EucalyptusResource
    account_options: type[Ec2Account] = EucalyptusAccount


DRIVER = EucalyptusPlugin()
