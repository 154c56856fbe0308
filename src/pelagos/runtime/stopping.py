"""How a program that runs until told to stop is told, and tells: signals, service manager, its container's end.

The first SIGTERM or SIGINT asks for an orderly stop, a second one leaves at once. Shared by the daemon and by container
programs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable

from pelagos.container import Container
from pelagos.process import get_logger

__all__ = ["handle_signals", "notify_manager", "tell_what_stopping_waits_for", "until_stopped"]

log = get_logger(__name__)

_LONG = 1.0
"""Seconds of a stop after which somebody wonders."""
_AGAIN = 5.0


async def until_stopped(container: Container, stopping: asyncio.Event) -> None:
    """Returns when asked to stop; raises what the container failed of."""

    async def failure() -> Exception | None:
        try:
            await container.wait()
        except Exception as error:  # noqa: BLE001 - raised below, outside the task group, which would wrap it
            return error
        return None

    async def asked() -> None:
        await stopping.wait()

    async with asyncio.TaskGroup() as group:
        failed = group.create_task(failure())
        request = group.create_task(asked())
        await asyncio.wait([failed, request], return_when=asyncio.FIRST_COMPLETED)
        error = failed.result() if failed.done() else None
        failed.cancel()
        request.cancel()
    if error is not None:
        raise error


def tell_what_stopping_waits_for(container: Container, broker: str) -> Callable[[], None]:
    """Log what a stop waits for, once that takes longer than a second, and every few seconds; returns what ends that.

    ``broker``: its place, ``memory`` for none. Work that does not end in its shutdown time is cut off, and logged; the
    program's exit code is 0 all the same: it did what it was told, which a service manager must not take for a failure.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    timer: asyncio.TimerHandle

    def tell() -> None:
        nonlocal timer
        busy = {one.id: count for one in container.processes if (count := sum(one.snapshot().serving.running))}
        seconds = round(loop.time() - began)
        if busy:
            log.warning("stopping: waiting for requests that run", requests=busy, seconds=seconds)
        elif broker != "memory":
            log.warning(f"stopping: waiting for the broker {broker}", seconds=seconds)
        else:
            log.warning("stopping: waiting for processes", left=len(container.processes), seconds=seconds)
        timer = loop.call_later(_AGAIN, tell)

    timer = loop.call_later(_LONG, tell)
    return lambda: timer.cancel()


def handle_signals(stopping: asyncio.Event) -> Callable[[], None]:
    """Have SIGTERM and SIGINT set the event; returns what undoes that."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("told twice to stop: leaving at once", signal=number.name)
            os._exit(128 + number)
        log.info("told to stop", signal=number.name)
        stopping.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, handle, number)

    def restore() -> None:
        for number in handled:
            loop.remove_signal_handler(number)

    return restore


def notify_manager(state: str) -> None:
    """Tell systemd, where it asked for that (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
            messenger.connect(address)
            messenger.sendall(state.encode())
    except OSError as error:
        log.warning("the service manager could not be told", state=state, error=str(error))
