"""Programs of this host, run for a process: their output bounded, their time limited, nothing of them left.

What can go wrong with a child process is mostly about its end. So each is the leader of a group of its own, and what it
started ends with it: signals go to the group. It is always waited for, so that no zombie stays. Whoever waits for it
sets its limit: the deadline of the request that runs, or ``timeout``. Its output is read to its end and only so much of
it kept, so a program that talks without end neither fills the memory nor blocks on a full pipe. There is no shell:
``argv`` is a list, and nothing in it means more than itself.

:func:`ask_program` is the ancestor's idea of an agent in another language: a program a request, which reads the request
and its context as JSON from its standard input and writes the answer to its standard output.

The way rejected was ``communicate()``: it keeps all output, and knows of neither groups nor deadlines.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pelagos.model.errors import DeadlineExceeded, InvalidInput, PelagosError
from pelagos.model.world import World
from pelagos.process.context import current_context

__all__ = ["Program", "ProgramFailed", "ProgramRequest", "ProgramResult", "ask_program", "run_program"]

T = TypeVar("T")

_CHUNK = 65_536
_KEPT = 1024 * 1024
_GRACE = 5.0
"""Seconds between TERM and KILL."""
_LAST_WORDS = 1.0
"""Seconds in which a pipe ends after the program's group has: longer holds it only who left the group."""


class ProgramResult(msgspec.Struct, frozen=True):
    """How a program ended. ``exit_code`` is minus the signal's number if one ended it.

    Of the standard output the first bytes are kept, of the standard error the last ones, which say why it failed."""

    exit_code: int
    output: bytes
    errors: bytes
    output_dropped: int = 0
    """Bytes of standard output that were not kept."""
    errors_dropped: int = 0

    @property
    def out_lines(self) -> list[str]:
        return self.output.decode(errors="replace").splitlines()

    @property
    def err_lines(self) -> list[str]:
        return self.errors.decode(errors="replace").splitlines()


class ProgramFailed(PelagosError):
    """A program ended with another exit code than 0; ``details`` has it, and the last lines it wrote."""

    code = "program_failed"
    status = 502
    default_advice = "Look at what it wrote to its standard error, in the details."


class ProgramRequest(msgspec.Struct, frozen=True):
    """What :func:`ask_program` writes to the program's standard input, as one JSON object."""

    op: str
    content: Any
    project_id: str
    user_id: str
    trace: str
    conversation: str
    request_id: str | None
    remaining: float | None
    """Seconds until whoever asked stops waiting."""


class Program:
    """A running program; :meth:`start` makes one. Use it as an async context manager, or :meth:`close` it."""

    def __init__(self, child: asyncio.subprocess.Process, name: str, monotonic: Any, keep: int) -> None:
        self._child = child
        self._name = name
        self._monotonic = monotonic
        self._out = _Kept(keep, last=False)
        self._err = _Kept(keep, last=True)
        self._ending: asyncio.Task[ProgramResult] | None = None
        self._exited = _exit_of(child.pid)

    @classmethod
    async def start(
        cls,
        world: World,
        argv: Sequence[str],
        *,
        content: bytes = b"",
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        keep: int = _KEPT,
    ) -> Program:
        """Start ``argv``, with ``content`` as its standard input; ``env`` goes over this program's own environment.
        ``keep``: bytes of each output. Raises :class:`InvalidInput` if it cannot be started."""
        if not argv:
            raise InvalidInput("no program was named")
        options: dict[str, Any] = {"cwd": cwd, "start_new_session": True}
        options["env"] = None if env is None else {**world.environ, **env}
        for stream in ("stdin", "stdout", "stderr"):
            options[stream] = asyncio.subprocess.PIPE
        try:
            child = await world.spawn(list(argv), **options)
        except OSError as error:
            raise InvalidInput(
                f"the program {argv[0]!r} cannot be started: {error.strerror}", details={"argv": list(argv)}
            ) from error
        program = cls(child, argv[0], world.monotonic, keep)
        # A task that no group owns: whoever started the program may wait in another task. close() and wait() await it.
        program._ending = asyncio.get_running_loop().create_task(program._live(content), name=f"program {argv[0]}")
        return program

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return not self._exited.done() and self._child.returncode is None

    async def wait(self, timeout: float | None = None) -> ProgramResult:
        """Until it has ended, whatever its exit code.

        At the deadline of the request that runs, or after ``timeout`` seconds, it is ended and
        :class:`DeadlineExceeded` raised. If its caller is cancelled, it is killed."""
        limit = _limit(self._monotonic(), timeout)
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(self._ended())
        except TimeoutError:
            await self.close()
            raise DeadlineExceeded(
                f"the program {self._name!r} took longer than {limit:g} s and was ended",
                details={"errors": self._err.text()[-1000:]},
            ) from None
        except asyncio.CancelledError:
            await self.close(force=True)
            raise

    async def close(self, force: bool = False, timeout: float = _GRACE) -> None:
        """End it: TERM to its group and, ``timeout`` seconds later, KILL; with ``force`` at once. Returns when it is
        gone. Idempotent."""
        if self.running and not force:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self._ended()], timeout=timeout)
        if self.running or not self._ended().done():
            self._signal(signal.SIGKILL)
        await asyncio.wait([self._ended()])

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _ended(self) -> asyncio.Task[ProgramResult]:
        assert self._ending is not None
        return self._ending

    def _signal(self, number: signal.Signals) -> None:
        # The group's number is that of its leader, and is not given to another while anybody is in the group.
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return

    async def _live(self, content: bytes) -> ProgramResult:
        child = self._child
        assert child.stdout is not None and child.stderr is not None
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._feed(content))
            readers = [
                group.create_task(_read(child.stdout, self._out)),
                group.create_task(_read(child.stderr, self._err)),
            ]
            waiting = group.create_task(child.wait())
            # asyncio tells of an exit only once the pipes are closed as well, and others may hold these.
            either: tuple[asyncio.Future[Any], ...] = (waiting, self._exited)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            self._signal(signal.SIGKILL)  # what it left behind in its group
            await asyncio.wait([waiting, *readers], timeout=_LAST_WORDS)
            while child.returncode is None:  # noqa: ASYNC110 - for a moment: it is being reaped, and nothing tells of it
                await asyncio.sleep(0.01)
            for task in (feeding, *readers):
                task.cancel()
            transport: Any = vars(child)["_transport"]
            transport.close()
            exit_code = await waiting
        return ProgramResult(exit_code, self._out.value(), self._err.value(), self._out.dropped, self._err.dropped)

    async def _feed(self, content: bytes) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        try:
            stdin.write(content)
            await stdin.drain()
            stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            return  # it did not want to hear it all, which is its own affair


def _exit_of(pid: int) -> asyncio.Future[None]:
    """Done when the program has ended, whoever holds its pipes."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[None] = loop.create_future()
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        exited.set_result(None)
        return exited

    def tell() -> None:
        loop.remove_reader(handle)
        os.close(handle)
        exited.set_result(None)

    loop.add_reader(handle, tell)
    return exited


class _Kept:
    """So many bytes of a stream: its first, or its last ones."""

    def __init__(self, most: int, *, last: bool) -> None:
        self.dropped = 0
        self._most = most
        self._last = last
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        self._bytes += chunk
        excess = len(self._bytes) - self._most
        if excess > 0:
            self.dropped += excess
            if self._last:
                del self._bytes[:excess]
            else:
                del self._bytes[self._most :]

    def value(self) -> bytes:
        return bytes(self._bytes)

    def text(self) -> str:
        return self._bytes.decode(errors="replace")


async def _read(stream: asyncio.StreamReader, kept: _Kept) -> None:
    while chunk := await stream.read(_CHUNK):
        kept.add(chunk)


def _limit(now: float, timeout: float | None) -> float | None:
    deadline = current_context().deadline
    if deadline is None:
        return timeout
    remaining = max(0.0, deadline - now)
    return remaining if timeout is None else min(remaining, timeout)


async def run_program(
    world: World,
    argv: Sequence[str],
    *,
    content: bytes = b"",
    timeout: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    keep: int = _KEPT,
    check: bool = True,
) -> ProgramResult:
    """Run a program to its end.

    With ``check`` it raises :class:`ProgramFailed` for another exit code than 0. Raises :class:`InvalidInput` if it
    cannot be started, and :class:`DeadlineExceeded` as :meth:`Program.wait` does."""
    program = await Program.start(world, argv, content=content, cwd=cwd, env=env, keep=keep)
    result = await program.wait(timeout)
    if check and result.exit_code != 0:
        lines = result.err_lines
        how = f"exit code {result.exit_code}" if result.exit_code > 0 else _signal_name(-result.exit_code)
        raise ProgramFailed(
            f"the program {argv[0]!r} failed with {how}" + (f": {lines[-1]}" if lines else ""),
            details={"exit_code": result.exit_code, "out_lines": result.out_lines[-20:], "err_lines": lines[-20:]},
        )
    return result


async def ask_program(
    world: World,
    argv: Sequence[str],
    content: object,
    type_: type[T],
    *,
    op: str = "",
    timeout: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> T:
    """One request to a program of its own: a :class:`ProgramRequest` as JSON in, a ``type_`` as JSON out.

    Raises :class:`ProgramFailed` also for an answer that is no ``type_``, and what :func:`run_program` raises."""
    context = current_context()
    request = ProgramRequest(
        op=op,
        content=content,
        project_id=context.scope.project_id,
        user_id=context.scope.user_id,
        trace=context.trace,
        conversation=context.conversation,
        request_id=context.request_id,
        remaining=_limit(world.monotonic(), timeout),
    )
    asked = msgspec.json.encode(request) + b"\n"
    result = await run_program(world, argv, content=asked, timeout=timeout, cwd=cwd, env=env)
    try:
        return msgspec.json.decode(result.output, type=type_)
    except msgspec.DecodeError as error:
        raise ProgramFailed(
            f"the program {argv[0]!r} answered what is no {getattr(type_, '__name__', type_)}: {error}",
            advice="Its standard output must be one JSON value, and nothing else.",
            details={"exit_code": 0, "out_lines": result.out_lines[:20], "err_lines": result.err_lines[-20:]},
        ) from error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
