"""The state directory, its daemon's lock, its socket, its token."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pelagos.api import token_row, write_token
from pelagos.model.errors import Conflict, InvalidInput, StoreUnavailable, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import SystemWorld
from pelagos.runtime.access import ensure_token
from pelagos.runtime.home import DaemonLock, daemon_pid, home_problem, prepare_home, write_private
from pelagos.runtime.listeners import bind_tcp, bind_unix, parse_listen
from pelagos.store import open_store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_home_is_made_for_this_user_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        prepare_home(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a/b")) == (0o700, 0o700)
    assert home_problem(tmp_path / "a/b") is None


def test_an_empty_home_that_others_may_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h").chmod(0o755)
    assert "read by others" in str(home_problem(tmp_path / "h"))
    prepare_home(tmp_path / "h")
    assert mode(tmp_path / "h") == 0o700


@pytest.mark.parametrize("kind", ["directory in use", "sticky directory", "file", "device", "link"])
def test_a_mistyped_home_changes_nothing(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    target = tmp_path / "target"
    match kind:
        case "file":
            place.write_text("")
        case "device":
            os.mkfifo(place)
        case "link":
            target.mkdir()
            (target / "something").touch()
            place.symlink_to(target)
        case _:
            place.mkdir()
            if kind == "directory in use":
                (place / "something").touch()
    (target if kind == "link" else place).chmod(0o1777 if kind == "sticky directory" else 0o755)
    before = (mode(place), mode(target) if kind == "link" else 0)
    with pytest.raises(StoreUnavailable):
        prepare_home(place)
    assert (mode(place), mode(target) if kind == "link" else 0) == before


def test_homes_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable) as caught:
        prepare_home(tmp_path / "file")
    assert "PELAGOS_HOME" in caught.value.advice
    with pytest.raises(StoreUnavailable):
        prepare_home(tmp_path / "file" / "below")
    assert home_problem(tmp_path / "absent") == "does not exist yet"


def test_private_files_are_whole_and_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_private(tmp_path / "t", "one")
        write_private(tmp_path / "t", "two")
    finally:
        os.umask(old)
    assert (mode(tmp_path / "t"), (tmp_path / "t").read_text()) == (0o600, "two")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_one_daemon_a_home(tmp_path: Path) -> None:
    assert daemon_pid(tmp_path) is None
    first = DaemonLock(tmp_path)
    first.acquire()
    assert daemon_pid(tmp_path) == os.getpid()
    with pytest.raises(Conflict, match=str(os.getpid())) as caught:
        DaemonLock(tmp_path).acquire()
    assert caught.value.details["pid"] == os.getpid()
    first.release()
    first.release()
    assert daemon_pid(tmp_path) is None
    DaemonLock(tmp_path).acquire()


def test_a_killed_daemon_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from pelagos.runtime.home import DaemonLock;"
        "lock = DaemonLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert daemon_pid(tmp_path) == process.pid
        process.kill()
        process.wait()
    assert daemon_pid(tmp_path) is None
    lock = DaemonLock(tmp_path)
    lock.acquire()
    assert daemon_pid(tmp_path) == os.getpid()
    lock.release()


def test_the_socket_is_private_from_its_first_moment_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "pelagos.sock"
    old = os.umask(0)
    try:
        dead = bind_unix(path)
        assert mode(path) == 0o600
        dead.close()
        again = bind_unix(path)
    finally:
        os.umask(old)
    again.listen()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(path))
    again.close()


def test_sockets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "pelagos.sock").write_text("mine")
    with pytest.raises(Conflict, match="no socket"):
        bind_unix(tmp_path / "pelagos.sock")
    assert (tmp_path / "pelagos.sock").read_text() == "mine"
    with pytest.raises(InvalidInput, match="longer"):
        bind_unix(tmp_path / ("x" * 120))
    with pytest.raises(StoreUnavailable):
        bind_unix(tmp_path / "absent" / "s")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:8470", ("::1", 8470)),
        ("127.9.9.9:1", ("127.9.9.9", 1)),
    ],
)
def test_addresses_to_listen_on(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text, allow_remote=False) == address


@pytest.mark.parametrize("text", ["8470", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "name:80", ":80", "", "::1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="not an address"):
        parse_listen(text, allow_remote=True)


def test_other_machines_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="other machines"):
        parse_listen("0.0.0.0:80", allow_remote=False)
    assert parse_listen("0.0.0.0:80", allow_remote=True) == ("0.0.0.0", 80)
    assert "TLS" in capsys.readouterr().err


def test_a_port_in_use(tmp_path: Path) -> None:
    bound = bind_tcp("127.0.0.1", 0)
    bound.listen()
    with pytest.raises(Unavailable, match="cannot be listened on"):
        bind_tcp("127.0.0.1", bound.getsockname()[1])
    bound.close()


@pytest.mark.anyio
async def test_the_token_file(tmp_path: Path) -> None:
    world = SystemWorld()
    store = open_store(tmp_path / "db", world)
    await store.start()
    try:
        path = await ensure_token(store, world, tmp_path, lifetime=1000.0)
        first = path.read_text().strip()
        assert mode(path) == 0o600
        row = await store.read(lambda c: token_row(c, first))
        assert row is not None
        assert row.scope == DEFAULT_SCOPE
        await ensure_token(store, world, tmp_path, lifetime=1000.0)
        assert path.read_text().strip() == first  # a valid one stays
        now = world.now()
        await store.run(lambda c: write_token(c, first, DEFAULT_SCOPE, now=now - 999, lifetime=1000.0))
        await ensure_token(store, world, tmp_path, lifetime=1000.0)
        second = path.read_text().strip()
        assert second != first  # about to end: replaced
        path.write_text("somebody wrote this")
        await ensure_token(store, world, tmp_path, lifetime=1000.0)
        assert path.read_text().strip() not in (first, second, "somebody wrote this")
    finally:
        await store.stop()
        world.close()
