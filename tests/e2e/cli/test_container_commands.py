"""Real containers in processes of their own, and every command on processes through the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from support.brokers import skip_without_broker, throw_away_system

PELAGOS = Path(sys.executable).parent / "pelagos"
PATIENCE = 60

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.timeout(180),
]

HELLO = """
import asyncio

from pelagos.model.errors import NotFound
from pelagos.process import ServiceProcess, operation


class HelloService(ServiceProcess):
    name = "hello"

    def __init__(self, greeting: str = "Hello") -> None:
        super().__init__()
        self.greeting = greeting

    @operation
    async def hello(self, name: str) -> str:
        return f"{self.greeting}, {name}"

    @operation
    async def lose(self) -> None:
        raise NotFound("it is lost", advice="Look again.")

    @operation
    async def slowly(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return self.id
"""
APP = """
name: hello
version: "1.0"
processes:
  - {name: hello, class: "hello:HelloService"}
arguments: {greeting: Hello}
"""


class Site:
    """A state directory with an app in it, and the containers that were started there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "home"
        (place / "hello.py").write_text(HELLO)
        (place / "hello.yaml").write_text(APP)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")},
            "PELAGOS_HOME": str(self.home),
            "HOME": str(place),
        }
        self.containers: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """A container that is ready, and the line in which it said so."""
        log = (self.place / f"container{len(self.containers)}.log").open("w")
        with log:
            container = subprocess.Popen(
                [PELAGOS, "container", *arguments],
                cwd=self.place,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.containers.append(container)
        assert container.stdout is not None
        line = container.stdout.readline()
        assert line, Path(log.name).read_text()
        return container, line

    def run(self, *arguments: str, code: int = 0, typed: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PELAGOS, *arguments],
            cwd=self.place,
            env=self.environment,
            input=typed,
            stdin=None if typed is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done

    def said(self, *arguments: str, code: int = 0) -> str:
        return self.run(*arguments, code=code).stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.said(*arguments, "-o", "json"))

    def end(self) -> None:
        for container in self.containers:
            with contextlib.suppress(ProcessLookupError):
                container.kill()
            container.communicate()


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="pelagos-e2e-") as name:  # short: a socket lies in it
        found = Site(Path(name))
        try:
            yield found
        finally:
            found.end()


def test_one_container_in_memory_and_every_command(site: Site) -> None:
    ready = site.place / "ready"
    container, line = site.start(
        "--system", "demo", "--id", "c-1", "hello.yaml", "--arg", "hello.greeting=Ahoy", "--ready-file", str(ready)
    )
    assert line == "Container c-1 of system demo is ready with hello (memory).\n"
    while not ready.exists():  # it is written right after the line
        assert container.poll() is None
    assert json.loads(ready.read_text())["container"] == "c-1"
    (socket,) = site.home.glob("control/demo/*.sock")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600

    assert site.json("nodes") and site.json("ps")
    looking = re.compile(r" (nodes|info|all_processes|processes) +request ")
    assert not looking.search(site.said("observe", "--last", "40"))  # who only looks is not looked at
    assert looking.search(site.said("observe", "--last", "40", "--all"))
    assert site.said("call", "hello", "hello", "--content", "you") == "Ahoy, you\n"
    assert "Look again." in site.run("call", "hello", "lose", code=66).stderr
    assert site.run("call", "hello", "slowly", "--content", "30", "--timeout", "0.2", code=75).stdout == ""
    assert site.said("send", "hello", "hello", "--content", "you") == ""
    assert site.said("ping", "hello", "--count", "2", "--interval", "0").splitlines()[-1].startswith("2 of 2 answered")
    assert site.said("ping", "moon", "--count", "1", code=1).splitlines()[-1] == "0 of 1 answered"

    (hello,) = site.json("ps", "--service", "hello")
    assert (hello["container"], hello["app"], hello["state"]) == ("c-1", "hello", "active")
    assert hello["id"] in site.said("ps", "--on", "c-1")
    assert {service["name"] for service in site.json("services")} >= {"hello", "agent", "observer"}
    (node,) = site.json("nodes")
    assert (node["id"], node["state"], node["pid"]) == ("c-1", "alive", container.pid)

    spawned = site.said("spawn", "hello", "--count", "2", "--arg", "greeting=Hi").split()
    assert len(spawned) == 2
    assert site.said("call", "hello", "hello", "--content", "you", "--on", spawned[1]) == "Hi, you\n"
    assert site.said("kill", *spawned) == "".join(f"{process} has ended.\n" for process in spawned)
    assert [process["id"] for process in site.json("ps", "--service", "hello")] == [hello["id"]]
    assert "hello" in site.run("spawn", "helo", code=66).stderr

    assert site.said("log-level", "hello", "debug") == "hello logs at debug in c-1.\n"
    assert site.json("log-level")["hello"] == "debug"
    assert "exchange" in site.run("log-level", "exchnge", "debug", code=66).stderr
    assert site.json("dead-letters", "list") == []

    svg = site.place / "hello.svg"
    rows = site.said("observe", "--last", "2", "--op", "lose", "--svg", str(svg)).splitlines()
    assert [re.split(r" {2,}", row)[2:4] for row in rows] == [["lose", "request"], ["lose", "failure"]]
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")

    assert site.said("shell", "-c", 'await client(HelloService).hello("me")') == "Ahoy, me\n"
    assert site.run("shell", typed="for process in ps('hello'):\n    print(process.id)\n").stdout == f"{hello['id']}\n"

    container.send_signal(signal.SIGINT)
    container.communicate(timeout=PATIENCE)
    assert container.returncode == 0
    assert not socket.exists()
    assert "pelagos container" in site.run("ps", code=69).stderr


def test_observe_follows_live_until_it_is_interrupted_and_draws_then(site: Site) -> None:
    site.start("--system", "demo", "--id", "c-1", "hello.yaml")
    chart = site.place / "live.mmd"
    following = subprocess.Popen(
        [PELAGOS, "observe", "--op", "hello", "--mermaid", str(chart)],
        env=site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    site.containers.append(following)
    assert following.stdout is not None
    assert following.stderr is not None
    assert "Following" in following.stderr.readline()
    # The first calls may be before its lease: until the watching is seen in what the observer says of itself.
    while "unwatch" not in site.said("services") or not any(
        process["done"] for process in site.json("ps", "--service", "observer")
    ):
        pass
    site.said("call", "hello", "hello", "--content", "you")
    first = following.stdout.readline()
    assert "hello" in first
    assert "request" in first
    second = following.stdout.readline()
    assert "inform_result" in second
    assert " ms" in second
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=PATIENCE)
    assert (following.returncode, out) == (0, ""), err
    assert chart.read_text().count("hello") >= 2


def test_observe_ends_with_69_when_its_container_goes_away(site: Site) -> None:
    container, _ = site.start("--system", "demo", "--id", "c-1", "hello.yaml")
    following = subprocess.Popen([PELAGOS, "observe"], env=site.environment, stderr=subprocess.PIPE, text=True)
    site.containers.append(following)
    assert following.stderr is not None
    assert "Following" in following.stderr.readline()
    container.kill()
    _, err = following.communicate(timeout=PATIENCE)
    assert (following.returncode, err.splitlines()[0]) == (69, "error: the container went away")


def test_the_prompt_of_a_person(site: Site) -> None:
    """IPython on a terminal, with its plainest prompt; what was typed is kept for its writer alone."""
    pytest.importorskip("IPython")
    site.start("--system", "demo", "--id", "c-1", "hello.yaml")
    ours, theirs = pty.openpty()
    environment = {**site.environment, "IPY_TEST_SIMPLE_PROMPT": "1", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    shell = subprocess.Popen(
        [PELAGOS, "shell"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)

    def read_until(text: str) -> str:
        seen = ""
        while text not in seen:
            ready, _, _ = select.select([ours], [], [], PATIENCE)
            assert ready, seen
            seen += os.read(ours, 65536).decode(errors="replace")
        return seen

    try:
        assert "system demo, container c-1" in read_until("In [1]: ")
        for number, (line, expected) in enumerate(
            [
                ('await call("hello", "hello", "you")', "'Hello, you'"),
                ("await client(HelloService).hello('me')", "'Hello, me'"),
                ("ps('hello')", "SUPERVISOR"),
                ("await call('hello', 'lose')", ": it is lost"),
            ],
            2,
        ):
            os.write(ours, f"{line}\n".encode())
            assert expected in read_until(f"In [{number}]: ")
        os.write(ours, b"exit()\n")
        assert shell.wait(PATIENCE) == 0
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
    kept = site.home / "shell" / "history.sqlite"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(kept)) as connection:
        typed = [row[0] for row in connection.execute("SELECT source_raw FROM history")]
    assert 'await call("hello", "hello", "you")' in typed


def test_a_container_that_cannot_start_says_why_and_leaves_nothing(site: Site) -> None:
    (site.place / "bad.yaml").write_text("name: bad\nprocesses:\n  - {name: x, clas: 'hello:HelloService'}\n")
    wrong = site.run("container", "bad.yaml", code=65)
    assert "bad.yaml:3" in wrong.stderr
    assert site.run("container", "none.yaml", code=64).stdout == ""
    assert not list(site.home.glob("control/*/*.sock"))


@pytest.mark.amqp
def test_two_containers_of_which_one_is_killed(site: Site) -> None:
    url = skip_without_broker()

    async def run() -> None:
        async with throw_away_system(url) as system:
            _kill_one_of_two(site, url, system)

    asyncio.run(run())


def _kill_one_of_two(site: Site, url: str, system: str) -> None:
    site.environment |= {"PELAGOS_SYSTEM": system, "PELAGOS_BROKER": url}
    first, line = site.start("--id", "one", "hello.yaml")
    assert "guest:guest" not in line
    second, _ = site.start("--id", "two", "hello.yaml")

    def states() -> dict[str, str]:
        return {node["id"]: node["state"] for node in site.json("nodes", "--container", "two")}

    while states() != {"one": "alive", "two": "alive"}:
        pass
    both = site.json("ps", "--service", "hello", "--container", "two")
    assert {process["container"] for process in both} == {"one", "two"}
    assert site.json("spawn", "hello", "--on", "one", "--container", "two")["container"] == "one"
    theirs = next(process["id"] for process in both if process["container"] == "one")
    assert site.said("call", "hello", "slowly", "--content", "0", "--on", theirs, "--container", "two") == f"{theirs}\n"
    site.said("kill", theirs, "--container", "two")

    # Work in flight on both when one is killed: each call is answered all the same.
    lines = """
import asyncio
hello = client(HelloService)
asked = [asyncio.ensure_future(hello.slowly(1.0)) for _ in range(40)]
print("asked", flush=True)
print(len(await asyncio.gather(*asked)))
"""
    asking = subprocess.Popen(
        [PELAGOS, "shell", "--container", "two", "-c", lines],
        cwd=site.place,
        env=site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    site.containers.append(asking)
    assert asking.stdout is not None
    assert asking.stdout.readline() == "asked\n"
    while not any(
        process["container"] == "one" and process["running"]
        for process in site.json("ps", "--service", "hello", "--container", "two")
    ):
        assert asking.poll() is None
    first.kill()
    out, err = asking.communicate(timeout=PATIENCE)
    assert (out, asking.returncode) == ("40\n", 0), err

    while states() != {"one": "dead", "two": "alive"}:
        pass
    assert {process["container"] for process in site.json("ps", "--service", "hello")} == {"two"}
    seen = site.said("observe", "--last", "200", "--op", "slowly", "-o", "json").splitlines()
    assert {json.loads(row)["performative"] for row in seen} == {"request", "inform_result"}
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
