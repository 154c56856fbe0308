"""Ctrl+C in a command that changes things: the first asks for an orderly end, the second leaves at once.

The default (KeyboardInterrupt wherever the main thread is, or the cancelling of the main task by asyncio's runner) must
not happen here: in embedded mode the services that have to roll the run back live in this very process. SIGTERM counts
as one Ctrl+C. SIGHUP keeps its default.

Plain ``signal.signal`` rather than the loop's ``add_signal_handler``: the second Ctrl+C has to work too when the loop
itself is stuck, which is when people press it twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

from pelagos.cli.exits import Exit

__all__ = ["Interrupts"]

_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """``with Interrupts() as interrupts``: ``interrupts.asked`` is set by the first signal; ``last_words`` (set
    them as soon as there is something to say) are written by the second one, which ends the process."""

    def __init__(self, last_words: str = "") -> None:
        self.asked = asyncio.Event()
        self.last_words = last_words
        self._before: dict[signal.Signals, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self.asked.set)
            return
        self._leave()

    def _leave(self) -> None:
        """End as kill -9 would, which the journal allows at any moment, after the last words."""
        text = (_SHOW_CURSOR if os.isatty(2) else b"") + f"\n{self.last_words}\n".encode()
        try:
            os.write(2, text)
        finally:
            os._exit(int(Exit.INTERRUPTED))
