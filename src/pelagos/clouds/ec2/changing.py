"""What of an instance that runs is changed in place: the security groups that it is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pelagos.clouds.ec2.client import Ec2Client, filters, items, text
from pelagos.clouds.ec2.replies import TOKEN_TAG
from pelagos.clouds.errors import CloudRejected

__all__ = ["GROUPS", "change_groups", "groups_of"]

GROUPS = "security_group_ids"
"""The key of a resource."""


def groups_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups that ``values`` mean. Raises CloudRejected."""
    try:
        return msgspec.convert(values.get(GROUPS) or (), tuple[str, ...])
    except msgspec.ValidationError as error:
        raise CloudRejected(f"`{GROUPS}` is wrong: {error}") from error


def change_groups(client: Ec2Client, instance: Any, wanted: tuple[str, ...]) -> None:
    """Put an instance (its element) into these groups, and into that which was made for it alone, if there is one.

    Raises CloudRejected where none would be left: EC2 would take that for nothing said."""
    there = [text(group, "groupId") for group in items(instance, "groupSet")]
    own: list[str] = []
    if there:
        ours = filters({"group-id": there, "tag-key": TOKEN_TAG})
        found = [
            item for root in client.pages("DescribeSecurityGroups", ours) for item in items(root, "securityGroupInfo")
        ]
        own = [text(item, "groupId") for item in found]
    groups = list(dict.fromkeys((*wanted, *own)))
    if not groups:
        raise CloudRejected(
            "an instance is in one security group at least", advice=f"Name one in `{GROUPS}`, or have it made anew."
        )
    params = {f"GroupId.{number}": group for number, group in enumerate(groups, 1)}
    client.call("ModifyInstanceAttribute", {"InstanceId": text(instance, "instanceId"), **params}, effect=True)
