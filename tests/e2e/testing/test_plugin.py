"""The pytest plug-in, in runs of pytest of its own: what passes, what fails and what is then shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELLO = """
import asyncio
import pytest
from pelagos.process import ServiceProcess, client, operation

pytestmark = pytest.mark.anyio


class Hello(ServiceProcess):
    name = "hello"

    @operation
    async def hello(self, text: str) -> str:
        return f"Hello, {text}"

    @operation
    async def burn(self) -> None:
        async def fire() -> None:
            raise RuntimeError("fire")
        self.start_task(fire())


class Front(ServiceProcess):
    name = "front"

    @operation
    async def ask(self) -> str:
        return await client(Hello, self).hello("you")

"""


def run(place: Path, text: str, conftest: str = 'pytest_plugins = ["pelagos.testing.plugin"]\n', **environ: str) -> str:
    """What pytest says of a file with that test, in a project of its own."""
    (place / "conftest.py").write_text(conftest)
    (place / "test_it.py").write_text(HELLO + text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            place,
            place / "test_it.py",
        ],
        env={**os.environ, **environ},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixtures_work_together(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        """
async def test_all(container, make_container, recorder, replaced, world, harness):
    other = await make_container("other")
    hello = await replaced(Hello, hello=lambda text: text.upper())
    await other.spawn(Front)
    assert await client(Front, container.edge).ask() == "YOU"
    assert hello.arguments("hello") == ["you"]
    assert [one.op for one in recorder.requests()] == ["ask", "hello"]
    assert harness.world is world is container.world

@pytest.mark.virtual_time
async def test_a_day_passes(container, world):
    before = world.monotonic()
    await asyncio.sleep(86400)
    assert world.monotonic() == before + 86400

async def test_a_moment_passes(world):
    before = world.monotonic()
    await asyncio.sleep(0.01)
    assert 0.005 < world.monotonic() - before < 60
""",
    )
    assert "3 passed" in told


def test_a_process_that_died_fails_its_test(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        """
async def test_it(container):
    await container.spawn(Hello)
    await client(Hello, container.edge).burn()
""",
    )
    assert "1 passed, 1 error" in told
    assert "- process hello (c.3) failed: RuntimeError: fire" in told


def test_a_test_that_fails_shows_what_was_said_and_no_leftovers(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        """
async def test_it(container, recorder):
    await container.spawn(Hello)
    await client(Hello, container.edge).burn()
    assert await client(Hello, container.edge).hello("you") == "Goodbye"
""",
    )
    assert "1 failed" in told
    assert "1 error" not in told
    assert "edge -> service:test.hello: hello request" in told
    assert "sequence chart (Mermaid)" in told
    assert "hello: failure unavailable" in told


def test_a_conversation_that_broke_its_protocol_fails_its_test(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        """
from pelagos.exchange import Performative
import msgspec

async def test_it(container, recorder):
    await container.spawn(Hello)
    conversation = await container.edge.converse("request", "service:hello", "hello", "you")
    await conversation.result(str)
    first = recorder.requests("hello")[0].envelope
    container.transport.post(msgspec.structs.replace(first, performative=Performative.CANCEL, conv_seq=9))
""",
    )
    assert "1 passed, 1 error" in told
    assert "cancel after the end" in told


def test_without_a_broker_its_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        """
async def test_it(broker):
    pass
""",
        PELAGOS_TEST_AMQP="amqp://guest:guest@127.0.0.1:1",
    )
    assert "1 skipped" in told
    assert "no RabbitMQ server answers at 127.0.0.1:1" in told


def test_nothing_else_here_needs_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; import pelagos.testing"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.anyio
async def test_the_fixtures_are_not_there_unless_asked_for(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.FixtureLookupError):
        request.getfixturevalue("make_container")
