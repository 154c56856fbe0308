"""What this machine allows local instances, found out by really trying.

Kernel versions, sysctls and capability bits tell only half (AppArmor, seccomp, mount options and the home's file
system have a say too), so the probe brings up an instance that ends at once, best level first, and keeps each
refusal's reason.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import msgspec

from pelagos.clouds.local.cgroups import ControlGroups
from pelagos.clouds.local.guest.netlink import Netlink
from pelagos.clouds.local.launcher import launch, plan_of
from pelagos.clouds.local.record import boot_id
from pelagos.clouds.local.removal import remove_tree

__all__ = ["Fact", "LocalFacts", "probe"]

VERSION = 1
BETTER_AS_ROOT = "Run Pelagos as root for a network of the instances' own."
LEVELS = ("namespaces-root", "namespaces-user")


class Fact(msgspec.Struct, frozen=True):
    """One ability: what there is, why not more, and how to get more."""

    value: str
    reason: str = ""
    advice: str = ""


class LocalFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What ``pelagos doctor`` shows of the ``local`` cloud."""

    isolation: Fact
    """``namespaces-root``, ``namespaces-user`` or ``processes``."""
    network: Fact
    """``bridge`` or ``loopback``."""
    images: Fact
    """``host+tarball`` or ``host``."""
    limits: Fact
    """``cgroup-v1``, ``cgroup-v2`` or ``none``."""
    ping: Fact
    """``icmp`` (an unprivileged ICMP socket or root), ``program`` (ping(8)) or ``none``."""


def probe(home: Path) -> LocalFacts:
    """Try what instances below this home could have. Blocks for some 100 ms; leaves nothing behind.

    Raises OSError if the home cannot be written."""
    home = Path(os.path.realpath(home))
    home.mkdir(parents=True, exist_ok=True)
    isolation = _isolation(home)
    network = _network(isolation.value)
    groups = ControlGroups(hashlib.sha256(os.fsencode(home)).hexdigest()[:8])
    if groups.version:
        limits = Fact(f"cgroup-v{groups.version}")
    else:
        limits = Fact("none", groups.reason, "Run as root, or in a session with a delegated control group.")
    if isolation.value == "processes":
        images = Fact("host", "an image needs a root of its own", isolation.advice)
    else:
        images = Fact("host+tarball")
    return LocalFacts(isolation=isolation, network=network, images=images, limits=limits, ping=_ping())


def _isolation(home: Path) -> Fact:
    reasons = []
    if os.geteuid() != 0:
        reasons.append("not root")
    for level in LEVELS[0 if os.geteuid() == 0 else 1 :]:
        refusal = _try(home, level)
        if refusal is None:
            return Fact(
                level,
                "; ".join(reasons),
                _advice() if os.geteuid() == 0 and reasons else BETTER_AS_ROOT if reasons else "",
            )
        reasons.append(f"{level}: {refusal}")
    return Fact("processes", "; ".join(reasons), _advice())


def _try(home: Path, level: str) -> str | None:
    """None if an instance comes up at this level, else why not."""
    place = Path(tempfile.mkdtemp(prefix=".probe-", dir=home))
    try:
        for name in ("hosts", "hostname"):
            (place / name).touch()
        making = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        plan = plan_of(place, home=home, level=level, masks=())
        plan["probe"] = True
        plan["network"] = {"mode": "none", "address": ""}
        try:
            answer = launch(plan, making, timeout=20)
        finally:
            os.close(making)
        return str(answer["error"]) if "error" in answer else None
    finally:
        remove_tree(place)


def _advice() -> str:
    sysctls = (
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    )
    for path, closed, setting in sysctls:
        try:
            if Path(path).read_text(encoding="ascii").strip() == closed:
                return f"Run Pelagos as root, or allow user namespaces: sudo sysctl -w {setting}"
        except OSError:
            continue
    return "Run Pelagos as root; in a container, give it CAP_SYS_ADMIN and a volume (not an overlay) for PELAGOS_HOME."


def _network(level: str) -> Fact:
    if level != "namespaces-root":
        return Fact("loopback", "a bridge needs root and namespaces", "Run Pelagos as root.")
    name = f"pet{os.getpid()}"
    try:
        with Netlink() as link:
            try:
                link.add_bridge(name, "", 0)
            finally:
                link.delete(name)
    except OSError as error:
        return Fact(
            "loopback", f"no bridge can be made: {error}", "Give Pelagos CAP_NET_ADMIN, and load the module bridge."
        )
    filtered = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    try:
        if filtered.read_text(encoding="ascii").strip() == "1":
            return Fact(
                "bridge",
                "the firewall also sees traffic between instances (bridge-nf-call-iptables is 1)",
                "If instances cannot reach one another: sysctl -w net.bridge.bridge-nf-call-iptables=0",
            )
    except OSError:
        pass
    return Fact("bridge")


def _ping() -> Fact:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close()
            return Fact("icmp")
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT):
                raise
    if shutil.which("ping"):
        return Fact("program")
    return Fact(
        "none",
        "ICMP sockets are not allowed to this user and there is no ping program",
        "Install iputils-ping, or: sudo sysctl -w net.ipv4.ping_group_range='0 2147483647'",
    )


class _Cached(msgspec.Struct, frozen=True):
    version: int
    boot: str
    uid: int
    facts: LocalFacts


def cached_probe(home: Path, file: Path) -> LocalFacts:
    """The facts, tried once a start of the machine and user."""
    try:
        known = msgspec.msgpack.decode(file.read_bytes(), type=_Cached)
        if (known.version, known.boot, known.uid) == (VERSION, boot_id(), os.geteuid()):
            return known.facts
    except (FileNotFoundError, msgspec.MsgspecError):
        pass
    facts = probe(home)
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(msgspec.msgpack.encode(_Cached(VERSION, boot_id(), os.geteuid(), facts)))
        beside.rename(file)
    except OSError:  # a full disk: it is tried again next time
        beside.unlink(missing_ok=True)
    return facts
