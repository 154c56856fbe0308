"""The composition root. See README.md. Names are imported at first use: most commands need a part of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
