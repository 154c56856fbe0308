"""Another Pelagos: a real daemon with the simulated cloud, in a thread and a loop of its own."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pelagos.runtime import load_settings
from pelagos.runtime.serve import serve

__all__ = ["other_pelagos"]

_PATIENCE = 60.0


@contextmanager
def other_pelagos() -> Iterator[str]:
    """Its Unix socket, as ``unix:///path``."""
    with tempfile.TemporaryDirectory(prefix="other-") as home:
        overrides = {
            "simulated": True,
            "maintain_interval": 0.2,
            "health_interval": 0.2,
            "http": {"drain": 0.5},
            "pool": [{"name": "sim", "driver": "simulated", "options": {"settle": 0.2, "poll_interval": 0.1}}],
        }
        settings = load_settings(home=home, environ={}, overrides=overrides)
        answers = threading.Event()
        failures: list[BaseException] = []
        control: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def run() -> None:
            stop = asyncio.Event()
            control.append((asyncio.get_running_loop(), stop))
            await serve(settings, ready=lambda _: answers.set(), stop=stop, signals=False)

        def work() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:
                failures.append(error)
            finally:
                answers.set()

        thread = threading.Thread(target=work, name="other-pelagos", daemon=True)
        thread.start()
        assert answers.wait(_PATIENCE), "the other daemon does not start"
        if failures:
            raise failures[0]
        try:
            yield f"unix://{Path(home) / 'pelagos.sock'}"
        finally:
            loop, stop = control[0]
            loop.call_soon_threadsafe(stop.set)
            thread.join(_PATIENCE)
        assert not thread.is_alive(), "the other daemon does not stop"
        if failures:
            raise failures[0]
