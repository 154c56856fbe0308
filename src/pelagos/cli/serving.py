"""``serve``: the daemon, from its start to an orderly stop by Ctrl+C or SIGTERM."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pelagos.cli.exits import Exit
from pelagos.cli.interrupts import Interrupts
from pelagos.cli.session import settings_of

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation

__all__ = ["serve_until_stopped"]


def serve_until_stopped(invocation: Invocation, listen: str | None) -> int:
    """Serve; answers 0 after an orderly stop. Raises Conflict if a daemon serves this home already."""
    overrides: dict[str, Any] = {"http": {"listen": listen}} if listen else {}
    settings = settings_of(invocation, **overrides)

    async def whole() -> int:
        from pelagos.runtime import Runtime

        with Interrupts("Left at once; the next one takes up what was under way.") as interrupts:
            async with Runtime(settings, world=invocation.world, mode="serve"):
                invocation.note(f"Serving {settings.directory} at {settings.socket_path}. Ctrl+C stops.")
                await interrupts.asked.wait()
                invocation.note("Stopping.")
        return Exit.OK

    with asyncio.Runner() as runner:
        return runner.run(whole())
