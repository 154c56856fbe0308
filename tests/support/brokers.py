"""RabbitMQ for tests: the server that answers, and one of a test's own that may be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pelagos.testing import broker_problem, broker_url, throw_away_broker

__all__ = ["OwnBroker", "own_broker", "skip_without_broker", "throw_away_system"]


def skip_without_broker() -> str:
    """The URL of the server; skips the test where none answers."""
    url = broker_url()
    problem = broker_problem(url)
    if problem:
        pytest.skip(problem)
    return url


@contextlib.asynccontextmanager
async def throw_away_system(url: str, services: tuple[str, ...] = ()) -> AsyncIterator[str]:
    """A system name that nobody else uses; at the end its exchanges and shared queues are deleted, and the queues of
    the durable ``services``."""
    async with throw_away_broker(url) as broker:
        for address in ("service:test.store", "service:test.work", *(f"service:{broker.system}.{n}" for n in services)):
            broker.also_delete(address)
        yield broker.system


class OwnBroker:
    """A RabbitMQ node of a test's own, which may be killed and started again. See :func:`own_broker`."""

    def __init__(self, folder: Path, port: int, dist_port: int) -> None:
        self.url = f"amqp://guest:guest@127.0.0.1:{port}"
        self.port = port
        self._node = f"pelagos-test-{os.getpid()}-{port}@localhost"
        self._process: asyncio.subprocess.Process | None = None
        script = "/usr/lib/rabbitmq/bin/rabbitmq-server"
        self._script = script if Path(script).exists() else "rabbitmq-server"
        self._environ = {
            **os.environ,
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": str(folder / "broker.log"),
            "RABBITMQ_PID_FILE": str(folder / "broker.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +A 8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": str(folder),  # the node's cookie
        }

    async def start(self) -> None:
        """Returns when it takes connections."""
        # A session of its own, so that kill() reaches the whole of it: the script, the virtual machine, its helpers.
        # Debian's wrapper in the path would open another one when it gives up root's rights, so that is done here.
        self._process = await asyncio.create_subprocess_exec(
            self._script,
            env=self._environ,
            user="rabbitmq" if os.geteuid() == 0 else None,
            group="rabbitmq" if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        async with asyncio.timeout(90):
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"rabbitmq-server ended with {self._process.returncode}")
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    try:
                        writer.write(b"AMQP\x00\x00\x09\x01")
                        await reader.readexactly(8)  # its greeting: it is up, not only listening
                        return
                    finally:
                        writer.close()
                await asyncio.sleep(0.1)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def control(self, *command: str) -> None:
        """``rabbitmqctl`` on this node; takes seconds. Raises :class:`RuntimeError` if it fails."""
        process = await asyncio.create_subprocess_exec(
            self._script.replace("rabbitmq-server", "rabbitmqctl"),
            *command,
            env=self._environ,
            user="rabbitmq" if os.geteuid() == 0 else None,
            group="rabbitmq" if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"rabbitmqctl {command[0]} ended with {process.returncode}: {said.decode()[-500:]}")

    async def kill(self) -> None:
        """kill -9, as a power cut does. Idempotent."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@contextlib.asynccontextmanager
async def own_broker() -> AsyncIterator[OwnBroker]:
    """A second RabbitMQ node beside the machine's, on ports of its own, gone at the end. Skips where none is installed.

    ``broker.url`` is where it answers; ``await broker.kill()`` and ``await broker.start()`` as often as wanted. A start
    takes 5 to 30 seconds.
    """
    pytest.importorskip("aio_pika", reason="aio-pika is not installed")
    if shutil.which("rabbitmq-server") is None:
        pytest.skip("no RabbitMQ server answers: rabbitmq-server is not installed")
    with tempfile.TemporaryDirectory(prefix="pelagos-broker-", ignore_cleanup_errors=True) as name:
        folder = _prepared(Path(name))
        ports = _free_ports(2)
        broker = OwnBroker(folder, *ports)
        try:
            await broker.start()
            yield broker
        finally:
            await broker.kill()


def _prepared(folder: Path) -> Path:
    folder.chmod(0o777)  # the node does not run with root's rights
    (folder / "plugins").write_text("[].\n")
    (folder / "rabbitmq.conf").write_text("loopback_users.guest = true\n")
    return folder


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
