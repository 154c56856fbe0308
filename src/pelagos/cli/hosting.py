"""``container``: from its start to an orderly stop. What it does is the runtime's; its settings and its word of being
ready are ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pelagos.cli.exits import Exit
from pelagos.cli.session import settings_of

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.runtime import Settings
    from pelagos.runtime.hosting import HostReady

__all__ = ["host_until_stopped"]


def host_until_stopped(invocation: Invocation, files: tuple[str, ...], **options: Any) -> int:
    """Run a container; ``options`` are :func:`pelagos.runtime.hosting.host`'s. Answers 0 after an orderly stop."""
    from pelagos.runtime.hosting import host

    settings = settings_of(invocation)

    def again() -> Settings:
        return settings_of(invocation)

    with asyncio.Runner() as runner:
        runner.run(host(settings, files, ready=_say(invocation), world=invocation.world, again=again, **options))
    return Exit.OK


def _say(invocation: Invocation) -> Callable[[HostReady], None]:
    def ready(told: HostReady) -> None:
        if invocation.plain:
            apps = f" with {', '.join(told.apps)}" if told.apps else ""
            invocation.say(f"Container {told.container} of system {told.system} is ready{apps} ({told.broker}).")
        else:
            invocation.document(told, many=True)
        sys.stdout.flush()
        invocation.note("Ctrl+C stops.")

    return ready
