"""A site of four programs on one PostgreSQL and one RabbitMQ: the edge, the local cloud's compute, two maintainers. The
guestbook is built by them, and they are killed, one after the other."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from e2e.local.product import Product, until
from support.brokers import skip_without_broker, throw_away_system
from support.console_pages import write_files
from support.databases import throw_away_postgresql

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "site.md"
"""Its releases are those of the guide, as they stand there."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.amqp,
    pytest.mark.postgresql,
    pytest.mark.anyio,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not PAGE.is_file(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the guestbook's instances are counted by what only root sees"),
]
FULL = {"store": 1, "web": 2, "lb": 1}


class Site(Product):
    """``home`` is the edge's, by whose socket commands reach the site."""

    def __init__(self, place: Path, database: str, broker: str, system: str) -> None:
        super().__init__(place / "edge", place / "f")
        self.place = place
        self.database = database
        self.cloud = place / "clouds" / "clouds" / "local"
        self.programs: dict[str, subprocess.Popen[str]] = {}
        self._made = 0
        write_files(PAGE.read_text(), self.files)
        (self.files / "pelagos.yaml").write_text(
            f"store: {database}\nsystem: {system}\nbroker: {broker}\nkeys: {place / 'keys'}\n"
            "maintain_interval: 0.5\nhealth_interval: 0.2\ndependency_timeout: 30\n"
        )

    def run_program(self, name: str, *command: str) -> None:
        """Start one of the site's programs, and wait until it is ready."""
        self._made += 1
        ready = self.place / f"ready-{self._made}"
        log = self.place / name / "logs" / "pelagos.log"
        extra = () if command[0] == "serve" else ("--ready-file", str(ready), "--id", f"{name}-{self._made}")
        self.environ["PELAGOS_HOME"] = str(self.place / name)
        program = self.programs[name] = self.start(*command, *extra)
        self.environ["PELAGOS_HOME"] = str(self.home)

        def runs() -> bool:
            if program.poll() is not None:
                raise AssertionError(program.communicate())
            return ready.exists() or (log.exists() and "container ready" in log.read_text())

        until(runs, f"{name} is ready", 40)

    def kill(self, name: str) -> None:
        program = self.programs.pop(name)
        program.kill()
        program.communicate()

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.database) as connection:
            return connection.execute(sql, parameters).fetchall()  # type: ignore[arg-type]

    def provider_id(self, instance_id: str) -> str:
        return str(self.query("select provider_id from servers where instance_id = %s", instance_id)[0][0])

    def kill_while_it_creates(self, name: str) -> None:
        """Kill the program once an operation is journaled, and before it has ended."""
        import psycopg

        under_way = "select 1 from operations where finished_at is null"
        with psycopg.connect(self.database, autocommit=True) as connection:
            end = time.monotonic() + 30
            while not connection.execute(under_way).fetchall():
                assert time.monotonic() < end, "nothing is created"
            self.kill(name)
            assert connection.execute(under_way).fetchall(), "it was killed too late"

    def maintainer(self) -> str:
        """The program that maintains the guestbook; empty while nobody does."""
        found = self.query("select pid from leases where name like 'infrastructure:%%' and holder is not null")
        pids = {program.pid: name for name, program in self.programs.items()}
        return pids.get(found[0][0], "") if found else ""


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    broker = skip_without_broker()
    place = Path(tempfile.mkdtemp(prefix="ps", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        database = stack.enter_context(throw_away_postgresql())
        async with throw_away_system(broker) as system:
            made = Site(place, database, broker, system)
            try:
                yield made
            finally:
                made("down", "guestbook", "--yes", code=None)
                for process in made.started:
                    process.kill()
                    process.communicate()


async def test_the_guestbook_on_services_that_are_spread_and_killed(site: Site) -> None:
    await asyncio.get_running_loop().run_in_executor(None, _story, site)


def _story(site: Site) -> None:
    site.run_program("clouds", "container", str(site.files / "clouds.yaml"))
    site.run_program("one", "container", str(site.files / "keepers.yaml"))
    site.run_program("two", "serve", "--release", str(site.files / "keepers.yaml"))
    site.run_program("edge", "serve", "--release", str(site.files / "front.yaml"))

    def all_four() -> bool:
        # Each answers in its own time; on a busy machine one may miss the first question.
        nodes = json.loads(site("nodes", "-o", "json").stdout)
        return len(nodes["items"] if isinstance(nodes, dict) else nodes) == 4

    until(all_four, "all four containers are seen", 30)

    site.up()
    site.assert_exactly(**FULL)
    assert "<li>spread</li>" in site.page("spread")

    # Whoever maintains it is killed while it has something to heal: the other one heals it.
    first = site.maintainer()
    other = {"one": "two", "two": "one"}[first]
    victim = sorted(site.instances("web"))[0]
    site.kill_inside(victim)
    site.kill(first)
    until(lambda: victim not in site.instances("web") and site.ready() == FULL, "the other maintainer heals it", 30)
    assert site.maintainer() == other
    site.assert_exactly(**FULL)
    assert "<li>spread</li>" in site.page()

    # The cloud's only worker is killed in the midst of creating, and another one takes over.
    scale = site.start("scale", "guestbook", "web", "+2", "--yes")
    site.kill_while_it_creates("clouds")
    site.run_program("clouds", "container", str(site.files / "clouds.yaml"))
    said = scale.communicate(timeout=60)
    assert scale.returncode == 0, said
    site.assert_exactly(store=1, web=4, lb=1)
    assert "<li>spread</li>" in site.page()

    site("down", "guestbook", "--yes")
    site.assert_nothing_left()
    for name in ("edge", other, "clouds"):
        site.programs[name].send_signal(signal.SIGTERM)
        assert site.programs[name].wait(20) == 0, name
    assert site.query("select name from leases where holder is not null") == []
