"""``ping``: the question that every process answers, asked some times, with the time that each answer took."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING

import msgspec

from pelagos.cli.exits import Exit
from pelagos.model.errors import DeadlineExceeded, PelagosError, Unavailable

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.system import System

__all__ = ["PingReport", "ping_address", "ping_once"]

_AGAIN = 0.1
"""Seconds after which somebody who does not live yet is asked again."""


class PingReport(msgspec.Struct, frozen=True):
    """Times in milliseconds, in the order of asking; None for no answer."""

    address: str
    times: tuple[float | None, ...]
    error: str = ""
    """Why the last unanswered one was not."""

    @property
    def answered(self) -> int:
        return sum(time is not None for time in self.times)


async def ping_once(system: System, address: str, timeout: float) -> float:
    """Milliseconds until the answer. Raises what the call raises."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await system.control.call(address, "ping", timeout=timeout)
    return (loop.time() - start) * 1000


async def ping_address(
    invocation: Invocation,
    system: System,
    address: str,
    *,
    count: int,
    wait: float,
    timeout: float,
    interval: float,
) -> int:
    """Ask, tell each time, sum up; answers the exit code. ``wait``: seconds until the first answer must be there.

    SIGTERM and Ctrl+C end it early, with the sum of what was asked so far. Who has seen enough ends it by SIGTERM
    (timeout(1)), so the exit code is that of these answers; Ctrl+C has its own."""
    times: list[float | None] = []
    error = ""
    loop = asyncio.get_running_loop()
    patience = loop.time() + wait
    told = asyncio.Event()
    _end_at_sigterm(told)
    try:
        while len(times) < count:
            if times:
                await asyncio.sleep(interval)
            try:
                taken = await _first(system, address, timeout, patience) if not times else None
                if taken is None:
                    taken = await ping_once(system, address, timeout)
                times.append(taken)
                _tell(invocation, f"{address} answered in {taken:.2f} ms")
            except (Unavailable, DeadlineExceeded) as failure:
                await _container_lives(system, failure)
                times.append(None)
                error = failure.message
                _tell(invocation, f"no answer: {failure.message}")
    except asyncio.CancelledError:
        if not told.is_set():
            _sum_up(invocation, PingReport(address, tuple(times), error))
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    report = PingReport(address, tuple(times), error)
    _sum_up(invocation, report)
    return Exit.OK if report.answered == (max(1, len(times)) if told.is_set() else count) else Exit.FAILED


def _end_at_sigterm(told: asyncio.Event) -> None:
    """Have a SIGTERM set ``told`` and cancel the task that calls this. A program's main thread alone hears signals."""
    task = asyncio.current_task()

    def end() -> None:
        told.set()
        if task is not None:
            task.cancel()

    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)


async def _first(system: System, address: str, timeout: float, patience: float) -> float | None:
    """The first answer, asked for again and again while there is patience; None when there is none left."""
    loop = asyncio.get_running_loop()
    while loop.time() < patience:
        try:
            return await ping_once(system, address, min(timeout, max(0.001, patience - loop.time())))
        except (Unavailable, DeadlineExceeded) as failure:
            await _container_lives(system, failure)
            await asyncio.sleep(min(_AGAIN, max(0.0, patience - loop.time())))
    return None


async def _container_lives(system: System, failure: PelagosError) -> None:
    """Raises ``failure`` if it was not the pinged one that did not answer, but the container that asked for us."""
    if isinstance(failure, Unavailable):
        await system.nodes()


def _tell(invocation: Invocation, text: str) -> None:
    if invocation.plain:
        invocation.say(text)


def _sum_up(invocation: Invocation, report: PingReport) -> None:
    taken = sorted(time for time in report.times if time is not None)
    if not invocation.plain:
        invocation.document(
            {
                "address": report.address,
                "asked": len(report.times),
                "answered": len(taken),
                "milliseconds": list(report.times),
                "error": report.error,
            }
        )
        return
    spread = (
        f"; {taken[0]:.2f} / {taken[len(taken) // 2]:.2f} / {taken[-1]:.2f} ms least, median, most" if taken else ""
    )
    invocation.say(f"{len(taken)} of {len(report.times)} answered{spread}")
