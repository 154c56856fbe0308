"""What a person may say about containers: the ``resource`` section of a node, the options of an account."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["DockerAccount", "DockerHealth", "DockerResource", "DockerTls", "RegistryLogin"]

_Image = Annotated[str, msgspec.Meta(pattern=r"\A([\w.-]+:\d+/)?[a-z0-9]+([._/-]+[a-z0-9]+)*\Z")]
_Tag = Annotated[str, msgspec.Meta(pattern=r"\A\w[\w.-]{0,127}\Z")]
_HOST = r"(localhost(:\d+)?|\[[\da-fA-F:]+\](:\d+)?|[\w.-]+:\d+|[\w-]+(\.[\w-]+)+)"
_Origin = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"\A(|local|dockerhub|(https?|file)://.+|{_HOST}(/.*)?)\Z",
        description="dockerhub, local, a registry's name (registry.example.com/group, localhost:5000) or the URL of a"
        " tarball (http, https, file)",
    ),
]
_Port = Annotated[str, msgspec.Meta(pattern=r"\A((\d{1,3}(\.\d{1,3}){3}:)?\d{0,5}:)?\d{1,5}(/(tcp|udp|sctp))?\Z")]
_Volume = Annotated[str, msgspec.Meta(pattern=r"\A(/[^:]*|(/[^:]*|[a-zA-Z0-9][\w.-]*):/[^:]*(:(ro|rw))?)\Z")]
_Limit = Annotated[str, msgspec.Meta(pattern=r"\A-?\d+(:-?\d+)?\Z")]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Directory = Annotated[str, msgspec.Meta(pattern=r"\A/")]


class DockerHealth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A health check that the engine makes inside the container."""

    command: str | tuple[str, ...]
    """Text runs in the container's shell; a list is a command and its arguments. Exit code 0: healthy."""
    interval: _Positive = 30.0
    """Seconds between two checks."""
    timeout: _Positive = 30.0
    """Seconds after which a check counts as failed."""
    retries: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Failures in a row that make the container unhealthy."""
    start_period: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds at the beginning in which failures do not count."""


class DockerResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``resource`` section of a node on a ``docker`` cloud."""

    image: _Image
    """Name of the image, without its tag; and without its registry, unless its origin is ``local``."""
    tag: _Tag = "latest"
    origin: _Origin = "dockerhub"
    """Where the image comes from: ``dockerhub``; ``local``, as it is on the engine; a registry's name,
    ``registry.example.com:5000/group``; or the tarball of a root file system, ``https://.../image.tar`` or
    ``file:///.../image.tar``."""
    entrypoint: tuple[str, ...] = ()
    """In place of the image's own."""
    user: str = ""
    """Who runs the command, ``name`` or ``uid:gid``; empty: as the image says."""
    ports: tuple[_Port | Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Published ports: ``8080:80``, ``127.0.0.1:8080:80/tcp``, or ``80`` for a free port of the engine's host."""
    volumes: tuple[_Volume, ...] = ()
    """``/data`` (anonymous, deleted with the container), ``name:/data`` (kept), or ``/srv/data:/data:ro`` (a directory
    of the engine's host, if the account's ``mounts`` allow it)."""
    network: Literal["group", "default", "none"] = "group"
    """``group``: a network of the infrastructure's own, where its nodes know one another by name; ``default``: the
    engine's; ``none``: no address at all."""
    networks: tuple[str, ...] = ()
    """More networks of the engine, which must be there."""
    cpus: _Positive | None = None
    """Most processors' worth of time, for example 0.5."""
    memory_mb: Annotated[int, msgspec.Meta(ge=6)] | None = None
    """Most memory in MiB."""
    pids: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Most processes and threads."""
    ulimits: dict[str, int | _Limit] = {}
    """``nofile: 1024`` or, soft and hard, ``nofile: "1024:4096"``."""
    health: DockerHealth | Literal["image", "none"] = "image"
    """The engine's health check: the image's own, none, or this one. What it finds is the state of the server."""
    description: str = ""


class DockerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of a resource that can be changed on a container that is there, as in :class:`DockerResource`."""

    cpus: _Positive | None = None
    memory_mb: Annotated[int, msgspec.Meta(ge=6)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=1)] | None = None


class DockerTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a ``tcp://`` endpoint is trusted, and how it trusts us. Paths of PEM files."""

    ca: _Directory | None = None
    """Whose signature the engine's certificate must bear; none: those that this machine trusts."""
    cert: _Directory | None = None
    key: _Directory | None = None
    verify: bool = True
    """Whether the engine's certificate is checked at all."""


class RegistryLogin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who pulls from a registry."""

    username: str
    password: str


class DockerAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a ``docker`` account: an engine."""

    endpoint: Annotated[str, msgspec.Meta(pattern=r"\A(unix://.+|tcp://[^/]+|https?://[^/]+)")] = (
        "unix:///var/run/docker.sock"
    )
    """``unix:///path`` or ``tcp://host:port``."""
    tls: DockerTls | None = None
    registries: dict[str, RegistryLogin] = {}
    """By host as in ``origin``, ``registry.example.com:5000``; Docker Hub's is ``docker.io``."""
    scope: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]*([._-][a-z0-9]+)*\Z", max_length=40)] = ""
    """Keeps apart the containers of several installations of Pelagos that share an engine: each has one of its own."""
    address: str = ""
    """Where others reach ports that this engine's containers publish; told as their first address."""
    mounts: tuple[_Directory, ...] = ()
    """Directories of the engine's host that descriptions may mount, with all below them; none: no directory."""
    tarballs: tuple[_Directory, ...] = ()
    """Directories of this machine out of which descriptions may import images (``origin: file://...``)."""
    updates: frozenset[Literal["cpus", "memory_mb", "pids"]] = frozenset()
    """Limits that this engine changes on a container that is there, so that another value makes none anew. Docker keeps
    them; podman 4 forgets them when the container is started again."""
    create_timeout: _Positive = 120.0
    """Deadline of one create call, in seconds. If its image takes longer, the create is sent again later."""
    call_timeout: _Positive = 30.0
    """Deadline of any other call, in seconds."""
    pull_timeout: _Positive = 1800.0
    """Longest that a pull or an import may take, in seconds."""
    settle: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """Seconds after a create's deadline in which a slow engine may still make the container."""
    stop_grace: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    """Seconds between SIGTERM and SIGKILL when a server is stopped."""
