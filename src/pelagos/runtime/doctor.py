"""What this installation is and can do, as facts with advice. Looks only; leaves nothing behind."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from pelagos import __version__
from pelagos.clouds import problem_diagnostics
from pelagos.model import failpoints
from pelagos.model.errors import PelagosError
from pelagos.model.world import World
from pelagos.runtime.home import daemon_pid, home_problem
from pelagos.runtime.settings import Settings
from pelagos.wire.doctor import DoctorView, Fact, FactState

if TYPE_CHECKING:
    from pelagos.clouds import Pool
    from pelagos.store import Store

__all__ = ["gather_facts"]

LOW_DISK = 200 * 1024 * 1024
_GOOD: dict[str, tuple[str, ...]] = {
    "isolation": ("namespaces-root", "namespaces-user"),
    "network": ("bridge",),
    "images": ("host+tarball",),
    "limits": ("cgroup-v1", "cgroup-v2"),
    "ping": ("icmp", "program"),
}
"""Values of the local cloud's facts from which nothing is missing."""


async def gather_facts(settings: Settings, *, world: World, mode: str, store: Store, pool: Pool) -> DoctorView:
    """All facts, the machine's own first."""
    facts = [_python(), _home(settings), _daemon(settings, mode), await _store(settings, store), _disk(settings)]
    facts += _reserve(store)
    facts.append(await _broker(settings, world))
    facts += _failpoint()
    facts += await _local(settings, world)
    facts += _accounts(pool)
    facts += _auth_file(pool)
    return DoctorView(version=__version__, facts=tuple(facts))


def _python() -> Fact:
    return Fact(name="python", state="ok", fact=f"{platform.python_version()} in {sys.prefix}")


def _failpoint() -> list[Fact]:
    chosen = failpoints.armed()
    if chosen is None:
        return []
    advice = f"It dies there: unset {failpoints.VARIABLE}. Failpoints are for tests."
    return [Fact(name="failpoint", state="degraded", fact=chosen, advice=advice)]


def _home(settings: Settings) -> Fact:
    problem = home_problem(settings.home)
    if problem is None:
        return Fact(name="home", state="ok", fact=f"{settings.home}, for this user alone")
    return Fact(
        name="home",
        state="degraded" if problem == "does not exist yet" else "missing",
        fact=f"{settings.home} {problem}",
        advice="Set PELAGOS_HOME to a directory of your own.",
    )


def _daemon(settings: Settings, mode: str) -> Fact:
    pid = daemon_pid(settings.home)
    if pid is None:
        return Fact(
            name="daemon",
            state="ok",
            fact="none is running on this home; commands run the services themselves",
            advice="Start `pelagos serve` to keep infrastructures alive all the time.",
        )
    return Fact(name="daemon", state="ok", fact=f"process {pid}" + (", this one" if mode == "serve" else ""))


async def _store(settings: Settings, store: Store) -> Fact:
    def schema(connection: Connection) -> str:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())

    try:
        version = await store.read(schema)
        # A write that changes nothing: it takes the write lock and commits.
        await store.run(lambda connection: None)
    except PelagosError as error:
        return Fact(name="store", state="missing", fact=f"{store.dialect}: {error}", advice=error.advice)
    where = f" at {_sqlite_path(settings)}" if store.dialect == "sqlite" else ""
    return Fact(name="store", state="ok", fact=f"{store.dialect}{where}, writable, schema {version}")


def _sqlite_path(settings: Settings) -> str:
    return settings.store_target.removeprefix("sqlite:///")


def _disk(settings: Settings) -> Fact:
    where = settings.home if settings.home.exists() else Path("/")
    free = shutil.disk_usage(where).free
    state: FactState = "ok" if free >= LOW_DISK else "degraded"
    advice = "" if state == "ok" else "Make room: on a full disk you can look and take down, no more."
    return Fact(name="disk", state=state, fact=f"{free / 2**30:.1f} GiB free below {where}", advice=advice)


def _reserve(store: Store) -> list[Fact]:
    snapshot = store.snapshot()
    if "reserve" not in snapshot:
        # Another engine's store: its disk is not ours to keep space on.
        return []
    kept = int(snapshot["reserve"])
    if kept:
        return [Fact(name="reserve", state="ok", fact=f"{kept // 1024} KiB of disk are kept back for a full disk")]
    return [
        Fact(
            name="reserve",
            state="degraded",
            fact="no disk space is kept back: on a full disk neither `down` nor `status` may work",
            advice="Make room on the disk that holds the store; the next command then sets the reserve aside.",
        )
    ]


async def _broker(settings: Settings, world: World) -> Fact:
    if not settings.broker:
        return Fact(name="broker", state="ok", fact="none is configured: the exchange is in memory, in one program")
    from pelagos.runtime.brokers import broker_answers

    try:
        place = await broker_answers(settings, world.environ)
    except PelagosError as error:
        return Fact(name="broker", state="missing", fact=str(error), advice=error.advice)
    return Fact(name="broker", state="ok", fact=f"{place} answers; system {settings.system}")


async def _local(settings: Settings, world: World) -> list[Fact]:
    from pelagos.clouds.local import probe

    try:
        found = await world.run_blocking(probe, settings.home)
    except OSError as error:
        return [Fact(name="local", state="missing", fact=f"cannot be tried: {error.strerror or error}")]
    return [_local_fact(name, getattr(found, name)) for name in found.__struct_fields__]


def _local_fact(name: str, found: Any) -> Fact:
    good = found.value in _GOOD.get(name, (found.value,))
    what = f"{found.value}: {found.reason}" if found.reason else found.value
    return Fact(
        name=f"local.{name}", state="ok" if good else "degraded", fact=what, advice="" if good else found.advice
    )


def _accounts(pool: Pool) -> list[Fact]:
    facts = []
    for account in pool.accounts():
        name = f"cloud.{account.name}"
        try:
            problems = account.problems()
        except PelagosError as error:
            facts.append(Fact(name=name, state="missing", fact=str(error), advice=error.advice))
            continue
        trouble = None if problems else account.trouble()
        if trouble is not None:
            facts.append(Fact(name=name, state="missing", fact=str(trouble), advice=trouble.advice))
        elif problems:
            placed = [str(one) for one in problem_diagnostics(account.config, problems)]
            listed = "; ".join(placed or [f"{key or 'the options'} {message}" for key, message in problems])
            facts.append(Fact(name=name, state="missing", fact=listed, advice="Correct the account's options."))
        else:
            facts.append(Fact(name=name, state="ok", fact=f"driver {account.config.driver}, options are valid"))
    return facts


def _auth_file(pool: Pool) -> list[Fact]:
    auth = pool.auth
    if auth is None:
        return []
    try:
        number = len(auth.entries())
        others = auth.readable_by_others()
    except PelagosError as error:
        first = error.diagnostics[0] if error.diagnostics else None
        said = f"{error}: {first}" if first is not None else str(error)
        return [Fact(name="auth_file", state="missing", fact=said, advice=error.advice or "Correct the file.")]
    except OSError as error:
        return [Fact(name="auth_file", state="missing", fact=f"{auth.path} cannot be read: {error.strerror}")]
    what = f"{auth.path}, {number} entries for clouds"
    if others:
        advice = f"chmod 600 {auth.path}"
        return [Fact(name="auth_file", state="degraded", fact=f"{what}; others can read it", advice=advice)]
    return [Fact(name="auth_file", state="ok", fact=what)]
