"""An instance's first process: makes the rest feel at home, runs the user data once, reaps, logs, stops in order.

It owns the console: what the instance's processes write goes through its pipe into ``console.log``, which it keeps
below its limit. It holds the life lock; when it is gone, so is the lock, whatever killed it. In a process-id
namespace the kernel then kills all others; without one, init is the sub-reaper of all it started and knows them by
descent.

It keeps open no directory of the host and nothing that can be written but its console and its list of phases, so
that no descriptor is a way out.
"""

# ruff: noqa: PTH118, PTH208
# (text paths: pathlib would cost the start of each instance some milliseconds)

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Any

from . import steps, syscalls

__all__ = ["Init"]

LINE = 1 << 16
LOOK_AROUND = 10_000
"""Milliseconds after which init sees whether its instance still exists: a home may be removed by hand."""


class Init:
    """The loop of process 1. ``life``, ``console`` and ``phases`` are descriptors; ``plan`` is the launcher's."""

    def __init__(self, plan: dict[str, Any], life: int, console: int, phases: int) -> None:
        self._plan = plan
        self._life = life
        self._console = console
        self._phases = phases
        self._limit = int(plan["console_bytes"])
        self._size = os.lseek(console, 0, os.SEEK_END)
        self._alone = os.getpid() == 1
        self._stopping = ""
        self._kill_at = 0.0
        self._job = 0
        self._jobs: list[dict[str, Any]] = []
        self._failed = 0
        self._signals, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._output, self._input = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._output, False)

    # -- console ------------------------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """A line of our own in the console."""
        self._write(f"[{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}Z] {text}\n".encode("utf-8", "replace"))

    def _write(self, data: bytes) -> None:
        try:
            if self._size + len(data) > self._limit:
                keep = self._limit // 2
                tail = os.pread(self._console, keep, max(0, self._size - keep))
                tail = b"[earlier output was dropped]\n" + tail[tail.find(b"\n") + 1 :]
                os.ftruncate(self._console, 0)
                os.pwrite(self._console, tail, 0)
                self._size = len(tail)
                data = data[-keep:]
            os.pwrite(self._console, data, self._size)
            self._size += len(data)
        except OSError:  # a full disk: the output is lost, the instance lives
            self._size = min(self._size, os.fstat(self._console).st_size)

    def phase(self, name: str, **facts: Any) -> None:
        """Tell the driver, for good, how far we are."""
        try:
            os.write(self._phases, (json.dumps({"phase": name, **facts}) + "\n").encode())
        except OSError as error:
            self.log(f"cannot note the phase {name}: {error}")

    # -- life ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Take signals and standard streams; from here on SIGTERM is honoured."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPWR):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(self._input, 1)
        os.dup2(self._input, 2)
        os.close(null)

    def run(self) -> None:
        """Until told to stop."""
        if self._plan["fresh"]:
            self._jobs = list(self._plan["steps"])
            for warning in self._plan["warnings"]:
                self.log(f"warning: {warning}")
            if self._jobs:
                self.phase("user-data-started")
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        had_jobs = bool(self._jobs)
        while True:
            while self._jobs and not self._job and not self._stopping:
                self._next_step()
            if had_jobs and not self._jobs and not self._job and not self._stopping:
                had_jobs = False
                self.log("user data finished" + (f": {self._failed} step(s) failed" if self._failed else ""))
                self.phase("user-data-finished", failed=self._failed)
            if self._stopping and self._wind_down():
                return
            poll.poll(50 if self._stopping else LOOK_AROUND)
            if os.fstat(self._life).st_nlink == 0 and not self._stopping:
                self._stopping = "its files were removed"
            self._drain()
            try:
                os.read(self._signals, 4096)
            except BlockingIOError:
                pass
            self._reap()

    def _drain(self) -> None:
        for _ in range(64):
            try:
                data = os.read(self._output, LINE)
            except BlockingIOError:
                return
            self._write(data)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._job:
                self._job = 0
                self._drain()
                step = self._jobs.pop(0)
                code = os.waitstatus_to_exitcode(status)
                failed = step.get("counts") and code > 0 and code < 126
                self._failed += code if failed else int(code != 0)
                if code and not failed:
                    ended = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
                    self.log(f"{step['label']} {ended}")

    def _next_step(self) -> None:
        step = self._jobs[0]
        if step.get("announce", True):
            self.log(step["label"])
        try:
            argv = steps.perform(step, self._plan, self.log)
        except OSError as error:
            self.log(f"{step['label']} failed: {error}")
            self._failed += 1
            argv = None
        if argv is None:
            self._jobs.pop(0)
        else:
            self._job = self.start(argv)

    def start(self, argv: list[str]) -> int:
        """Start a process of the instance, its output on the console. Returns its process id."""
        environment = dict(self._plan["environment"])
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in range(1, signal.NSIG):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass
            os.setsid()
            if not self._alone:
                syscalls.parent_death_signal(signal.SIGKILL)
            os.umask(0o022)
            os.chdir(self._plan["working_directory"])
            for path in environment["PATH"].split(":") if "/" not in argv[0] else [""]:
                try:
                    os.execve(os.path.join(path, argv[0]), argv, environment)  # noqa: S606 - what an instance is for
                except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                    failure = error
            os.write(2, f"{argv[0]}: {failure.strerror}\n".encode())
        finally:
            os._exit(127)

    # -- the end ------------------------------------------------------------------------------------------------

    def _on_stop(self, number: int, frame: object) -> None:
        del frame
        if not self._stopping:
            self._stopping = signal.Signals(number).name

    def _wind_down(self) -> bool:
        """Ask all to end, then make them; True when none is left."""
        now = time.monotonic()  # noqa: TID251 - runs inside the instance, where there is no world
        if not self._kill_at:
            self.log(f"stopping ({self._stopping})")
            self._kill_at = now + float(self._plan["grace"])
            self._signal_all(signal.SIGTERM)
            self._signal_all(signal.SIGCONT)
        elif now >= self._kill_at:
            self._signal_all(signal.SIGKILL)
        self._reap()
        if self._others():
            return False
        self._drain()
        self.log("stopped")
        self.phase("exit", reason="stopped")
        return True

    def _others(self) -> list[int]:
        if self._alone:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        return steps.descendants(os.getpid())

    def _signal_all(self, number: int) -> None:
        for pid in self._others():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
