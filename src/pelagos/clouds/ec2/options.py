"""The keys of an account and of a resource section with ``type: ec2``.

The first keys of a resource are those of the reference (section 4.7); what follows them is ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["Ec2Account", "Ec2Firewall", "Ec2KeyPair", "Ec2Resource", "Ec2Rule", "Ec2Volume", "plain_tags", "region_of"]

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
TagValue = str | int | float | bool
DEFAULT_REGION = "us-east-1"
_AMAZON = ".amazonaws.com"


class Ec2Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: ec2``: a key, an endpoint and one region."""

    access_key: Secret
    secret_key: Secret
    session_token: Secret = ""
    """Of temporary credentials."""
    endpoint: str = ""
    """URL of the service; its scheme decides on TLS. Default: Amazon's, of the region."""
    region: str = ""
    """Default: as the endpoint says, if it is one of Amazon's, else us-east-1."""
    signature_version: Literal["2", "4", 2, 4] = "4"
    """2 for services that know nothing newer."""
    tags_at_creation: bool | None = None
    """Whether the service takes tags in the create call; if not, servers are found by their client token, and are
    tagged with their name afterwards. Default: unless the signature's version is 2."""
    ca_file: str = ""
    """Certificates that the endpoint's is trusted by, in place of the system's."""
    image_owners: tuple[str, ...] = ("self",)
    """Whose images ``images`` lists: account ids, ``self``, ``amazon``. None: all there are, which may be very many."""
    updates: frozenset[Literal["security_group_ids"]] = frozenset({"security_group_ids"})
    """Resource keys that are changed on instances that are there, so that another value makes none anew."""
    threads: Positive = 8
    """Calls at once; each has a thread and a connection."""
    stuck_limit: Annotated[int, msgspec.Meta(ge=0)] = 4
    """So many calls that do not come back, and no more are sent until one does; 0: all threads."""
    create_timeout: Seconds = 60.0
    call_timeout: Seconds = 30.0
    build_timeout: Seconds = 900.0
    """How long an instance may stay pending."""
    poll_interval: Seconds = 5.0
    """Longest pause between two listings while an instance changes its state."""
    settle: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long after a call the cloud may not show its effect yet."""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("`endpoint` is a URL that begins with http:// or https://")
        if self.create_timeout > self.build_timeout:
            raise ValueError("`create_timeout` is above `build_timeout`")
        if self.poll_interval > self.build_timeout:
            raise ValueError("`poll_interval` is above `build_timeout`")

    @property
    def tagged(self) -> bool:
        """Whether tags go with the create call."""
        return str(self.signature_version) != "2" if self.tags_at_creation is None else self.tags_at_creation

    def __repr__(self) -> str:
        return f"Ec2Account(endpoint={self.endpoint!r}, region={self.region!r})"


class Ec2Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A volume besides the image's own, made before the server and attached to it."""

    size: Positive | None = None
    """GiB; may be left out with ``snapshot_id``."""
    device: str = ""
    """Default: /dev/sdf, /dev/sdg and so on, as they are listed."""
    type: str = ""
    """gp3, io2, st1, ...; default: the cloud's."""
    iops: Positive | None = None
    throughput: Positive | None = None
    """MiB a second."""
    encrypted: bool = False
    snapshot_id: str = ""
    keep: bool = False
    """It stays when the server is deleted."""

    def __post_init__(self) -> None:
        if self.size is None and not self.snapshot_id:
            raise ValueError("a volume needs `size`, or `snapshot_id`")


class Ec2Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a security group lets in."""

    protocol: Literal["tcp", "udp", "icmp", "all"] = "tcp"
    ports: Annotated[int, msgspec.Meta(ge=0, le=65535)] | str = ""
    """A port, or a range such as 8000-8010; nothing: all."""
    cidr: str = "0.0.0.0/0"

    def __post_init__(self) -> None:
        self.range()

    def range(self) -> tuple[int, int]:
        """First and last port. Raises ValueError for what is no range."""
        text = str(self.ports)
        if not text or self.protocol in ("icmp", "all"):
            return (-1, -1) if self.protocol in ("icmp", "all") else (0, 65535)
        first, hyphen, last = text.partition("-")
        if not hyphen:
            last = first
        if not (first.isdigit() and last.isdigit()) or not 0 <= int(first) <= int(last) <= 65535:
            raise ValueError(f"`ports` is a port or a range such as 8000-8010, not {text!r}")
        return int(first), int(last)


class Ec2Firewall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A security group that is the server's own: made before it and deleted after it."""

    ingress: tuple[Ec2Rule, ...] = ()
    description: str = ""
    vpc_id: str = ""
    """Default: the subnet's, or the default one."""


class Ec2KeyPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key pair that is imported if there is none of that name, and deleted with the last instance that uses it."""

    name: str
    public_key: str
    """As in an ``authorized_keys`` file."""


class Ec2Resource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: ec2``, less ``type``, ``name`` and ``endpoint``."""

    regionname: str
    image_id: str
    instance_type: str
    key_name: str = ""
    subnet_id: str = ""
    security_group_ids: tuple[str, ...] = ()
    tags: dict[str, TagValue] | tuple[dict[str, TagValue], ...] = {}
    """A mapping, or a list of mappings."""

    security_groups: tuple[str, ...] = ()
    """By name; for the default network."""
    availability_zone: str = ""
    public_address: bool | None = None
    """Whether it gets a public address of the cloud's choice; default: as the subnet says."""
    elastic_ip: bool = False
    """It gets a public address of its own, which is released after it."""
    volumes: tuple[Ec2Volume, ...] = ()
    key_pair: Ec2KeyPair | None = None
    security_group: Ec2Firewall | None = None
    root_volume_size: Positive | None = None
    """GiB; default: as the image says."""
    root_volume_type: str = ""
    iam_instance_profile: str = ""
    """Name or ARN."""
    ebs_optimized: bool = False
    placement_group: str = ""
    spot: bool = False
    spot_max_price: float | None = None
    """US dollars an hour; default: the price on demand."""
    extra: dict[str, TagValue] = {}
    """Parameters of RunInstances that are not here, by their names in Amazon's reference."""

    def __post_init__(self) -> None:
        if self.key_name and self.key_pair is not None:
            raise ValueError("give one of `key_name` and `key_pair`")
        if self.security_groups and (self.subnet_id or self.security_group_ids or self.security_group):
            raise ValueError("`security_groups` names groups of the default network: give `security_group_ids`")
        taken = sorted(key for key in self.extra if key.split(".")[0] in _OURS)
        if taken:
            raise ValueError(f"`extra` holds what other keys are for: {', '.join(taken)}")
        plain_tags(self.tags)


_OURS = frozenset(
    {
        *("Action", "Version", "MinCount", "MaxCount", "ClientToken", "TagSpecification", "UserData", "ImageId"),
        *("InstanceType", "KeyName", "SubnetId", "SecurityGroupId", "SecurityGroup", "DryRun"),
    }
)


def plain_tags(tags: dict[str, TagValue] | tuple[dict[str, TagValue], ...]) -> dict[str, str]:
    """One mapping of texts. Raises ValueError for tags that no cloud takes."""
    merged: dict[str, TagValue] = {}
    for one in [tags] if isinstance(tags, dict) else tags:
        merged.update(one)
    plain = {
        key: ("true" if value else "false") if isinstance(value, bool) else str(value) for key, value in merged.items()
    }
    for key, value in plain.items():
        if not key or len(key) > 128 or len(value) > 256:
            raise ValueError(f"the tag {key[:40]!r} is too long: 128 characters for a key, 256 for a value")
        if key.lower().startswith(("aws:", "pelagos:")):
            raise ValueError(f"the tag {key!r} begins with a prefix that is not for users")
    return plain


def region_of(endpoint: str, named: str) -> str:
    """The region of an account: as named, else as an endpoint of Amazon's says (``ec2.eu-west-1.amazonaws.com``)."""
    if named:
        return named
    host = endpoint.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    if host.endswith((_AMAZON, f"{_AMAZON}.cn")):
        parts = host.split(".")
        if len(parts) >= 4 and parts[0] == "ec2":
            return parts[1]
    return DEFAULT_REGION
