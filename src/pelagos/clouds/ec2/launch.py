"""The parameters of RunInstances for a server, and what they need beforehand. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

import msgspec

from pelagos.clouds.ec2.client import Params
from pelagos.clouds.ec2.options import Ec2Resource, plain_tags
from pelagos.clouds.ec2.replies import CLIENT_TOKEN_PREFIX, KEY_PAIR_TAG, TOKEN_TAG
from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.values import ServerSpec

__all__ = ["USER_DATA_LIMIT", "client_token", "resource_of", "run_instances", "tag_specification", "token_tags"]

USER_DATA_LIMIT = 16_384
"""Bytes, before they are encoded (Amazon EC2 User Guide, *Run commands when you launch an EC2 instance*)."""
_CLIENT_TOKEN_LIMIT = 64
_MOST_TAGS = 50
_INFO_TAG = "pelagos:"


def resource_of(spec: ServerSpec, region: str, *, tagged: bool = True) -> Ec2Resource:
    """The resource keys of a spec. Raises CloudRejected for what this account will never take.

    ``tagged``: whether its service takes tags with the calls that make things."""
    options = {**spec.options, "regionname": spec.options.get("regionname") or region}
    try:
        resource = msgspec.convert(options, Ec2Resource, strict=False)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of `type: ec2`.") from error
    if resource.regionname != region:
        raise CloudRejected(
            f"the resource is for the region {resource.regionname}, and the account's is {region}",
            advice="Name an account of that region in the resource, or add one to the pool with that `region`.",
        )
    if not tagged and (resource.volumes or resource.elastic_ip or resource.security_group or resource.key_pair):
        raise CloudRejected(
            "this service takes no tags with a call, and what is made without one could be lost",
            advice="Leave out `volumes`, `elastic_ip`, `security_group` and `key_pair`; name what is there already.",
        )
    size = len(spec.user_data.encode())
    if size > USER_DATA_LIMIT:
        raise CloudRejected(
            f"the user data has {size} bytes, and EC2 takes {USER_DATA_LIMIT}",
            advice="Shorten the context, or let it fetch the rest from somewhere.",
        )
    return resource


def client_token(token: str) -> str:
    """The idempotency token of a call: at most 64 ASCII characters, and recognised as ours."""
    plain = f"{CLIENT_TOKEN_PREFIX}{token}"
    if len(plain) <= _CLIENT_TOKEN_LIMIT and plain.isascii():
        return plain
    return hashlib.sha256(token.encode()).hexdigest()


def token_tags(name: str, token: str, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tags of what a call makes: its name, the token, and what of the metadata fits into a tag."""
    told = {f"{_INFO_TAG}{key}": value[:256] for key, value in (metadata or {}).items() if value and len(key) <= 100}
    return {"Name": name, **told, TOKEN_TAG: token}


def tag_specification(kind: str, tags: Mapping[str, str], number: int = 1) -> Params:
    """``TagSpecification`` parameters: tags that a thing has from its first moment on."""
    params = {f"TagSpecification.{number}.ResourceType": kind}
    for place, (key, value) in enumerate(tags.items(), 1):
        params[f"TagSpecification.{number}.Tag.{place}.Key"] = key
        params[f"TagSpecification.{number}.Tag.{place}.Value"] = value
    return params


def run_instances(
    spec: ServerSpec,
    resource: Ec2Resource,
    token: str,
    *,
    zone: str = "",
    firewall: str = "",
    root_device: str = "",
    tagged: bool = True,
) -> Params:
    """``zone``: where its volumes are; ``firewall``: id of its own security group; ``root_device``: of its image, if
    the root volume is to differ; ``tagged``: whether the service takes tags with the call."""
    tags = {**plain_tags(resource.tags), **token_tags(spec.name, token, spec.metadata)}
    if resource.key_pair is not None:
        tags[KEY_PAIR_TAG] = resource.key_pair.name
    if len(tags) > _MOST_TAGS:
        raise CloudRejected(f"the server would have {len(tags)} tags, and EC2 takes {_MOST_TAGS}")
    params: Params = {
        "ImageId": resource.image_id,
        "InstanceType": resource.instance_type,
        "MinCount": "1",
        "MaxCount": "1",
        "ClientToken": client_token(token),
    }
    if not tagged and not params["ClientToken"].startswith(CLIENT_TOKEN_PREFIX):
        raise CloudRejected("the service takes no tags with a create, and the token is too long for a client token")
    if tagged:
        params |= tag_specification("instance", tags)
        params |= tag_specification("volume", {"Name": spec.name, f"{_INFO_TAG}server": token}, 2)
    if spec.user_data:
        params["UserData"] = base64.b64encode(spec.user_data.encode()).decode()
    params |= _network(resource, firewall)
    if resource.root_volume_size or resource.root_volume_type:
        params["BlockDeviceMapping.1.DeviceName"] = root_device
        params["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] = "true"
        if resource.root_volume_size:
            params["BlockDeviceMapping.1.Ebs.VolumeSize"] = str(resource.root_volume_size)
        if resource.root_volume_type:
            params["BlockDeviceMapping.1.Ebs.VolumeType"] = resource.root_volume_type
    profile = resource.iam_instance_profile
    key_name = resource.key_pair.name if resource.key_pair is not None else resource.key_name
    optional = {
        "KeyName": key_name,
        "Placement.AvailabilityZone": resource.availability_zone or zone,
        "Placement.GroupName": resource.placement_group,
        "IamInstanceProfile.Arn": profile if profile.startswith("arn:") else "",
        "IamInstanceProfile.Name": "" if profile.startswith("arn:") else profile,
        "EbsOptimized": "true" if resource.ebs_optimized else "",
    }
    if resource.spot:
        optional["InstanceMarketOptions.MarketType"] = "spot"
        if resource.spot_max_price is not None:
            optional["InstanceMarketOptions.SpotOptions.MaxPrice"] = f"{resource.spot_max_price:g}"
    params |= {key: value for key, value in optional.items() if value}
    return {**params, **plain_tags(resource.extra)}


def _network(resource: Ec2Resource, firewall: str) -> Params:
    """Subnet, groups and public address: on the instance, or on its first interface where EC2 wants them there."""
    groups = [*resource.security_group_ids, *([firewall] if firewall else [])]
    params: Params = {f"SecurityGroup.{n}": name for n, name in enumerate(resource.security_groups, 1)}
    if resource.public_address is None:
        if resource.subnet_id:
            params["SubnetId"] = resource.subnet_id
        return params | {f"SecurityGroupId.{n}": group for n, group in enumerate(groups, 1)}
    interface = "NetworkInterface.1"
    params |= {
        f"{interface}.DeviceIndex": "0",
        f"{interface}.AssociatePublicIpAddress": "true" if resource.public_address else "false",
        f"{interface}.DeleteOnTermination": "true",
    }
    if resource.subnet_id:
        params[f"{interface}.SubnetId"] = resource.subnet_id
    return params | {f"{interface}.SecurityGroupId.{n}": group for n, group in enumerate(groups, 1)}
