"""``serve``: the daemon, from its start to an orderly stop. What it does is the runtime's; its settings are ours."""

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

__all__ = ["serve_until_stopped"]


def serve_until_stopped(invocation: Invocation, *, allow_remote: bool = False, **options: Any) -> int:
    """Serve; ``options`` are :func:`pelagos.runtime.serve.serve`'s. Answers 0 after an orderly stop. Raises Conflict if
    a daemon serves this home already."""
    from pelagos.runtime.serve import serve

    overrides: dict[str, Any] = {"http": {"allow_remote": True}} if allow_remote else {}
    settings = settings_of(invocation, **overrides)

    def again() -> Settings:
        return settings_of(invocation, **overrides)

    with asyncio.Runner() as runner:
        runner.run(serve(settings, ready=_say(invocation), world=invocation.world, again=again, **options))
    return Exit.OK


def _say(invocation: Invocation) -> Callable[[tuple[str, ...]], None]:
    def ready(addresses: tuple[str, ...]) -> None:
        if invocation.plain:
            for address in addresses:
                invocation.say(address)
        else:
            invocation.document({"addresses": addresses}, many=True)
        sys.stdout.flush()
        invocation.note("Serving. Ctrl+C stops." if addresses else "Serving, without an HTTP API. Ctrl+C stops.")

    return ready
