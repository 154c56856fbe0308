"""Booting: the way of one part of a launch from nothing, or from where it was left, to ready.

Every kind goes the same way: what will be there is recorded, then made or found, then waited for, and its outputs are
recorded with that it is ready. So a crash anywhere leaves a record that says at least as much as there is.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pelagos.launch import infrastructures, programs
from pelagos.launch.errors import LaunchFailed
from pelagos.launch.plan import ContainerPart, InfrastructurePart, Part, ProgramPart
from pelagos.launch.record import PartRecord, PartState, boot_token
from pelagos.launch.texts import render
from pelagos.process.program import run_program

if TYPE_CHECKING:
    from pelagos.launch.launcher import Launcher

__all__ = ["Boot"]

_replace = msgspec.structs.replace


class Boot:
    """The way of one part from nothing, or from where it was left, to ready."""

    def __init__(
        self,
        launcher: Launcher,
        part: Part,
        level: int,
        plan: Path,
        outputs: dict[str, dict[str, Any]],
    ) -> None:
        self._launcher = launcher
        self._world = launcher.world
        self._part = part
        self._level = level
        self._directory = plan.parent
        self._outputs = outputs
        self._plan = str(plan)
        self.waiting = ""
        """What readiness lacks, for people."""

    async def still_ready(self, known: PartRecord) -> bool:
        if known.kind != self._part.kind or await self._launcher.dead(known):
            return False
        if self._part.infrastructure is not None:
            return False  # its description may have changed: an `up` of what is as described does nothing
        return await self._holds(known.outputs) is not None

    async def run(self, known: PartRecord | None) -> None:
        part, name = self._part, self._part.name
        self._launcher.tell(f"  {name}: booting")
        record = PartRecord(
            name=name,
            level=self._level,
            kind=part.kind,
            state=PartState.BOOTING,
            token=known.token if known is not None and known.token else self._world.new_id(),
            pid=0 if known is None else known.pid,
            infrastructure="" if known is None else known.infrastructure,
            directory=str(self._directory),
            environment=self._rendered(part.environment, "environment"),
            booted_at=self._world.now(),
        )
        if part.infrastructure is not None:
            record, own = await self._infrastructure(part.infrastructure, record)
        elif part.container is not None:
            record, own = await self._container(part.container, record)
        else:
            assert part.program is not None
            record, own = await self._program(part.program, record)
        own = await self._wait_ready(own, record)
        scope = {**self._outputs, name: own}
        own = {**own, **render(part.outputs, scope, f"outputs of {name}")}
        self._save(_replace(record, state=PartState.READY, outputs=own, ready_at=self._world.now()))
        self._launcher.tell(f"  {name}: ready")

    def fail(self, error: str) -> None:
        known = self._launcher.record.get(self._part.name)
        if known is not None:
            self._save(_replace(known, state=PartState.FAILED, error=error))

    # -- kinds -------------------------------------------------------------------------------------------------------

    async def _infrastructure(
        self, described: InfrastructurePart, record: PartRecord
    ) -> tuple[PartRecord, dict[str, Any]]:
        files = self._rendered(list(described.files), "files")
        variables = self._rendered(described.variables, "variables")
        sources, entries, name = infrastructures.sources_of(files, self._directory, variables)
        record = _replace(record, infrastructure=record.infrastructure or name)
        self._save(record)
        client = await self._launcher.client()
        run = await infrastructures.bring_up(client, sources, entries, self._world.new_id())
        record = _replace(record, infrastructure=run.infrastructure_id)
        self._save(record)
        status = await client.infrastructures.status(run.infrastructure_id)
        return record, infrastructures.outputs_of(status)

    async def _program(self, described: ProgramPart, record: PartRecord) -> tuple[PartRecord, dict[str, Any]]:
        stop = tuple(self._rendered(list(described.stop), "stop"))
        record = _replace(record, stop=stop, stop_timeout=described.stop_timeout)
        self._save(record)
        own: dict[str, Any] = {}
        if described.boot:
            own = await self._outputs_of_program(self._rendered(list(described.boot), "boot"), record)
        if described.run:
            record = await self._started(self._rendered(list(described.run), "run"), record)
            own["pid"] = record.pid
        return record, own

    async def _container(self, described: ContainerPart, record: PartRecord) -> tuple[PartRecord, dict[str, Any]]:
        home = self._launcher.record.directory.parent
        id_ = described.id or f"{self._launcher.record.name}-{self._part.name}".replace("_", "-")
        system = described.system or "pelagos"
        ready = self._launcher.record.directory / f"{self._launcher.record.name}.{self._part.name}.ready"
        argv = [sys.executable, "-m", "pelagos", "--home", str(home), "container"]
        argv += ["--system", system, "--id", id_, "--ready-file", str(ready)]
        if described.broker:
            argv += ["--broker", self._rendered(described.broker, "broker")]
        for key, value in self._rendered(described.arguments, "arguments").items():
            argv += ["--arg", f"{key}={msgspec.json.encode(value).decode()}"]
        argv += self._rendered(list(described.files), "files")
        record = _replace(record, stop_timeout=described.stop_timeout)
        self._save(record)
        if not programs.alive(record.pid, record.token):
            ready.unlink(missing_ok=True)
        record = await self._started(argv, record)
        while not ready.exists():
            self.waiting = "its apps do not run yet"
            self._check_alive(record)
            await asyncio.sleep(0.1)
        return record, {"id": id_, "system": system, "pid": record.pid}

    async def _started(self, argv: list[str], record: PartRecord) -> PartRecord:
        """Start it, unless it lives: what a crash left is found by its token."""
        pid = await self._world.run_blocking(programs.find, record.token)
        if pid is None:
            environment = {**self._world.environ, **record.environment}
            pid = programs.start(
                argv, token=record.token, directory=record.directory, environment=environment, log=self._log
            )
        record = _replace(record, pid=pid)
        self._save(record)
        return record

    # -- readiness and outputs ---------------------------------------------------------------------------------------

    async def _wait_ready(self, own: dict[str, Any], record: PartRecord) -> dict[str, Any]:
        while True:
            self._check_alive(record)
            more = await self._holds(own)
            if more is not None:
                return {**own, **more}
            await asyncio.sleep(self._part.ready.interval)

    async def _holds(self, own: dict[str, Any]) -> dict[str, Any] | None:
        """Whether all that readiness asks for holds: more outputs, or None if it does not hold yet."""
        ready, scope = self._part.ready, {**self._outputs, self._part.name: own}
        more: dict[str, Any] = {}
        if ready.url:
            url = str(render(ready.url, scope, f"ready of {self._part.name}"))
            problem = await _url_problem(url)
            if problem:
                self.waiting = f"{url}: {problem}"
                return None
        if ready.command:
            argv = render(list(ready.command), scope, f"ready of {self._part.name}")
            result = await run_program(
                self._world,
                argv,
                cwd=str(self._directory),
                env=self._rendered(self._part.environment, "environment"),
                check=False,
            )
            if result.exit_code != 0:
                said = (result.err_lines or result.out_lines or [""])[-1]
                self.waiting = f"{argv[0]} says {result.exit_code}" + (f": {said}" if said else "")
                return None
            more = _last_object(result.out_lines)
        return more

    async def _outputs_of_program(self, argv: list[str], record: PartRecord) -> dict[str, Any]:
        token = boot_token(record.token)
        self.waiting = f"{argv[0]}, begun by an earlier launch, has not ended"
        while await self._world.run_blocking(programs.find, token) is not None:  # noqa: ASYNC110 - /proc tells nobody
            await asyncio.sleep(0.2)
        self.waiting = f"{argv[0]} has not ended"
        environment = {**record.environment, programs.TOKEN: token}
        result = await run_program(self._world, argv, cwd=record.directory, env=environment)
        self.waiting = ""
        return _last_object(result.out_lines)

    def _check_alive(self, record: PartRecord) -> None:
        """Raises LaunchFailed, with its last words, if what runs has ended."""
        if record.pid and not programs.alive(record.pid, record.token):
            said = programs.last_lines(self._log)
            raise LaunchFailed(
                f"{record.name} ended before it was ready" + (f": {said.splitlines()[-1]}" if said else ""),
                advice=f"Its output is in {self._log}.",
            )

    @property
    def _log(self) -> Path:
        return self._launcher.record.directory / f"{self._launcher.record.name}.{self._part.name}.log"

    def _rendered(self, value: Any, what: str) -> Any:
        return render(value, self._outputs, f"{what} of {self._part.name}")

    def _save(self, record: PartRecord) -> None:
        self._launcher.record.put(record, self._plan)


def _last_object(lines: list[str]) -> dict[str, Any]:
    """A program's outputs: the JSON object on its last line, if that is one."""
    try:
        value = msgspec.json.decode(lines[-1]) if lines else {}
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


async def _url_problem(url: str) -> str:
    """Why the URL does not answer well; empty if it does."""
    import httpx2

    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=10.0, follow_redirects=False) as client:
            answer = await client.get(url)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return str(error) or type(error).__name__
    return "" if 200 <= answer.status_code < 400 else f"status {answer.status_code}"
