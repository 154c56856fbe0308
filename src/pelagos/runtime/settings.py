"""All settings there are, with their defaults. How they are found and merged is in :mod:`pelagos.runtime.loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pelagos.clouds import AccountConfig
from pelagos.container import AgentSettings
from pelagos.services.notifications import SinkSettings

__all__ = ["BrokerSettings", "GuardSettings", "HttpSettings", "LogLevel", "Settings"]

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The edge. Sizes in bytes, times in seconds."""

    listen: str = ""
    """``address:port`` for TCP beside the socket; empty: the socket alone."""
    allow_remote: bool = False
    """Whether ``listen`` may be an address that other machines reach. There is no TLS: put a proxy before it."""
    hosts: tuple[str, ...] = ()
    """Names in the Host header that are admitted on TCP, beside the loopback's and the address itself."""
    origins: tuple[str, ...] = ()
    """Origins of pages, beside its own, whose requests are admitted on TCP."""
    token_lifetime: Seconds = 30 * 86_400.0
    """How long the token in ``<home>/token`` is valid; a start of the daemon makes a new one when it has ended."""
    body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 16 * 1024 * 1024
    command_timeout: Seconds = 60.0
    heartbeat: Seconds = 15.0
    drain: Seconds = 10.0
    """How long requests may take to end when the daemon stops."""


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the broker is reached, beside its URL. Times in seconds."""

    credential_file: str = ""
    """A file with user and password, separated by white space; goes before those of the URL."""
    vhost: str = ""
    """The virtual host; goes before that of the URL."""
    ca_file: str = ""
    """Authorities that may have signed the broker's certificate; empty: the operating system's."""
    certificate_file: str = ""
    """This client's certificate, if the broker asks for one."""
    key_file: str = ""
    """The key of that certificate."""
    verify: bool = True
    """Whether the broker's certificate is checked; turn it off only where nobody else listens."""
    heartbeat: Annotated[int, msgspec.Meta(ge=1)] = 15
    """Of the AMQP connection; after three of them in silence it counts as lost."""


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ends or reports a program that hangs. Seconds; 0 turns it off."""

    stall: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """How long the event loop may stand still before the log has a critical line with the place."""
    start: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    """How long the start of a daemon or container program may take; then it ends by force, with exit code 75."""
    stop: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How long a stop may take beyond ``http.drain`` and the shutdown times of all processes; then the same."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of the configuration file. Times in seconds."""

    home: Path = Path()
    """State directory; ``load_settings`` always fills it in, as an absolute path."""
    store: str = ""
    """``sqlite:///path`` or ``postgresql://…``; empty: SQLite in the home."""
    pool: tuple[AccountConfig, ...] = ()
    """Cloud accounts, a list or a mapping from their names; ``local`` is there without being named."""
    cloud_farm: str = ""
    """A file with the ``CLOUD_FARM`` mapping of the CRS4 Orchestrator, as YAML or JSON: more accounts of the pool."""
    auth_file: str = ""
    """An authentication file of Occopus, for clouds that node definitions name by their endpoints; empty: that of
    ``OCCOPUS_AUTH_DATA_PATH``, else ``~/.occopus/auth_data.yaml`` if it is there."""
    simulated: bool = False
    """Whether an account of the simulated cloud is there without being named."""
    commands: Literal["off", "allowed"] = "off"
    """Whether templates may run commands of this host (``cmd``)."""
    maintain_interval: Seconds = 10.0
    """Pause between two passes over an infrastructure that is kept alive."""
    health_interval: Seconds = 5.0
    """Pause between two health checks of one instance."""
    choose: Literal["ordered", "random", "weighted", "cheapest", "least_used"] = "ordered"
    """How an implementation is chosen for nodes whose type has several and whose policy does not say."""
    create_patience: Seconds = 300.0
    """How long a creation is tried that its cloud certainly has not made (it is away, limits its rate, cannot be
    entered), where the node's policy does not say. Then the node's next implementation is tried, or the run fails."""
    fallback_patience: Seconds = 60.0
    """The same where the node has another implementation that was not refused, if that is less."""
    retention_days: Annotated[float, msgspec.Meta(ge=0)] = 90.0
    """How long records of what is gone are kept."""
    log_level: LogLevel | None = None
    """Default: ``warning`` for commands, ``info`` for the daemon and for containers."""
    log_format: Literal["human", "json"] = "human"
    log_file_bytes: Annotated[int, msgspec.Meta(ge=65_536)] = 10 * 1024 * 1024
    log_files: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Files of the daemon's log that are kept, each of ``log_file_bytes``."""
    log_levels: dict[str, LogLevel] = {}
    """Levels of single packages, over ``log_level``: ``{exchange: debug, hello: info}``."""
    http: HttpSettings = HttpSettings()
    system: str = "pelagos"
    """Containers of one system, on one broker, share its services."""
    container_id: str = ""
    """Unique in the world, also over restarts; empty: made up at each start."""
    broker: str = ""
    """``amqp://`` or ``amqps://``; empty: the exchange is in memory, and the container alone. ``${NAME}`` in it is an
    environment variable, so that no password need be in the file."""
    broker_options: BrokerSettings = BrokerSettings()
    call_timeout: Seconds = 15.0
    """How long a call between processes waits that names no time-out."""
    dependency_timeout: Seconds = 15.0
    """How long a process waits, at its start, for services that it depends on; then its container's start fails."""
    apps: tuple[str, ...] = ()
    """Directories in which app files are looked for, after that of the file which names the app."""
    release: str = "pelagos"
    """What the daemon runs: a release or app by its name, or the path of its file."""
    app_config: dict[str, Any] = {}
    """What all processes of a container see as ``self.container.settings``; an app's ``config`` goes over it."""
    sinks: tuple[SinkSettings, ...] = ()
    """Who is told of events: webhooks, e-mail, commands. See the guide to notifications."""
    agent: AgentSettings = AgentSettings()
    """How containers announce themselves and judge the silence of others."""
    guards: GuardSettings = GuardSettings()
    """What watches over a daemon or container program that hangs."""
    interceptors: tuple[str | dict[str, Any], ...] = ()
    """The stack that messages pass, in the order of sending, each a name or a name with its options; empty: the default
    one, which signs what leaves this program."""
    keys: str = ""
    """Directory of this system's key ring; empty: ``keys/<system>`` in the home."""
    policy: str = ""
    """File of the rules that say who may do what; empty: only what is protected by itself is restricted. It goes into
    the interceptor ``policy``, which a list of ``interceptors`` then must have."""

    @property
    def store_target(self) -> str:
        """What the store is opened with."""
        return self.store or f"sqlite:///{self.home / 'pelagos.db'}"

    @property
    def app_directories(self) -> list[Path]:
        """Where app files are looked for."""
        return [Path(directory).expanduser() for directory in self.apps]

    @property
    def socket_path(self) -> Path:
        """Where the daemon of this home listens."""
        return self.home / "pelagos.sock"
