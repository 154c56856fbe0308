"""Starts and stops a real OpenStack on this machine's loopback: ``testbed.py up|down|status``. See the README.

Every start is a new cloud: the databases are made anew, so there is nothing to repair. What was started is remembered
by process id and start time, each in a process group of its own, so a stop never ends anything else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import configs
from layout import DATABASES, Layout

PROGRAMS = (
    "cinder-api",
    "cinder-manage",
    "cinder-scheduler",
    "cinder-volume",
    "glance-api",
    "keystone-manage",
    "keystone-wsgi-public",
    "memcached",
    "neutron-db-manage",
    "neutron-server",
    "nova-api",
    "nova-compute",
    "nova-conductor",
    "nova-manage",
    "nova-scheduler",
    "placement-api",
    "placement-manage",
    "uwsgi",
)
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
STARTED = time.monotonic()


class Testbed:
    """The test bed of one state directory."""

    def __init__(self) -> None:
        self.at = Layout()
        self.state = self.at.state
        self.plugins = self.state / "plugins"
        self.marker = self.state / "pelagos-testbed"

    # -- commands ----------------------------------------------------------------------------------------------------

    def up(self) -> int:
        """Start it, unless it runs; a half-dead one is stopped first. 0 when all answer."""
        if self.running():
            say(f"it runs; {self.usage()}")
            return 0
        problem = missing()
        if problem:
            print(problem, file=sys.stderr)
            return 2
        if not self.ours():
            print(
                f"{self.state} is there, and no test bed made it: name another PELAGOS_OPENSTACK_STATE", file=sys.stderr
            )
            return 2
        self.down()
        self.state.mkdir(parents=True, mode=0o711)
        self.marker.touch()
        try:
            self._start()
        except BaseException:
            print(f"The start failed; logs are in {self.state}/*/log. Stopping what was started.", file=sys.stderr)
            self._stop_all()
            raise
        say(f"ready; {self.usage()}")
        return 0

    def down(self) -> int:
        """Stop all that was started, and remove its files. 0 also if nothing was there."""
        if not self.ours():
            print(f"{self.state} was made by no test bed, and stays", file=sys.stderr)
            return 2
        if self.state.exists():
            self._stop_all()
            shutil.rmtree(self.state)
            say("stopped, and its files removed")
        return 0

    def status(self) -> int:
        """0 if it runs."""
        running = self.running()
        say(f"it runs; {self.usage()}" if running else "it does not run")
        return 0 if running else 1

    def ours(self) -> bool:
        """Whether the state directory may be removed: a test bed made it, or there is none yet."""
        return not self.state.exists() or self.marker.exists()

    def running(self) -> bool:
        """Whether it was started in full and all its processes live."""
        pids = list((self.state / "pids").glob("*"))
        return self.at.ready.exists() and bool(pids) and all(alive(pid) for pid in pids)

    def usage(self) -> str:
        return f"export PELAGOS_TEST_OPENSTACK={self.at.clouds}"

    # -- the start -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        at = self.at
        self._memcached()
        with ThreadPoolExecutor(3) as pool:
            rabbit = pool.submit(self._rabbitmq)
            self._postgresql()
            say("PostgreSQL answers; the databases' tables (a minute)")
            self._configure()
            for made in [pool.submit(make) for make in (self._keystone_tables, self._other_tables)]:
                made.result()
            rabbit.result()
        say("tables are there; keystone")
        self._start_keystone()
        self._python("identities")
        say("users and the catalogue are there; the other services")
        self._start_services()
        for port in (at.glance, at.placement, at.neutron, at.cinder, at.nova):
            wait_port(port)
        say("all of them answer; image, flavor, networks")
        self._python("contents")
        self._python("clouds")
        at.ready.touch()

    def _configure(self) -> None:
        for service, make in (
            ("keystone", configs.keystone),
            ("placement", configs.placement),
            ("glance", configs.glance),
            ("nova", configs.nova),
            ("neutron", configs.neutron),
            ("cinder", configs.cinder),
        ):
            home = self.state / service
            for folder in ("log", "lock", "state", "instances", "images", "tasks", "staging", "fernet", "credential"):
                (home / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            configs.write(home / f"{service}.conf", make(self.at))
        configs.write(self.state / "neutron" / "ml2.ini", configs.ml2())
        about = self.plugins / "tbmech-1.0.dist-info"
        about.mkdir(parents=True)
        (self.plugins / "tbmech.py").write_text(configs.BINDING)
        (self.plugins / "tbvolumes.py").write_text(configs.CLONING)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tbmech\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[neutron.ml2.mechanism_drivers]\nanybind = tbmech:AnyBind\n")

    def _memcached(self) -> None:
        port = str(self.at.memcached)
        self._spawn("memcached", ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", port, "-m", "64", "-U", "0"])

    def _postgresql(self) -> None:
        home = self.state / "postgresql"
        home.mkdir()
        postgres = pwd.getpwnam("postgres")
        os.chown(home, postgres.pw_uid, postgres.pw_gid)
        programs = postgresql()
        assert programs is not None
        as_postgres = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"}
        initdb = [str(programs / "initdb"), "-D", str(home / "data"), "-A", "trust", "-U", "postgres", "--no-sync"]
        self._run("initdb", initdb, **as_postgres)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.at.postgresql,
            "unix_socket_directories": home,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 200,
        }
        arguments = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self._spawn("postgresql", [str(programs / "postgres"), "-D", str(home / "data"), *arguments], **as_postgres)
        wait_port(self.at.postgresql)
        for name in DATABASES:
            address = ["-h", "127.0.0.1", "-p", str(self.at.postgresql), "-U", "postgres"]
            self._run("createdb", [str(programs / "createdb"), *address, name], retry=20)

    def _rabbitmq(self) -> None:
        """With an epmd of its own, so that a stop leaves another broker's alone."""
        home = self.state / "rabbitmq"
        home.mkdir()
        user = pwd.getpwnam("rabbitmq")
        os.chown(home, user.pw_uid, user.pw_gid)
        at = self.at
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{at.rabbit}\n"
            "distribution.listener.interface = 127.0.0.1\nloopback_users.guest = true\n"
        )
        environment = {
            **os.environ,
            "HOME": str(home),
            "ERL_EPMD_PORT": str(at.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "pelagos-openstack@localhost",
            "RABBITMQ_DIST_PORT": str(at.rabbit_distribution),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +A 8 -kernel inet_dist_use_interface {127,0,0,1}",
        }
        as_rabbitmq = {"user": "rabbitmq", "group": "rabbitmq", "extra_groups": [], "cwd": "/", "env": environment}
        self._spawn("epmd", ["epmd", "-port", str(at.epmd), "-address", "127.0.0.1"], **as_rabbitmq)
        wait_port(at.epmd)
        self._spawn("rabbitmq", [str(RABBITMQ)], **as_rabbitmq)
        wait_port(at.rabbit)

    def _keystone_tables(self) -> None:
        home = self.state / "keystone"
        manage = ["keystone-manage", "--config-file", str(home / "keystone.conf")]
        self._run("keystone", [*manage, "db_sync"])
        for keys in ("fernet_setup", "credential_setup"):
            self._run("keystone", [*manage, keys, "--keystone-user", "root", "--keystone-group", "root"])
        url = self.at.identity
        bootstrap = ["--bootstrap-service-name", "keystone", "--bootstrap-region-id", "RegionOne"]
        for interface in ("admin", "public", "internal"):
            bootstrap += [f"--bootstrap-{interface}-url", url]
        self._run(
            "keystone",
            [*manage, "bootstrap", *bootstrap],
            env={**os.environ, "OS_BOOTSTRAP_PASSWORD": self.at.password, "OS_BOOTSTRAP_USERNAME": "admin"},
        )

    def _other_tables(self) -> None:
        nova = ["nova-manage", "--config-file", str(self.state / "nova/nova.conf")]
        neutron = [
            word for name in ("neutron.conf", "ml2.ini") for word in ("--config-file", self._in("neutron", name))
        ]
        environment = self._with_plugins()
        self._run("glance", ["glance-manage", "--config-file", self._in("glance", "glance.conf"), "db_sync"])
        self._run(
            "placement", ["placement-manage", "--config-file", self._in("placement", "placement.conf"), "db", "sync"]
        )
        self._run("nova", [*nova, "api_db", "sync"])
        self._run("nova", [*nova, "cell_v2", "map_cell0", "--database_connection", self.at.database("nova_cell0")])
        self._run("nova", [*nova, "db", "sync"])
        self._run("nova", [*nova, "cell_v2", "create_cell", "--name", "cell1"])
        self._run("neutron", ["neutron-db-manage", *neutron, "upgrade", "heads"], env=environment)
        self._run("cinder", ["cinder-manage", "--config-file", self._in("cinder", "cinder.conf"), "db", "sync"])

    def _start_keystone(self) -> None:
        home = self.state / "keystone"
        environment = {
            **os.environ,
            "OS_KEYSTONE_CONFIG_DIR": str(home),
            "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
        }
        self._uwsgi("keystone", self.at.keystone, "/usr/bin/keystone-wsgi-public", 2, environment)
        wait_http(f"{self.at.identity}")

    def _start_services(self) -> None:
        placement = {**os.environ, "OS_PLACEMENT_CONFIG_DIR": str(self.state / "placement")}
        self._uwsgi("placement", self.at.placement, "/usr/bin/placement-api", 1, placement)
        self._spawn("glance", ["glance-api", "--config-file", self._in("glance", "glance.conf")])
        neutron = [
            "--config-file",
            self._in("neutron", "neutron.conf"),
            "--config-file",
            self._in("neutron", "ml2.ini"),
        ]
        self._spawn("neutron", ["neutron-server", *neutron], env=self._with_plugins())
        for part in ("api", "conductor", "scheduler", "compute"):
            self._spawn(f"nova-{part}", [f"nova-{part}", "--config-file", self._in("nova", "nova.conf")])
        for part in ("api", "scheduler", "volume"):
            cinder = [f"cinder-{part}", "--config-file", self._in("cinder", "cinder.conf")]
            self._spawn(f"cinder-{part}", cinder, env=self._with_plugins())

    def _uwsgi(self, name: str, port: int, program: str, processes: int, environment: dict[str, str]) -> None:
        # One thread a process; and the connection is closed after each answer, which is also said.
        options = ["--plugins", "python3", "--master", "--lazy-apps", "--die-on-term", "--buffer-size", "65535"]
        options += ["--processes", str(processes), "--add-header", "Connection: close", "--wsgi-file", program]
        self._spawn(name, ["uwsgi", "--http-socket", f"127.0.0.1:{port}", *options], env=environment)

    def _with_plugins(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.plugins)}

    def _in(self, *parts: str) -> str:
        return str(self.state.joinpath(*parts))

    def _python(self, step: str) -> None:
        """A step of ``seed`` in this interpreter, which has openstacksdk."""
        import seed

        getattr(seed, step)(self.at)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _run(self, name: str, argv: list[str], *, retry: int = 1, **options: object) -> None:
        """Run it to its end, its output in the log of ``name``; again where what it needs is only just starting."""
        for attempt in range(1, retry + 1):
            with self._log(f"{name}-setup").open("ab") as log:
                code = subprocess.run(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options).returncode  # type: ignore[call-overload]
            if code == 0:
                return
            if attempt < retry:
                time.sleep(0.5)
        raise SystemExit(f"{argv[0]} ended with {code}; see {self._log(f'{name}-setup')}")

    def _spawn(self, name: str, argv: list[str], **options: object) -> None:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(  # type: ignore[call-overload]
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
        pids = self.state / "pids"
        pids.mkdir(exist_ok=True)
        (pids / name).write_text(f"{process.pid} {start_time(process.pid)}")

    def _log(self, name: str) -> Path:
        folder = self.state / "log"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def _stop_all(self) -> None:
        """The services first, what they lean on last."""
        self.at.ready.unlink(missing_ok=True)
        last = ("rabbitmq", "epmd", "memcached", "postgresql")
        pids = {pid.name: pid for pid in (self.state / "pids").glob("*")}
        stop([pid for name, pid in pids.items() if name not in last])
        for name in last:
            if name in pids:
                stop([pids[name]], sign=signal.SIGINT if name == "postgresql" else signal.SIGTERM)


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", flush=True)


def missing() -> str:
    """What this machine lacks, and how to get it; empty if it has all."""
    if os.geteuid() != 0:
        return "The test bed must be started by root: Debian keeps the services' files from others."
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    absent += [] if RABBITMQ.exists() else ["rabbitmq-server"]
    absent += [] if postgresql() is not None else ["postgres"]
    if not absent:
        return ""
    packages = (Path(__file__).parent / "packages").read_text().split()
    return (
        f"Missing: {', '.join(absent)}. On Debian 12:\n"
        f"  apt-get install --no-install-recommends {' '.join(packages)}\n"
        "A /usr/sbin/policy-rc.d that exits with 101 keeps them from starting by themselves."
    )


def postgresql() -> Path | None:
    """Where the newest server's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def start_time(pid: int) -> str:
    """Tells a process from a later one with its id; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def alive(file: Path) -> bool:
    """Whether the process of that pid file lives."""
    try:
        pid, started = file.read_text().split()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return start_time(int(pid)) == started and state != "Z"


def stop(files: list[Path], sign: int = signal.SIGTERM) -> None:
    """End these processes with their groups, and wait for it."""
    living = [file for file in files if alive(file)]
    for patience, how in ((20.0, sign), (5.0, signal.SIGKILL)):
        for file in living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(file.read_text().split()[0]), how)
        end = time.monotonic() + patience
        while living and time.monotonic() < end:
            reap()
            living = [file for file in living if alive(file)]
            time.sleep(0.1)
    for file in files:
        file.unlink(missing_ok=True)


def reap() -> None:
    """Those that this very process started leave a zombie."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def wait_port(port: int, seconds: float = 180.0) -> None:
    """Until somebody listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"nobody listens at port {port} after {seconds:.0f} s") from None
            time.sleep(0.2)


def wait_http(url: str, seconds: float = 180.0) -> None:
    """Until it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=60).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise SystemExit(f"{url} does not answer after {seconds:.0f} s: {error}") from None
            time.sleep(0.5)


def main(arguments: list[str]) -> int:
    if arguments not in (["up"], ["down"], ["status"]):
        print("usage: testbed.py up|down|status", file=sys.stderr)
        return 2
    return int(getattr(Testbed(), arguments[0])())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
