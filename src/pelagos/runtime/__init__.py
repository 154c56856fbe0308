"""The composition root. See README.md. Names are imported at first use: most commands need a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos._lazy import lazy

if TYPE_CHECKING:
    from pelagos.runtime.home import daemon_pid
    from pelagos.runtime.loading import default_home, load_settings
    from pelagos.runtime.logs import configure_logs
    from pelagos.runtime.runtime import Runtime
    from pelagos.runtime.settings import HttpSettings, Settings

_HOME = {
    "HttpSettings": "settings",
    "Runtime": "runtime",
    "Settings": "settings",
    "configure_logs": "logs",
    "daemon_pid": "home",
    "default_home": "loading",
    "load_settings": "loading",
}

__all__ = [
    "HttpSettings",
    "Runtime",
    "Settings",
    "configure_logs",
    "daemon_pid",
    "default_home",
    "load_settings",
]

__getattr__ = lazy(__name__, _HOME)
