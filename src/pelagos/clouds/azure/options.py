"""The keys of an Azure account and of resource sections with ``type: azure_vm`` or ``azure_aci`` (reference 4.7)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pelagos.clouds.endpoints import endpoint_problem

__all__ = ["AzureAccount", "AzureAciResource", "AzureVmResource"]

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Named = Annotated[str, msgspec.Meta(pattern=r"\A(?!\.+\Z)[\w.()-]+\Z")]
"""A resource group, network or subnet."""
_PortText = Annotated[str, msgspec.Meta(pattern=r"\A\d{1,5}(/([Tt][Cc][Pp]|[Uu][Dd][Pp]))?\Z")]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)] | _PortText
_NETWORK_TYPES = ("public", "private")
_OS_TYPES = ("linux", "windows")


class AzureAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: azure_vm`` or ``azure_aci``: a service principal. Times in seconds."""

    tenant_id: str
    client_id: str
    client_secret: Secret
    subscription_id: Annotated[str, msgspec.Meta(pattern=r"\A[\w-]+\Z")]
    endpoint: str = "https://management.azure.com"
    """Azure Resource Manager; another one for a national cloud."""
    authority: str = "https://login.microsoftonline.com"
    """Where the service principal signs in."""
    create_timeout: Seconds = 120.0
    call_timeout: Seconds = 60.0
    build_timeout: Seconds = 1800.0
    poll_interval: Seconds = 10.0
    settle: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How long after a call Azure may not show its effect yet."""

    def __post_init__(self) -> None:
        problem = endpoint_problem(self.endpoint)
        if problem is not None:
            raise ValueError(problem)
        if not self.authority.startswith("https://"):
            raise ValueError("`authority` is a URL that begins with https://")
        if max(self.create_timeout, self.poll_interval) > self.build_timeout:
            raise ValueError("`create_timeout` and `poll_interval` may not be above `build_timeout`")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(subscription_id={self.subscription_id!r}, ...)"  # the others may be secrets


class AzureVmResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: azure_vm``, less ``type``, ``name`` and ``endpoint``."""

    resource_group: Named
    """Made where it is not there, and never deleted."""
    location: str
    vm_size: str
    publisher: str
    offer: str
    sku: str
    version: str
    """Of the marketplace's image; ``latest`` for the newest."""
    username: str
    """The machine's first user."""
    password: Secret = ""
    ssh_key_data: str = ""
    """A public key; where there is a password, that is used."""
    public_ip_needed: bool = False
    """The machine gets a public address, which is deleted with it."""
    vnet_name: Named | Literal[""] = ""
    """With ``subnet_name``: a network of the group. Left out, each machine has one of its own, deleted with it."""
    subnet_name: Named | Literal[""] = ""
    server_name: str = ""
    """What the machine calls itself."""
    customdata: str = ""
    """User data, where the contextualisation gives none."""
    security_group: Named | Literal[""] = ""
    """A network security group of the resource group. A public address without one lets nothing in."""

    def __post_init__(self) -> None:
        if not self.password and not self.ssh_key_data:
            raise ValueError("give one of `password` and `ssh_key_data`")
        _both(self.vnet_name, self.subnet_name)


class AzureAciResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: azure_aci``, less ``type``, ``name`` and ``endpoint``."""

    resource_group: Named
    """Made where it is not there, and never deleted."""
    location: str
    cpu_cores: Annotated[float, msgspec.Meta(gt=0)]
    memory: Annotated[float, msgspec.Meta(gt=0)]
    """GB."""
    image: str
    os_type: str
    """``Linux`` or ``Windows``, in any case."""
    network_type: str
    """``Public`` or ``Private``, in any case."""
    gpu_type: str = ""
    gpu_count: Annotated[int, msgspec.Meta(ge=1)] = 1
    ports: tuple[_Port, ...] = ()
    """``80`` or ``"53/UDP"``; a public container has at least one."""
    vnet_name: Named | Literal[""] = ""
    """As for machines; for private containers."""
    subnet_name: Named | Literal[""] = ""

    def __post_init__(self) -> None:
        if self.network_type.lower() not in _NETWORK_TYPES:
            raise ValueError("`network_type` must be Public or Private")
        if self.os_type.lower() not in _OS_TYPES:
            raise ValueError("`os_type` must be Linux or Windows")
        _both(self.vnet_name, self.subnet_name)
        if self.public and not self.ports:
            raise ValueError("a Public container needs `ports`")
        if self.public and self.vnet_name:
            raise ValueError("`vnet_name` is for Private containers")

    @property
    def public(self) -> bool:
        return self.network_type.lower() == "public"

    def port_list(self) -> list[dict[str, Any]]:
        """The ports in Azure's words."""
        pairs = [str(port).partition("/") for port in self.ports]
        return [{"port": int(number), "protocol": (protocol or "TCP").upper()} for number, _, protocol in pairs]


def _both(vnet: str, subnet: str) -> None:
    if bool(vnet) != bool(subnet):
        raise ValueError("`vnet_name` and `subnet_name` go together")
