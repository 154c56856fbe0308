"""Programs of the host, real ones: what comes of them, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.model import SystemWorld
from pelagos.model.errors import DeadlineExceeded, InvalidInput
from pelagos.model.scope import Scope
from pelagos.process import Context, use_context
from pelagos.process.program import Program, ProgramFailed, ask_program, run_program

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Real children need the real loop."""
    return "asyncio"


@pytest.fixture
async def world() -> AsyncIterator[SystemWorld]:
    made = SystemWorld()
    yield made
    made.close()


def sh(script: str, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", script, "sh", *arguments]


def alive(pid: int) -> bool:
    """Running: a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110 - nothing tells of another's child
            await asyncio.sleep(0.01)


def children() -> set[str]:
    """Of this process, running and zombies."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No child of a test is there after it; those of other tests that run in this process are not its own."""
    before = children()
    yield
    assert children() <= before


async def test_output_errors_and_input(world: SystemWorld) -> None:
    result = await run_program(world, sh('cat; echo "$1"; echo oops >&2', "a b; $HOME"), content=b"in\n")
    assert (result.exit_code, result.out_lines, result.err_lines) == (0, ["in", "a b; $HOME"], ["oops"])


async def test_another_exit_code_is_an_error(world: SystemWorld) -> None:
    with pytest.raises(ProgramFailed, match="exit code 3: no such pump") as raised:
        await run_program(world, sh("echo so far; echo no such pump >&2; exit 3"))
    assert raised.value.details == {"exit_code": 3, "out_lines": ["so far"], "err_lines": ["no such pump"]}
    with pytest.raises(ProgramFailed, match="SIGSEGV"):
        await run_program(world, sh("kill -SEGV $$"))
    assert (await run_program(world, sh("exit 3"), check=False)).exit_code == 3


@pytest.mark.parametrize("argv", [[], ["/does/not/exist"], ["/etc/passwd"]])
async def test_what_cannot_be_started(world: SystemWorld, argv: list[str]) -> None:
    with pytest.raises(InvalidInput):
        await run_program(world, argv)


async def test_output_is_bounded_and_never_blocks_the_program(world: SystemWorld) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; echo error $i >&2; i=$((i+1)); done"
    result = await run_program(world, sh(script), keep=1000)
    assert (len(result.output), len(result.errors)) == (1000, 1000)
    assert result.out_lines[0] == "line 0"
    assert result.err_lines[-1] == "error 2999"
    assert result.output_dropped == sum(len(f"line {i}\n") for i in range(3000)) - 1000


async def test_input_that_is_not_read_is_no_error(world: SystemWorld) -> None:
    assert (await run_program(world, sh("exec 0<&-; echo done"), content=b"x" * 1_000_000)).out_lines == ["done"]


async def test_the_deadline_of_the_request_ends_it(world: SystemWorld, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    deadline = world.monotonic() + 0.3
    with use_context(Context(Scope("p", "u"), deadline=deadline)), pytest.raises(DeadlineExceeded, match="was ended"):
        await run_program(world, sh('echo $$ > "$1"; exec sleep 1000', str(pid)), timeout=1000)
    assert not alive(int(pid.read_text()))


async def test_close_asks_first_and_then_kills(world: SystemWorld) -> None:
    polite = await Program.start(world, sh("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"))
    stubborn = await Program.start(world, sh("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    async with asyncio.timeout(10):
        while b"up" not in polite._out.value() or b"up" not in stubborn._out.value():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await polite.close(timeout=10)
    result = await polite.wait()
    assert (result.exit_code, result.out_lines) == (7, ["up", "bye"])
    await stubborn.close(timeout=0.2)
    assert (await stubborn.wait()).exit_code == -9
    await stubborn.close()


async def test_what_it_started_ends_with_it(world: SystemWorld) -> None:
    async with asyncio.timeout(20):
        result = await run_program(world, sh("sleep 1000 & echo $!"))
    await until_gone(int(result.out_lines[0]))


async def test_who_left_the_group_holds_up_nobody(world: SystemWorld) -> None:
    script = "import os, sys\nif os.fork() == 0:\n os.setsid(); print(os.getpid(), flush=True)\n"
    script += " import time; time.sleep(60); os._exit(0)\nelse:\n import time; time.sleep(0.3)\n"
    async with asyncio.timeout(20):
        result = await run_program(world, [sys.executable, "-S", "-c", script])
    stranger = int(result.out_lines[0])
    assert alive(stranger)
    os.kill(stranger, 9)


async def test_cancelling_the_caller_kills_it(world: SystemWorld) -> None:
    program = await Program.start(world, sh("trap '' TERM; while :; do sleep 0.05; done"))
    waiting = asyncio.create_task(program.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert not program.running


class Answer(msgspec.Struct):
    doubled: int
    user: str


async def test_a_program_a_request(world: SystemWorld, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        "import json, sys\n"
        "asked = json.load(sys.stdin)\n"
        "print(json.dumps({'doubled': asked['content']['n'] * 2, 'user': asked['user_id'], 'all': asked}))\n"
    )
    argv = [sys.executable, "-S", str(script)]
    context = Context(Scope("ocean", "ann"), deadline=world.monotonic() + 30, trace="t", request_id="r")
    with use_context(context):
        assert await ask_program(world, argv, {"n": 21}, Answer, op="double") == Answer(42, "ann")
        told: dict[str, Any] = (await ask_program(world, argv, {"n": 1}, dict, op="double"))["all"]
    assert 0 < told.pop("remaining") <= 30
    assert told == {
        "op": "double",
        "content": {"n": 1},
        "project_id": "ocean",
        "user_id": "ann",
        "trace": "t",
        "conversation": "",
        "request_id": "r",
    }
    with pytest.raises(ProgramFailed, match="answered what is no Answer"):
        await ask_program(world, sh("cat > /dev/null; echo '{}'"), None, Answer)
    with pytest.raises(ProgramFailed, match="exit code 2"):
        await ask_program(world, sh("exit 2"), json.loads("null"), Answer)
