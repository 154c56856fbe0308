"""The shell's connection, in a thread with a loop of its own.

The prompt's thread waits for its person most of the time, and a loop that does not run would notice neither a
container that went away nor what it is asked. So the connection lives in its own thread; the prompt's names hand it
work and wait, whether the prompt runs a loop or not. A connection that was lost is made again by the next use.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from pelagos.cli.system import System
from pelagos.container.messages import agent_of
from pelagos.exchange import Names
from pelagos.model.errors import DeadlineExceeded, Unavailable
from pelagos.process import Context

if TYPE_CHECKING:
    from pelagos.container.control.port import ContainerInfo, Control

__all__ = ["Remote"]

T = TypeVar("T")

_PROBE = 3.0


class Remote:
    """``connect`` makes a control; it is called in the thread's loop, at first and after each loss."""

    def __init__(self, connect: Callable[[], Awaitable[Control]]) -> None:
        self._connect = connect
        self._control: Control | None = None
        self._info: ContainerInfo | None = None
        self._lock = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pelagos-shell", daemon=True)
        self._thread.start()

    @property
    def info(self) -> ContainerInfo:
        """Of the container that is, or was last, at the other end; connects if none was yet."""
        if self._info is None:
            self.run(_look)
        assert self._info is not None
        return self._info

    @property
    def was_connected(self) -> bool:
        return self._info is not None

    @property
    def caller(self) -> Remote:
        """As :class:`pelagos.container.control.port.RemoteCaller`, for clients."""
        return self

    @property
    def names(self) -> Names:
        return Names(self.info.id, self.info.system)

    async def call(
        self,
        address: str,
        op: str,
        content: bytes,
        decode: Callable[[bytes], Any],
        timeout: float | None,
        context: Context | None,
    ) -> Any:
        """A client's call, from the prompt's loop."""
        return await self.work(
            lambda system: system.control.caller.call(address, op, content, decode, timeout, context)
        )

    async def work(self, question: Callable[[System], Awaitable[T]]) -> T:
        """Ask from a coroutine of the prompt's loop."""
        return await asyncio.wrap_future(self._hand_over(question))

    def run(self, question: Callable[[System], Awaitable[T]]) -> T:
        """Ask and wait; Ctrl+C gives up."""
        future = self._hand_over(question)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """End the connection and the thread. Idempotent."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _hand_over(self, question: Callable[[System], Awaitable[T]]) -> Future[T]:
        work: Coroutine[Any, Any, T] = self._ask(question)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, question: Callable[[System], Awaitable[T]]) -> T:
        control = await self._connected()
        try:
            return await question(System(control))
        except Unavailable as error:
            if await self._lives(control):
                raise
            await self._drop(control)
            error.advice = "The next line connects again, to any container of the system that runs here."
            raise

    async def _connected(self) -> Control:
        async with self._lock:
            if self._control is None:
                self._control = await self._connect()
                self._info = self._control.info
            return self._control

    async def _lives(self, control: Control) -> bool:
        """Whether it is the container that went away, or only what it was asked for."""
        try:
            await control.call(agent_of(control.info.id), "ping", timeout=_PROBE)
        except (Unavailable, DeadlineExceeded):
            return False
        return True

    async def _drop(self, control: Control | None = None) -> None:
        if self._control is not None and control in (None, self._control):
            lost, self._control = self._control, None
            await lost.close()


async def _look(system: System) -> None:
    """Being connected is all."""
