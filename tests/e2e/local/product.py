"""The guestbook on this machine, by the command line as a person has it: real processes, real addresses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "examples" / "guestbook"
PELAGOS = [sys.executable, "-m", "pelagos"]


class Product:
    """A home, a copy of the guestbook's files, and commands on them."""

    def __init__(self, home: Path, files: Path, **environ: str) -> None:
        self.home, self.files = home, files
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")}
        self.environ = kept | {"PELAGOS_HOME": str(home), "PELAGOS_CONFIG": str(files / "pelagos.yaml")} | environ
        shutil.copytree(EXAMPLE, files, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (files / "pelagos.yaml").write_text("maintain_interval: 0.5\nhealth_interval: 0.2\n")
        self.sources = (str(files / "infra-guestbook.yaml"), str(files / "node-definitions.yaml"))
        self.started: list[subprocess.Popen[str]] = []
        self.cloud = home / "clouds" / "local"

    # -- commands --------------------------------------------------------------------------------------------------

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 40.0, **options: Any) -> Any:
        """Run a command to its end; its exit code must be ``code`` (None: any)."""
        environ = self.environ | options.pop("environ", {})
        done = subprocess.run(
            [*PELAGOS, *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PELAGOS, *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def up(self, **options: Any) -> Any:
        return self("up", *self.sources, "--yes", **options)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.files / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self("status", "guestbook", "-o", "json").stdout)
        return document

    def instances(self, node: str | None = None) -> dict[str, dict[str, Any]]:
        nodes = self.status()["nodes"]
        return {
            id_: instance
            for name, found in nodes.items()
            if node in (None, name)
            for id_, instance in found["instances"].items()
        }

    def ready(self) -> dict[str, int]:
        """Node -> its ready instances."""
        nodes = self.status()["nodes"]
        return {name: sum(i["state"] == "ready" for i in node["instances"].values()) for name, node in nodes.items()}

    @property
    def url(self) -> str:
        (lb,) = self.instances("lb").values()
        return f"http://{lb['address']}:8080/"

    def page(self, entry: str | None = None) -> str:
        """What the guestbook shows, after an entry was signed if one is given."""
        data = None if entry is None else urllib.parse.urlencode({"entry": entry}).encode()
        with urllib.request.urlopen(self.url, data=data, timeout=5) as answer:
            assert answer.status == 200
            text: str = answer.read().decode()
        return text

    # -- what is there ---------------------------------------------------------------------------------------------

    def provider_id(self, instance_id: str) -> str:
        with sqlite3.connect(f"file:{self.home / 'pelagos.db'}?mode=ro", uri=True) as store:
            ((found,),) = store.execute("select provider_id from servers where instance_id = ?", [instance_id])
        store.close()
        return str(found)

    def directories(self) -> list[str]:
        place = self.cloud / "instances"
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    def processes(self, inside: str = "") -> dict[int, str]:
        """Processes of this home's instances (of one, given its provider id): their mounts or files name it."""
        marker = str(self.cloud / "instances" / inside).encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                mounted = marker in (entry / "mountinfo").read_bytes()
                held = mounted or any(
                    os.readlink(f"{entry}/fd/{fd}").encode().startswith(marker) for fd in os.listdir(f"{entry}/fd")
                )
                if held:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def kill_inside(self, instance_id: str, which: str = "") -> None:
        """kill -9 of the processes of an instance whose command line has ``which``."""
        victims = [pid for pid, said in self.processes(self.provider_id(instance_id)).items() if which in said]
        assert victims
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # its init took it along

    def assert_exactly(self, **counts: int) -> None:
        """The instances that are described, ready, and nothing else of them on this machine."""
        assert self.ready() == counts
        known = self.instances()
        assert len(known) == sum(counts.values())
        ids = sorted(self.provider_id(instance_id) for instance_id in known)
        assert self.directories() == ids
        for provider_id in ids:
            inits = [said for said in self.processes(provider_id).values() if ".py" in said]
            assert inits, f"{provider_id} runs"
        assert list((self.cloud / "trash").iterdir()) == []

    def assert_nothing_left(self) -> None:
        """No instance file, process, mount, link, address or control group of this home."""
        digest = hashlib.sha256(os.fsencode(self.cloud))
        key = digest.hexdigest()[:8]
        assert self.directories() == []
        trash = self.cloud / "trash"
        assert not trash.exists() or list(trash.iterdir()) == []
        until(lambda: not self.processes(), f"processes are left: {self.processes()}")
        assert str(self.home) + "/clouds" not in Path("/proc/self/mountinfo").read_text()
        assert [name for name in os.listdir("/sys/class/net") if key in name] == []
        groups = [path for path in Path("/sys/fs/cgroup").glob("**/pelagos-*") if key in path.name]
        assert groups == []

    def clear(self) -> None:
        """End what this test started, take the guestbook down, and see that nothing is left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        done = self("down", "guestbook", "--yes", code=None)
        assert done.returncode in (0, 66), done.stderr
        self.assert_nothing_left()


@contextmanager
def product(**environ: str) -> Iterator[Product]:
    """A product in a short directory of its own (a socket's path is limited); nothing is left of it afterwards."""
    place = Path(tempfile.mkdtemp(prefix="pt", dir="/var/tmp"))
    made = Product(place / "h", place / "f", **environ)
    try:
        yield made
        made.clear()
    except BaseException:
        for process in made.started:
            process.kill()
            process.communicate()
        made("down", "guestbook", "--yes", code=None)
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def until(condition: Callable[[], Any], what: str, within: float = 15.0) -> Any:
    """Look again and again until it is so."""
    end = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, what
        time.sleep(0.05)


def until_line(process: subprocess.Popen[str], pattern: str) -> str:
    """Read stderr up to the first line in which the pattern is found."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError(f"no {pattern!r} in: {''.join(seen)}")
