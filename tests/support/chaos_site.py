"""Container programs of one system on one broker, to be killed, stopped and asked; and what a test must never find."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from pelagos.container.control import Control, connect_control
from pelagos.model.errors import PelagosError
from pelagos.process import client
from support.chaos_service import Load, LoadRequest, Report, Work

__all__ = ["PELAGOS", "Site", "chaos_site", "until"]

PELAGOS = Path(sys.executable).parent / "pelagos"
TESTS = Path(__file__).parents[1]
MODULE = "support.chaos_service"
LEDGER = f"ledger={MODULE}:ledger"
WORK = f"work={MODULE}:Work"
LOAD = f"load={MODULE}:Load"


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
    """Wait for what other programs do; returns the first true answer."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):  # noqa: ASYNC110 - other programs
            await asyncio.sleep(0.1)
        return found


class Site:
    """One home, one system, one ledger in SQLite that all its containers write to."""

    def __init__(self, place: Path, url: str) -> None:
        self.place = place
        self.home = place / "home"
        self.url = url
        self.system = f"s{uuid.uuid4().hex[:8]}"
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._controls: dict[str, Control] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")},
            "PELAGOS_HOME": str(self.home),
            "PELAGOS_LOG_LEVEL": "info",
            "PYTHONPATH": str(TESTS),
            "HOME": str(place),
        }
        self.home.mkdir(mode=0o700)
        with contextlib.closing(self._database()) as database:
            database.execute("CREATE TABLE chaos_ledger (name TEXT)")

    # -- containers ------------------------------------------------------------------------------------------------

    async def start(
        self, name: str, *processes: str, url: str | None = None, files: tuple[str, ...] = (), **environ: str
    ) -> None:
        """Start a container and wait until it is ready."""
        process = await self.launch(name, *processes, url=url, files=files, **environ)
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert b"is ready" in line, self.log(name)

    async def launch(
        self, name: str, *processes: str, url: str | None = None, files: tuple[str, ...] = (), **environ: str
    ) -> asyncio.subprocess.Process:
        arguments = [part for process in processes for part in ("--process", process)]
        arguments += ["--system", self.system, "--id", name, "--broker", url or self.url]
        with (self.place / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                PELAGOS,
                "container",
                *files,
                *arguments,
                cwd=self.place,
                env={**self._environment, **environ},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.processes[name] = process
        return process

    async def kill(self, name: str) -> None:
        """kill -9, and wait until it is gone."""
        await self._forget(name)
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def stop(self, name: str, seconds: float = 30.0) -> None:
        """SIGTERM; it must end in good order."""
        await self._forget(name)
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(seconds):
            await process.wait()
        assert process.returncode == 0, self.log(name)

    async def end(self) -> None:
        for control in self._controls.values():
            await control.close()
        for name in list(self.processes):
            await self.kill(name)

    def runs(self, name: str) -> bool:
        return self.processes[name].returncode is None

    def log(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text(errors="replace")

    def last_words(self) -> str:
        """For who reads of a failure: which containers run, and the ends of their logs."""
        return "\n".join(
            f"-- container {name}, {'running' if self.runs(name) else f'ended with {process.returncode}'}:\n"
            f"{self.log(name)[-3000:]}"
            for name, process in self.processes.items()
        )

    def memory(self, name: str) -> int:
        """Bytes that its process has in memory."""
        fields = Path(f"/proc/{self.processes[name].pid}/status").read_text().split()
        return int(fields[fields.index("VmRSS:") + 1]) * 1024

    # -- asking them -----------------------------------------------------------------------------------------------

    async def control(self, name: str) -> Control:
        if name not in self._controls:
            self._controls[name] = await connect_control(self.home, self.system, name)
        return self._controls[name]

    async def work(self, name: str, timeout: float = 10.0) -> Work:
        """A client of the service, that calls from a container."""
        return client(Work, await self.control(name), timeout=timeout)

    async def load(self, name: str = "front", timeout: float = 90.0) -> Load:
        return client(Load, await self.control(name), timeout=timeout)

    async def served(self, name: str = "front") -> None:
        """Wait until the work service answers who calls from a container."""

        async def answers() -> bool:
            try:
                await (await self.work(name, 5.0)).ping()
            except PelagosError:
                return False
            return True

        await until(answers)

    async def served_by(self, *names: str) -> None:
        """Wait until each of these has answered: they connect again when their own time has come."""

        async def all_answer() -> bool:
            report = await self.make(LoadRequest("calls", workers=4, most=10))
            return set(report.by) >= set(names)

        await until(all_answer)

    async def knows(self, *names: str) -> bool:
        """Whether a container, whichever is asked, knows all these, as it does a moment after they came; it may never
        know others."""
        known = {node["id"] for node in await self.run("nodes")}
        assert known <= set(names), known
        return known == set(names)

    async def make(self, load: LoadRequest, name: str = "front") -> Report:
        """Make load that ends by itself."""
        service = await self.load(name)
        await service.begin(load)
        return await service.finish(False)

    async def run(self, *arguments: str, code: int = 0) -> Any:
        """A command of the command line; what it says, as a value."""
        process = await asyncio.create_subprocess_exec(
            PELAGOS,
            *arguments,
            "--system",
            self.system,
            "-o",
            "json",
            env=self._environment,
            cwd=self.place,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            said, complaint = await process.communicate()
        assert process.returncode == code, (arguments, process.returncode, said, complaint)
        return json.loads(said) if said.strip() else None

    # -- the ledger ------------------------------------------------------------------------------------------------

    def entered(self) -> Counter[str]:
        """Names in the ledger, and how often each stands there."""
        with contextlib.closing(self._database()) as database:
            return Counter(name for (name,) in database.execute("SELECT name FROM chaos_ledger"))

    async def entered_all(self, names: list[str], seconds: float = 40.0) -> None:
        """Wait until all these are in the ledger; then none may be there twice."""
        wanted = set(names)

        async def there() -> bool:
            return wanted <= set(self.entered())

        try:
            await until(there, seconds)
        except TimeoutError:
            missing = wanted - set(self.entered())
            raise AssertionError(f"{len(missing)} of {len(wanted)} accepted entries are lost: {missing}") from None
        twice = {name: count for name, count in self.entered().items() if count > 1}
        assert not twice, f"effects that happened more than once: {twice}"

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.home / "pelagos.db", timeout=20)

    async def _forget(self, name: str) -> None:
        control = self._controls.pop(name, None)
        if control is not None:
            await control.close()


@contextlib.asynccontextmanager
async def chaos_site(url: str) -> AsyncIterator[Site]:
    """A site that is gone at the end, whatever is left of it."""
    with tempfile.TemporaryDirectory(prefix="pelagos-chaos-") as name:  # short: sockets lie in it
        site = Site(Path(name), url)
        try:
            yield site
        except BaseException as error:
            error.add_note(site.last_words())
            raise
        finally:
            await site.end()
