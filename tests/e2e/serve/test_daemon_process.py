"""A real daemon on a home of its own, asked through its socket and through TCP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from pelagos.clients import connect
from pelagos.clients.sync import connect as connect_sync
from pelagos.model.errors import Unauthenticated, Unavailable
from pelagos.wire.infrastructures import DefinitionsRequest, RunRequest

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

SCRIPT = """
import asyncio, sys
from pelagos.model.errors import PelagosError
from pelagos.runtime import load_settings
from pelagos.runtime.serve import serve
settings = load_settings(home=sys.argv[1], environ={}, overrides={"simulated": True, "http": {"drain": 3.0}})
try:
    asyncio.run(serve(settings, listen=sys.argv[2] or None))
except PelagosError as error:
    sys.exit(f"{error.code}: {error}")
"""
SOURCES = {
    "i.yaml": "infra_name: shop\nuser_id: me\nnodes:\n- {name: web, type: web}\n",
    "n.yaml": "'node_def:web':\n- resource: {type: simulated}\n  contextualisation: {type: basic}\n"
    "  health_check: {ping: false}\n",
}


class Daemon:
    """A daemon's process, and the addresses it told."""

    def __init__(self, process: subprocess.Popen[str], addresses: list[str], home: Path) -> None:
        self.process, self.addresses, self.home = process, addresses, home
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    @property
    def unix(self) -> str:
        return self.addresses[0]

    @property
    def tcp(self) -> str:
        return self.addresses[1]

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def end(self, *signals: signal.Signals) -> int:
        """Send signals; returns how the process ended."""
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


def spawn(home: Path, listen: str = "", **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(home), listen],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        umask=0,
    )


@contextmanager
def daemon(home: Path, listen: str = "127.0.0.1:0", **environ: str) -> Iterator[Daemon]:
    process = spawn(home, listen, **environ)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("pelagos: ready on "):
            break
    else:
        process.wait()
        process.stderr.close()
        raise AssertionError("".join(lines))
    found = Daemon(process, line.removeprefix("pelagos: ready on ").strip().split(", "), home)
    found.lines.extend(lines)
    try:
        yield found
    finally:
        if process.poll() is None:
            found.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("e2e") / "home") as found:
        yield found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_everything_of_the_home_is_this_users_alone(running: Daemon) -> None:
    home = running.home
    assert mode(home) == 0o700
    assert mode(home / "pelagos.sock") == 0o600
    assert mode(home / "token") == 0o600
    assert mode(home / "logs" / "pelagos.log") == 0o600
    assert mode(home / "logs") == 0o700


async def test_the_socket_needs_no_token(running: Daemon) -> None:
    async with connect(running.unix) as client:
        health = await client.health()
    assert (health.status, health.mode, health.pid) == ("ok", "serve", running.process.pid)


async def test_tcp_needs_the_token(running: Daemon) -> None:
    async with connect(running.tcp, running.token) as client:
        assert (await client.health()).pid == running.process.pid
    for wrong in (None, "plg_wrong", running.token + "x"):
        async with connect(running.tcp, wrong) as client:
            with pytest.raises(Unauthenticated):
                await client.health()


async def test_host_and_origin_on_tcp(running: Daemon) -> None:
    good = {"Authorization": f"Bearer {running.token}"}
    async with httpx2.AsyncClient(base_url=running.tcp, headers=good, trust_env=False) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/health", headers={"Host": "evil.example"})).status_code == 403
        assert (await http.post("/plan", json={}, headers={"Origin": "https://evil.example"})).status_code == 403
        assert (await http.get("/health", headers={"Origin": running.tcp})).status_code == 200
        response = await http.get("/health", headers={"Authorization": "Basic eDp5"})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert "server" not in response.headers


async def test_large_bodies_and_broken_requests(running: Daemon) -> None:
    async with httpx2.AsyncClient(base_url=running.tcp, trust_env=False) as http:
        http.headers["Authorization"] = f"Bearer {running.token}"
        assert (await http.post("/infrastructures/", content=b"#" * (17 * 1024 * 1024))).status_code == 413
    host, port = running.tcp.removeprefix("http://").split(":")
    for request in (b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: " + b"x" * 100_000 + b"\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.read(12)
        assert answer.startswith(b"HTTP/1.1 4")
        writer.close()
        await writer.wait_closed()
    async with connect(running.unix) as client:
        assert (await client.health()).status == "ok"


async def test_an_infrastructure_lives_in_the_daemon(running: Daemon) -> None:
    async with asyncio.timeout(60), connect(running.unix) as client:
        definitions = DefinitionsRequest(sources={"n.yaml": SOURCES["n.yaml"]}, entries=("n.yaml",))
        assert [view.type for view in (await client.definitions.import_(definitions)).items] == ["web"]
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=running.unix[7:])) as http:
            text = SOURCES["i.yaml"].encode()
            response = await http.post("http://pelagos/infrastructures/", content=text, timeout=30)
        assert response.status_code == 202, response.text
        accepted = response.json()
        kinds = [event.kind async for event in client.runs.follow(accepted["run"])]
        assert kinds[-1] == "run.succeeded"
        assert (await client.infrastructures.status("shop")).state == "ready"
        run = await client.runs.start(RunRequest(kind="down", infrastructure=accepted["infraid"]))
        assert [event.kind async for event in client.runs.follow(run.id)][-1] == "run.succeeded"


def test_the_sync_face(running: Daemon) -> None:
    with connect_sync(running.unix) as client:
        assert client.health().status == "ok"
        assert client.infrastructures.list("none of that name") == ()
        run = client.runs.start(RunRequest(kind="up", sources=SOURCES, entries=("i.yaml", "n.yaml")))
        assert list(client.runs.follow(run.id))[-1].kind == "run.succeeded"
        run = client.runs.start(RunRequest(kind="down", infrastructure="shop"))
        for event in client.runs.follow(run.id):
            assert event.run_id == run.id
            break  # leaving early closes the stream


def test_a_second_daemon_is_refused_and_told_the_first_ones_pid(running: Daemon) -> None:
    process = spawn(running.home)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"process {running.process.pid}" in errors
    assert running.process.poll() is None


def test_other_machines_only_when_allowed(tmp_path: Path) -> None:
    process = spawn(tmp_path / "home", "0.0.0.0:0")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "other machines" in errors


async def test_sigterm_drains_with_a_stream_open_and_shows_no_secret(tmp_path: Path) -> None:
    with daemon(tmp_path / "home") as found:
        token = found.token
        async with connect(found.unix, patience=0) as client:
            stream = client.events(follow=True)
            first = asyncio.ensure_future(anext(stream))
            async with asyncio.timeout(10):
                while await client.health() and not first.done():
                    # The stream is open when the server counts it; its first event never comes.
                    if _connections(found) > 1:
                        break
            loop = asyncio.get_running_loop()
            code = await loop.run_in_executor(None, found.end, signal.SIGTERM)
            assert code == 0
            first.cancel()
            with pytest.raises((Unavailable, asyncio.CancelledError)):
                await first
        assert not (found.home / "pelagos.sock").exists()
        log = (found.home / "logs" / "pelagos.log").read_text()
        assert "stopping" in log
        assert token not in log + "".join(found.lines)


def _connections(found: Daemon) -> int:
    """Connections that are open on the daemon's socket."""
    sockets = Path("/proc/net/unix").read_text().splitlines()
    return sum(1 for line in sockets if line.endswith(str(found.home / "pelagos.sock")) and " 03 " in line)


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path / "home", "") as found, socket.socket(socket.AF_UNIX) as half:
        half.connect(found.unix.removeprefix("unix://"))
        # A request that never ends: the drain waits for it, the second signal does not.
        half.sendall(b"POST /plan HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        with connect_sync(found.unix) as client:
            client.health()
        found.process.send_signal(signal.SIGTERM)
        while "told to stop" not in "".join(found.lines):
            assert found.process.poll() is None
        assert found.end(signal.SIGTERM) == 128 + signal.SIGTERM
        assert "leaving at once" in "".join(found.lines)
    with daemon(tmp_path / "home", "") as found:
        assert found.end(signal.SIGTERM) == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_other_users_are_refused_even_if_they_can_open_the_socket(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory, daemon(Path(directory) / "home", "") as found:
        path = found.unix.removeprefix("unix://")
        for opened, given in ((directory, 0o755), (found.home, 0o755), (path, 0o666)):
            os.chmod(opened, given)
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.sendall(b'GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(12))"
        )

        def ask(user: int) -> tuple[str, str]:
            command = ["/usr/bin/env", "python3", "-c", script, path]
            asked = subprocess.run(command, user=user, capture_output=True, text=True, cwd="/")
            return asked.stdout.strip(), asked.stderr

        assert ask(0)[0] == "b'HTTP/1.1 200'"
        answer, errors = ask(65534)
        # It could connect, and was cut off: nothing to read, or a reset.
        assert answer == "b''" or "ConnectionResetError" in errors or "BrokenPipeError" in errors


async def test_after_kill_9_the_next_daemon_takes_over_and_followers_go_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with daemon(home, "") as first:
        async with connect(first.unix) as client:
            run = await client.runs.start(RunRequest(kind="up", sources=SOURCES, entries=("i.yaml", "n.yaml")))
            async with asyncio.timeout(60):
                stream: AsyncIterator[object] = client.runs.follow(run.id, after=0)
                kinds = [(await anext(stream)).kind]  # type: ignore[attr-defined]
                first.end(signal.SIGKILL)
                assert (home / "pelagos.sock").exists()
                with daemon(home, "") as second:
                    assert second.unix == first.unix
                    kinds += [event.kind async for event in stream]  # type: ignore[attr-defined]
                    assert kinds[0] == "run.accepted"
                    assert kinds[-1] == "run.succeeded"
                    assert len(await client.servers.list()) == 1
                    assert second.end(signal.SIGINT) == 0


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        with daemon(tmp_path / "home", "", NOTIFY_SOCKET=str(path)) as found:
            assert manager.recv(64) == b"READY=1"
            assert found.end(signal.SIGTERM) == 0
            assert manager.recv(64) == b"STOPPING=1"


def test_idle_means_idle(tmp_path: Path) -> None:
    """An idle daemon with an open stream uses next to no processor time."""
    with daemon(tmp_path / "home", "") as found, connect_sync(found.unix) as client:
        stream = client.events(follow=True)
        client.runs.start(RunRequest(kind="up", sources=SOURCES, entries=("i.yaml", "n.yaml")))
        for event in stream:
            if event.kind == "run.succeeded":
                break
        before = _cpu(found.process.pid)
        threading.Event().wait(2.0)  # measured over real time: that is what the test is about
        assert _cpu(found.process.pid) - before < 0.5


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
