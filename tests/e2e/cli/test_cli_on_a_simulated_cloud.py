"""The command line as processes, on a simulated cloud whose reality is a file: with and without a daemon."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

INFRASTRUCTURE = """\
infra_name: shop
user_id: test
nodes:
  - &STORE {name: store, type: shop_node}
  - &WEB {name: web, type: shop_node, scaling: {min: 2, max: 4}}
dependencies:
  - connection: [*WEB, *STORE]
"""
NODES = """\
'node_def:shop_node':
  - resource:
      type: simulated
    health_check: {ping: false}
"""
PELAGOS = [sys.executable, "-m", "pelagos"]


@dataclass
class Desk:
    """A directory with two files, a configuration and a home, and a way to run commands there."""

    directory: Path
    environ: dict[str, str]

    def __call__(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PELAGOS, *arguments],
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PELAGOS, *arguments],
            cwd=self.directory,
            env=self.environ,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )

    def slow(self, seconds: float, *, deletes: float = 0.0) -> None:
        """From now on servers boot so long, and take so long to be deleted."""
        options = f"{{state: file, boot_seconds: {seconds}, delete_seconds: {deletes}}}"
        (self.directory / "pelagos.yaml").write_text(
            f"pool:\n  - {{name: sim, driver: simulated, options: {options}}}\n"
        )

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self("status", "shop", "-o", "json").stdout)
        return document


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")}
    environ |= {
        "PELAGOS_HOME": str(tmp_path / "home"),
        "PELAGOS_CONFIG": str(tmp_path / "pelagos.yaml"),
        "TERM": "xterm",
    }
    desk = Desk(tmp_path, environ)
    desk.slow(0.05)
    (tmp_path / "shop.yaml").write_text(INFRASTRUCTURE)
    (tmp_path / "nodes.yaml").write_text(NODES)
    yield desk


FILES = ("shop.yaml", "nodes.yaml")


def _until_line(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Read stderr up to the first line in which the pattern is found; fails where it ends before."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"no line with {pattern!r} in {''.join(lines)}")


@pytest.fixture
def daemon(desk: Desk) -> Iterator[subprocess.Popen[str]]:
    process = desk.start("serve", stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("unix://")
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def _life(desk: Desk) -> None:
    """Build, again, grow, shrink, look from all sides, take down."""
    plan = desk("plan", *FILES)
    assert plan.returncode == 2
    assert "3 to create" in plan.stdout

    built = desk("up", *FILES)
    assert built.returncode == 0, built.stderr
    status = desk.status()
    assert built.stdout.splitlines()[-1] == status["id"]
    assert list(status) == ["name", "id", "state", "observed_at", "nodes"]
    assert {name: len(node["instances"]) for name, node in status["nodes"].items()} == {"store": 1, "web": 2}
    assert status["state"] == "ready"

    again = desk("up", *FILES, "-o", "json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["run"] is None
    assert desk("plan", *FILES).returncode == 0
    assert desk.status()["nodes"].keys() == status["nodes"].keys()

    grown = desk("scale", "shop", "web", "+1", "-o", "json")
    assert grown.returncode == 0, grown.stderr
    document = json.loads(grown.stdout)
    assert document["status"]["nodes"]["web"]["scaling"] == {"min": 2, "max": 4, "target": 3, "actual": 3}
    assert set(status["nodes"]["web"]["instances"]) < set(document["status"]["nodes"]["web"]["instances"])

    assert desk("scale", "shop", "web", "-1").returncode == 64
    assert desk.status()["nodes"]["web"]["scaling"]["actual"] == 3
    assert desk("scale", "shop", "web", "-1", "--yes").returncode == 0
    assert desk.status()["nodes"]["web"]["scaling"]["actual"] == 2

    listed = json.loads(desk("list", "-o", "json").stdout)
    assert [(one["name"], one["ready"]) for one in listed] == [("shop", 3)]
    events = [json.loads(line) for line in desk("events", "shop", "-o", "json").stdout.splitlines()]
    assert [event["position"] for event in events] == sorted(event["position"] for event in events)
    assert {"run.succeeded", "instance.ready"} <= {event["kind"] for event in events}
    assert "web/" in desk("logs", "shop", "web").stdout
    assert desk("explain", "shop/web").returncode == 0
    assert desk("maintain", "shop", "--once").returncode == 0
    assert json.loads(desk("detach", "shop", "-o", "json").stdout)["maintained"] is False
    assert json.loads(desk("attach", "shop", "-o", "json").stdout)["maintained"] is True

    assert desk("down", "shop").returncode == 64
    assert desk.status()["state"] == "ready"
    down = desk("down", "shop", "--yes")
    assert (down.returncode, down.stdout) == (0, "shop is gone.\n")
    gone = desk("down", "shop", "--yes")
    assert gone.returncode == 66
    assert "Traceback" not in gone.stderr
    assert json.loads(desk("list", "-o", "json").stdout) == []


def test_the_life_of_an_infrastructure_without_a_daemon(desk: Desk) -> None:
    _life(desk)


def test_the_life_of_an_infrastructure_with_a_daemon(desk: Desk, daemon: subprocess.Popen[str]) -> None:
    _life(desk)
    assert daemon.poll() is None


def test_definitions_are_imported_used_and_deleted(desk: Desk) -> None:
    assert desk("definitions", "import", "nodes.yaml").returncode == 0
    assert json.loads(desk("definitions", "list", "-o", "json").stdout)[0]["type"] == "shop_node"
    assert desk("plan", "shop.yaml").returncode == 2
    assert desk("definitions", "delete", "shop_node").returncode == 0
    assert desk("plan", "shop.yaml").returncode == 65
    assert desk("definitions", "delete", "shop_node").returncode == 66


def test_mistakes_are_the_same_text_with_and_without_a_daemon(desk: Desk, request: pytest.FixtureRequest) -> None:
    (desk.directory / "shop.yaml").write_text(INFRASTRUCTURE.replace("type: shop_node}", "tpye: shop_node}", 1))
    embedded = desk("up", *FILES)
    request.getfixturevalue("daemon")
    served = desk("up", *FILES)
    assert embedded.returncode == served.returncode == 65
    assert embedded.stderr == served.stderr
    assert "--> shop.yaml:4:" in embedded.stderr
    assert "tpye" in embedded.stderr


def _interrupted(desk: Desk, *signals: signal.Signals, keep: bool = False) -> tuple[int, str]:
    process = desk.start("up", *FILES, *(["--keep"] if keep else []))
    text = _until_line(process, "pending on sim")
    process.send_signal(signals[0])
    if len(signals) > 1:
        text += _until_line(process, "Cancelling")
        process.send_signal(signals[1])
    _, err = process.communicate(timeout=60)
    return process.returncode, "".join(text) + err


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_rolls_back_what_the_run_made(desk: Desk, first: signal.Signals) -> None:
    desk.slow(30)
    code, err = _interrupted(desk, first)
    assert code == 130
    assert "rolling back" in err
    assert "Traceback" not in err
    assert json.loads(desk("list", "-o", "json").stdout) == []


def test_a_second_ctrl_c_leaves_at_once_and_the_next_down_finishes(desk: Desk) -> None:
    desk.slow(30, deletes=5)
    code, err = _interrupted(desk, signal.SIGINT, signal.SIGINT)
    assert code == 130
    assert "Left at once" in err
    assert "run cancelled" not in err
    assert "Traceback" not in err
    assert [one["name"] for one in json.loads(desk("list", "-o", "json").stdout)] == ["shop"]
    assert desk("down", "shop", "--yes").returncode == 0
    assert json.loads(desk("list", "-o", "json").stdout) == []


def test_ctrl_c_at_a_daemon_rolls_back_there(desk: Desk, request: pytest.FixtureRequest) -> None:
    desk.slow(30)
    request.getfixturevalue("daemon")
    code, _ = _interrupted(desk, signal.SIGINT)
    assert code == 130
    assert json.loads(desk("list", "-o", "json").stdout) == []


def test_ctrl_c_leaves_alone_what_was_there_before(desk: Desk) -> None:
    assert desk("up", *FILES).returncode == 0
    before = desk.status()["nodes"]
    desk.slow(30)
    process = desk.start("scale", "shop", "web", "4")
    _until_line(process, "pending on sim")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert desk.status()["nodes"] == before


def test_with_keep_ctrl_c_keeps(desk: Desk) -> None:
    desk.slow(30)
    code, _ = _interrupted(desk, signal.SIGINT, keep=True)
    assert code == 130
    assert len(desk.status()["nodes"]["store"]["instances"]) == 1


def test_kill_9_is_resumed_by_the_next_up_with_the_same_instances(desk: Desk) -> None:
    desk.slow(1)
    code, _ = _interrupted(desk, signal.SIGKILL)
    assert code == -signal.SIGKILL
    (first,) = desk.status()["nodes"]["store"]["instances"]
    assert desk("up", *FILES).returncode == 0
    status = desk.status()
    assert status["state"] == "ready"
    assert list(status["nodes"]["store"]["instances"]) == [first]
    assert len(status["nodes"]["web"]["instances"]) == 2


def test_a_detached_run_goes_on_without_its_command(desk: Desk) -> None:
    desk.slow(1)
    detached = desk("up", *FILES, "--detach", "-o", "json")
    assert detached.returncode == 0, detached.stderr
    run = json.loads(detached.stdout)["run"]
    follower = desk.start("events", "shop", "--follow")
    assert follower.stdout is not None
    for line in follower.stdout:
        if "run succeeded" in line:
            break
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert desk.status()["state"] == "ready"
    assert (desk.directory / "home" / "logs" / f"run-{run['id']}.log").exists()


def test_the_background_process_says_why_it_cannot_accept(desk: Desk) -> None:
    done = subprocess.run(
        [*PELAGOS, "run-detached"],
        cwd=desk.directory,
        env=desk.environ,
        input='{"kind": "scale", "request_id": "r", "infrastructure": "nothing", "scale": {"web": "1"}}',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 66
    assert json.loads(done.stdout)["error"]["code"] == "not_found"


def test_status_watch_shows_each_change_until_it_is_gone(desk: Desk) -> None:
    assert desk("up", *FILES).returncode == 0
    watcher = desk.start("status", "shop", "--watch", "-o", "json")
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["state"] == "ready"
    assert desk("down", "shop", "--yes").returncode == 0
    _, err = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert "shop is gone." in err


def test_maintain_goes_on_until_ctrl_c_and_leaves_all_in_place(desk: Desk) -> None:
    assert desk("up", *FILES).returncode == 0
    maintainer = desk.start("maintain", "shop", "--interval", "0.2", "-o", "json")
    assert maintainer.stdout is not None
    assert json.loads(maintainer.stdout.readline())["state"] == "ready"
    maintainer.send_signal(signal.SIGINT)
    maintainer.communicate(timeout=30)
    assert maintainer.returncode == 130
    assert desk.status()["state"] == "ready"


def test_a_second_daemon_is_refused_with_the_first_ones_pid(desk: Desk, daemon: subprocess.Popen[str]) -> None:
    second = desk("serve")
    assert second.returncode == 1
    assert str(daemon.pid) in second.stderr


def test_nobody_at_the_url_is_69(desk: Desk) -> None:
    desk.environ["PELAGOS_URL"] = f"unix://{desk.directory}/nothing.sock"
    nobody = desk("list")
    assert nobody.returncode == 69
    assert "Traceback" not in nobody.stderr


def test_a_home_that_is_a_file_is_an_error_that_says_what_to_do(desk: Desk) -> None:
    (desk.directory / "home").write_text("")
    wrong = desk("list")
    assert wrong.returncode == 74
    assert "PELAGOS_HOME" in wrong.stderr


def _at_a_terminal(desk: Desk, arguments: list[str], answer: Callable[[str], bytes | None]) -> tuple[int, str]:
    """Run a command whose three streams are a terminal; ``answer`` sees all text so far and may type once."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*PELAGOS, *arguments], cwd=desk.directory, env=desk.environ, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    text, typed = "", False
    try:
        while True:
            ready, _, _ = select.select([master], [], [], 60)
            assert ready, text
            try:
                data = os.read(master, 65536)
            except OSError:  # the last one has closed the terminal
                break
            if not data:
                break
            text += data.decode(errors="replace")
            reply = None if typed else answer(text)
            if reply is not None:
                os.write(master, reply)
                typed = True
    finally:
        os.close(master)
    return process.wait(timeout=30), text


def test_at_a_terminal_progress_is_live_and_questions_are_asked(desk: Desk) -> None:
    code, text = _at_a_terminal(desk, ["up", *FILES], lambda seen: None)
    assert code == 0
    assert "\x1b[?25l" in text  # the cursor was hidden, and is shown again
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "✓" in text
    assert "2/2" in text

    def refuse(seen: str) -> bytes | None:
        return b"n\n" if "[y/N]" in seen else None

    code, text = _at_a_terminal(desk, ["down", "shop"], refuse)
    assert code == 1
    assert "Nothing was changed." in text
    assert desk.status()["state"] == "ready"

    def agree(seen: str) -> bytes | None:
        return b"y\n" if "[y/N]" in seen else None

    code, text = _at_a_terminal(desk, ["down", "shop"], agree)
    assert code == 0
    assert "shop is gone." in text


def test_looking_back_and_going_back(desk: Desk) -> None:
    """Two versions, what differs, and back: also when the rollback is killed in the middle."""
    assert desk("up", *FILES).returncode == 0
    first = desk.status()
    more = INFRASTRUCTURE.replace("dependencies:", "  - {name: cache, type: shop_node}\ndependencies:")
    (desk.directory / "shop.yaml").write_text(more)
    assert desk("up", *FILES).returncode == 0
    assert list(desk.status()["nodes"]) == ["store", "web", "cache"]

    items = json.loads(desk("history", "shop", "-o", "json").stdout)["items"]
    assert [item["number"] for item in items] == [2, 1]
    assert desk("history", "shop", "1").stdout == f"# shop.yaml\n{INFRASTRUCTURE}\n# nodes.yaml\n{NODES}\n"
    diff = desk("diff", "shop")
    assert "+ nodes.cache: {'name': 'cache', 'type': 'shop_node'}\n" in diff.stdout
    assert "\n+  - {name: cache, type: shop_node}\n" in diff.stdout

    assert desk("rollback", "shop", "1", "--plan").returncode == 2
    assert desk("rollback", "shop", "1").returncode == 64, "it destroys something, and nobody can be asked"
    assert desk("rollback", "shop", "9").returncode == 66
    assert list(desk.status()["nodes"]) == ["store", "web", "cache"]

    desk.slow(0.05, deletes=3.0)
    killed = desk.start("rollback", "shop", items[1]["id"][:8], "--yes")
    _until_line(killed, "destroy")
    killed.kill()
    killed.communicate()
    desk.slow(0.05)
    done = desk("rollback", "shop", "1", "--yes")
    assert done.returncode == 0, done.stderr
    assert desk.status()["nodes"].keys() == first["nodes"].keys()
    assert {name: set(node["instances"]) for name, node in desk.status()["nodes"].items()} == {
        name: set(node["instances"]) for name, node in first["nodes"].items()
    }, "what both versions have was never touched"
    assert [item["number"] for item in json.loads(desk("history", "shop", "-o", "json").stdout)["items"]] == [3, 2, 1]
    assert desk("history", "shop", "3").stdout == desk("history", "shop", "1").stdout
    assert desk("down", "shop", "--yes").returncode == 0
