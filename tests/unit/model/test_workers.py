"""Workers: jobs in threads that can be taken back, given up, and never hold up the exit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from pelagos.model import SystemWorld
from pelagos.model.workers import DaemonWorkers
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


async def test_jobs_run_in_threads_of_their_own_and_no_more_than_allowed() -> None:
    workers = SystemWorld().workers("test", 2)
    running, most = 0, 0
    lock = threading.Lock()
    both = threading.Barrier(2, timeout=PATIENCE)

    def job(number: int) -> tuple[int, str]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()
        with lock:
            running -= 1
        return number, threading.current_thread().name

    jobs = [workers.submit(lambda number=number: job(number)) for number in range(6)]
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*(job.future for job in jobs))
    assert [number for number, _ in results] == list(range(6))
    assert {name for _, name in results} == {"pelagos-test-1", "pelagos-test-2"}
    assert most == 2
    workers.close()


async def test_an_error_comes_to_whoever_waits() -> None:
    for workers in (DaemonWorkers("test", 1), SimulatedWorld().workers("test", 1)):
        with pytest.raises(ZeroDivisionError):
            await workers.submit(lambda: 1 / 0).future
        assert await workers.submit(lambda: 2).future == 2
        workers.close()


async def test_what_has_not_begun_can_be_taken_back() -> None:
    workers = DaemonWorkers("test", 1)
    begun, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait(PATIENCE)
        ran.append("first")

    one = workers.submit(first)
    two = workers.submit(lambda: ran.append("second"))
    assert await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE)
    assert not one.withdraw()
    assert two.withdraw()
    assert two.future.cancelled()
    go_on.set()
    await one.future
    await workers.submit(lambda: ran.append("third")).future
    assert ran == ["first", "third"]
    workers.close()


async def test_close_takes_back_what_waits_and_lets_the_rest_end() -> None:
    workers = DaemonWorkers("test", 1)
    begun, go_on = threading.Event(), threading.Event()

    def first() -> str:
        begun.set()
        go_on.wait(PATIENCE)
        return "done"

    one = workers.submit(first)
    assert await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE)
    two = workers.submit(lambda: "never")
    workers.close()
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(lambda: "later")
    assert two.future.cancelled()
    go_on.set()
    assert await one.future == "done"


async def test_a_simulated_job_is_done_at_once_without_a_thread() -> None:
    workers = SimulatedWorld().workers("test", 8)
    job = workers.submit(threading.current_thread)
    assert job.future.done()
    assert await job.future is threading.main_thread()
    assert not job.withdraw()
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(lambda: None)


async def test_an_answer_after_the_loop_is_closed_is_nobodys() -> None:
    go_on, ended = threading.Event(), threading.Event()

    async def leave() -> None:
        workers = DaemonWorkers("test", 1)
        workers.submit(lambda: go_on.wait(PATIENCE))
        workers.submit(ended.set)

    def other_loop() -> None:
        asyncio.run(leave())

    await asyncio.get_running_loop().run_in_executor(None, other_loop)
    go_on.set()
    assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, PATIENCE)


def test_a_thread_that_hangs_does_not_hold_up_the_exit() -> None:
    program = """
import asyncio, threading
from pelagos.model.workers import DaemonWorkers

async def main():
    begun = threading.Event()
    workers = DaemonWorkers("test", 1)
    workers.submit(lambda: (begun.set(), threading.Event().wait()))
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    workers.close()
    print("left")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "left\n"
