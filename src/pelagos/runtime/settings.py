"""All settings there are, with their defaults. How they are found and merged is in :mod:`pelagos.runtime.loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pelagos.clouds import AccountConfig

__all__ = ["HttpSettings", "LogLevel", "Settings"]

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


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of the configuration file. Times in seconds."""

    home: Path = Path()
    """State directory; ``load_settings`` always fills it in, as an absolute path."""
    store: str = ""
    """``sqlite:///path`` or ``postgresql://…``; empty: SQLite in the home."""
    pool: tuple[AccountConfig, ...] = ()
    """Cloud accounts; ``local`` is there without being named."""
    simulated: bool = False
    """Whether an account of the simulated cloud is there without being named."""
    commands: Literal["off", "allowed"] = "off"
    """Whether templates may run commands of this host (``cmd``)."""
    maintain_interval: Seconds = 10.0
    """Pause between two passes over an infrastructure that is kept alive."""
    health_interval: Seconds = 5.0
    """Pause between two health checks of one instance."""
    retention_days: Annotated[float, msgspec.Meta(ge=0)] = 90.0
    """How long records of what is gone are kept."""
    log_level: LogLevel | None = None
    """Default: ``warning`` for commands, ``info`` for the daemon."""
    log_format: Literal["human", "json"] = "human"
    log_file_bytes: Annotated[int, msgspec.Meta(ge=65_536)] = 10 * 1024 * 1024
    log_files: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Files of the daemon's log that are kept, each of ``log_file_bytes``."""
    http: HttpSettings = HttpSettings()

    @property
    def store_target(self) -> str:
        """What the store is opened with."""
        return self.store or f"sqlite:///{self.home / 'pelagos.db'}"

    @property
    def socket_path(self) -> Path:
        """Where the daemon of this home listens."""
        return self.home / "pelagos.sock"
