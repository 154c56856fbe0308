"""What can be set: the keys of ``type: openstack`` and ``type: nova`` resources, and the options of their accounts.

``nova`` takes exactly the keys that Occopus took (reference, section 4.7), ``openstack`` all that the driver can do.
Both mean one :class:`Wanted`, which is all that the driver looks at.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

__all__ = ["Network", "NovaResource", "OpenStackAccount", "OpenStackResource", "Wanted"]

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
"""Text that no message shows."""
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Size = Annotated[int, msgspec.Meta(ge=0)]


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A network to attach, as a mapping. With ``security_groups`` or ``port_security`` the port is made beforehand."""

    network: str
    """Name or id."""
    fixed_ip: str = ""
    """The address to have there; empty: the next free one."""
    security_groups: tuple[str, ...] | None = None
    """Names or ids, for this port alone; none given: those of the server."""
    port_security: bool | None = None
    """``false`` lets all traffic pass, also with foreign addresses (for routers)."""

    @property
    def needs_port(self) -> bool:
        """Whether nova cannot make such a port itself."""
        return self.security_groups is not None or self.port_security is not None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A server as the driver makes it."""

    image: str
    flavor: str
    networks: tuple[Network, ...] = ()
    key_name: str = ""
    security_groups: tuple[str, ...] = ()
    server_name: str = ""
    address: bool = False
    """A floating address is to be made for it."""
    address_network: str = ""
    volume_size: int | None = None
    """GiB; None: boots from the flavor's disk; 0: from a volume that nova makes."""
    volume_type: str = ""
    volume_persist: bool = False
    volume_availability_zone: str = ""
    availability_zone: str = ""
    config_drive: bool | None = None
    metadata: dict[str, str] = {}
    scheduler_hints: dict[str, str] = {}
    project_id: str = ""
    """Must be the account's, if given; the same goes for the region."""
    region_name: str = ""


class NovaResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: nova``."""

    project_id: str
    """The project that the account works in."""
    image_id: str
    flavor_name: str
    """Name or id."""
    user_domain_name: str = "Default"
    """The account's business; kept so that existing files pass."""
    region_name: str = ""
    """Must be the account's region, if given."""
    network_id: str = ""
    """None given: the project's only network."""
    key_name: str = ""
    security_groups: tuple[str, ...] = ()
    """Names or ids."""
    server_name: str = ""
    """Its name in the cloud; empty: a unique one."""
    floating_ip: bool | int | float | str | None = False
    """With any value but ``false``, an address is made for the server and deleted with it."""
    floating_ip_pool: str = ""
    """The external network of the address; implies one."""
    volume_size: Size | None = None
    """GiB of a boot volume; 0: one that the cloud makes, as large as the flavor's disk; none given: no volume."""
    volume_persist: bool = False
    """The boot volume stays when the server is deleted."""
    tenant_name: str = ""
    """Accepted, and without effect."""

    def wanted(self) -> Wanted:
        """In the driver's terms."""
        return Wanted(
            image=self.image_id,
            flavor=self.flavor_name,
            networks=(Network(network=self.network_id),) if self.network_id else (),
            key_name=self.key_name,
            security_groups=self.security_groups,
            server_name=self.server_name,
            address=self.floating_ip is not False or bool(self.floating_ip_pool),
            address_network=self.floating_ip_pool,
            volume_size=self.volume_size,
            volume_persist=self.volume_persist,
            project_id=self.project_id,
            region_name=self.region_name,
        )


class OpenStackResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: openstack``."""

    image: str
    """Name or id."""
    flavor: str
    """Name or id."""
    networks: tuple[str | Network, ...] = ()
    """Names or ids, or mappings (below); none given: the project's only network."""
    key_name: str = ""
    """A key pair of the account's user."""
    security_groups: tuple[str, ...] = ()
    """Names or ids; none given: ``default``."""
    server_name: str = ""
    """Its name in the cloud; empty: a unique one."""
    floating_ip: bool = False
    """An address is made for the server and deleted with it."""
    floating_ip_network: str = ""
    """Name or id of the external network of the address; implies one. None given: the only external network."""
    volume_size: Size | None = None
    """GiB of a boot volume; 0: one that the cloud makes, as large as the flavor's disk; none given: no volume."""
    volume_type: str = ""
    volume_persist: bool = False
    """The boot volume stays when the server is deleted."""
    volume_availability_zone: str = ""
    """Of the boot volume, where cinder has other zones than nova."""
    availability_zone: str = ""
    config_drive: bool | None = None
    """User data also on a drive, for networks without a metadata service."""
    metadata: dict[str, str] = {}
    """More metadata of the server; the keys that begin with ``pelagos_`` are ours."""
    scheduler_hints: dict[str, str] = {}
    """For example ``{group: id-of-a-server-group}``."""

    def __post_init__(self) -> None:
        ours = [key for key in self.metadata if key.startswith("pelagos_")]
        if ours:
            raise ValueError(f"`metadata` may not have {', '.join(sorted(ours))}: keys of `pelagos_` are ours")

    def wanted(self) -> Wanted:
        """In the driver's terms."""
        return Wanted(
            image=self.image,
            flavor=self.flavor,
            networks=tuple(Network(network=n) if isinstance(n, str) else n for n in self.networks),
            key_name=self.key_name,
            security_groups=self.security_groups,
            server_name=self.server_name,
            address=self.floating_ip or bool(self.floating_ip_network),
            address_network=self.floating_ip_network,
            volume_size=self.volume_size,
            volume_type=self.volume_type,
            volume_persist=self.volume_persist,
            volume_availability_zone=self.volume_availability_zone,
            availability_zone=self.availability_zone,
            config_drive=self.config_drive,
            metadata=self.metadata,
            scheduler_hints=self.scheduler_hints,
        )


class OpenStackAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An account's options with ``driver: openstack`` or ``driver: nova``.

    Either ``cloud``, or ``endpoint`` with a user or an application credential. What is given beside ``cloud`` goes
    before what the file says."""

    cloud: str = ""
    """Name of a cloud in ``clouds.yaml``."""
    clouds_file: str = ""
    """Path of that file; empty: ``OS_CLIENT_CONFIG_FILE``, else where OpenStack's own tools look."""

    endpoint: str = ""
    """The identity service, for example ``https://cloud.example:5000/v3``."""
    auth_url: str = ""
    """Another word for ``endpoint``."""
    username: str = ""
    password: Secret = ""
    user_domain_name: str = "Default"
    user_domain_id: str = ""
    """In place of the name."""
    project_id: str = ""
    """None given: the only project that the user has."""
    project_name: str = ""
    """In place of the id."""
    project_domain_name: str = ""
    """Of the project's name; empty: the user's."""
    project_domain_id: str = ""
    application_credential_id: str = ""
    application_credential_secret: Secret = ""
    type: Literal["", "password", "application_credential"] = ""
    """With ``application_credential``, ``id`` and ``secret`` are its id and secret, as in an auth file of Occopus."""
    id: str = ""
    secret: Secret = ""

    region: str = ""
    """None given: the cloud's only region, or its first."""
    region_name: str = ""
    """Another word for ``region``."""
    interface: Literal["", "public", "internal", "admin"] = ""
    """Which of each service's endpoints is used; none given: the file's, else ``public``."""
    endpoints: dict[str, str] = {}
    """Endpoints in place of the catalogue's: ``compute``, ``network``, ``block_storage``, ``image``."""
    cacert: str = ""
    """Path of the certificates that the cloud's own must be signed by; empty: the system's."""
    verify: bool = True
    """``false`` accepts any certificate."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Most calls to the cloud at once; each takes a thread."""
    socket_timeout: Seconds = 20.0
    """Longest silence of the cloud, in seconds; never longer than what is left of a call's time."""
    settle: Annotated[float, msgspec.Meta(ge=0)] = 15.0
    """Seconds after a create call's deadline in which its server may still appear."""
    create_timeout: Seconds = 60.0
    call_timeout: Seconds = 30.0
    build_timeout: Seconds = 900.0
    """How long a server may build, in seconds, before it counts as failed."""
    poll_interval: Seconds = 3.0

    def __post_init__(self) -> None:
        if self.cloud:
            return
        if not self.identity:
            raise ValueError("give `cloud`, the name of a cloud in clouds.yaml, or `endpoint`")
        if self.application_credential is None and not (self.username and self.password):
            raise ValueError(
                "give `username` and `password`, or `application_credential_id` and `application_credential_secret`"
            )

    def __repr__(self) -> str:
        return f"OpenStackAccount(cloud={self.cloud!r}, endpoint={self.identity!r})"

    @property
    def identity(self) -> str:
        """The identity service's URL, with its version."""
        url = (self.endpoint or self.auth_url).rstrip("/")
        return url if not url or url.rsplit("/", 1)[-1] in ("v3", "v2.0") else f"{url}/v3"

    @property
    def application_credential(self) -> tuple[str, str] | None:
        """Its id and secret, if both are given."""
        pair = (self.application_credential_id, self.application_credential_secret)
        if self.type == "application_credential" and not any(pair):
            pair = (self.id, self.secret)
        return pair if all(pair) else None

    def auth(self) -> dict[str, Any]:
        """The arguments of the identity service's plug-in that are given here."""
        if self.application_credential is not None:
            key, secret = self.application_credential
            given = {"application_credential_id": key, "application_credential_secret": secret}
        else:
            user_domain = _either("user_domain", self.user_domain_id, self.user_domain_name)
            project_domain = _either("project_domain", self.project_domain_id, self.project_domain_name)
            inherited = {key.replace("user_", "project_"): value for key, value in user_domain.items()}
            project: dict[str, str] = {}
            if self.project_id:
                project = {"project_id": self.project_id}
            elif self.project_name:
                project = {"project_name": self.project_name, **(project_domain or inherited)}
            user = {"username": self.username, "password": self.password, **user_domain} if self.username else {}
            given = {**user, **project}
        return {**({"auth_url": self.identity} if self.identity else {}), **given}


def _either(word: str, key: str, name: str) -> dict[str, str]:
    if key:
        return {f"{word}_id": key}
    return {f"{word}_name": name} if name else {}
