"""An instance's root: this machine's files (or an image's) underneath, a layer of its own on top.

As root one overlay over ``/`` does it (with more for the file systems mounted at well-known places, which an
overlay does not cross). In a user namespace the kernel refuses an overlay over ``/``, because that would reveal
what lies under the mounts inherited from the parent; there each top-level directory gets its own (``userxattr``),
and one that is refused for the same reason, or because the layers lie in it, is split into its children.

What must not be seen is masked by an *opaque* directory in the upper layer. The way not chosen was to mount
something empty over it: what is mounted can be unmounted by whoever gains the right, an opaque directory hides
what is below for good. Everything is mounted in the instance's own mount namespace and so vanishes with its last
process.
"""

# ruff: noqa: PTH101, PTH102, PTH103, PTH108, PTH110, PTH112, PTH114, PTH115, PTH116, PTH118, PTH120, PTH211
# (text paths: pathlib would cost the start of each instance some milliseconds)

from __future__ import annotations

import os
import stat
from typing import Any

from . import syscalls
from .syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

__all__ = ["build"]

SKIPPED = {"proc", "sys", "dev", "lost+found"}
OWN_NODES = ("null", "zero", "full", "random", "urandom", "tty")
PROC_READ_ONLY = ("sys", "irq", "bus", "fs", "sysrq-trigger")
PROC_HIDDEN = ("kcore", "keys", "timer_list", "kmsg", "kpagecount", "kpageflags", "kpagecgroup", "latency_stats")
PROC_EMPTY = ("acpi", "scsi")
SPLIT_DEPTH = 6
OWNED_IN_USER_MODE = (
    "/etc", "/opt", "/srv", "/usr/local", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/share",
    "/usr/local/etc", "/var", "/var/lib", "/var/log", "/var/cache", "/var/spool", "/var/www",
)  # fmt: skip
"""Directories that belong to the instance's root in user mode, so that it can write there: the host's own do not."""


def build(plan: dict[str, Any]) -> str:
    """Mount everything below ``<instance>/root`` and return that path. The working directory is the instance's."""
    os.chdir(plan["directory"])
    syscalls.keep_mounts_private()
    root = os.path.join(plan["directory"], "root")
    os.makedirs(root, exist_ok=True)
    privileged = plan["level"] == "namespaces-root"
    resolver = _resolver()
    if plan["image"]:
        _overlay(plan["image"], "/", root, plan, privileged)
    elif privileged:
        _overlay("/", "/", root, plan, privileged)
        for path in plan["extra_layers"]:
            _overlay(path, path, root, plan, privileged)
    else:
        os.makedirs("rootdir", exist_ok=True)
        syscalls.bind("rootdir", root)
        for entry in sorted(os.scandir("/"), key=lambda entry: entry.name):
            if entry.name not in SKIPPED:
                _cover(entry, root, plan, SPLIT_DEPTH)
    _pseudo_filesystems(root, privileged)
    _own_files(root, plan, resolver)
    return root


def _resolver() -> tuple[str, bytes] | None:
    try:
        path = os.path.realpath("/etc/resolv.conf")
        with open(path, "rb") as file:
            return path, file.read()
    except OSError:
        return None


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _overlay(lower: str, point: str, root: str, plan: dict[str, Any], privileged: bool) -> None:
    """Mount ``lower`` with a layer of the instance's own at ``point`` inside ``root``."""
    key = point.strip("/").replace("%", "%25").replace("/", "%2f") or "%2f"
    upper, work = os.path.join("upper", key), os.path.join("work", key)
    os.makedirs(work, exist_ok=True)
    if not os.path.isdir(upper):
        os.makedirs(upper)
        _copy_attributes(lower, upper)
    below = point.rstrip("/") + "/"
    xattr = "trusted.overlay.opaque" if privileged else "user.overlay.opaque"
    if not plan["image"]:
        for path, mode in plan["masks"]:
            if path.startswith(below) and path != "/":
                _mask(upper, point, path, mode, xattr)
    if not privileged:
        for path in [*OWNED_IN_USER_MODE, *plan["writable"]]:
            if path.startswith(below):
                _own(upper, point, path)
    options = f"lowerdir={_escape(lower)},upperdir={_escape(upper)},workdir={_escape(work)}"
    target = root + point.rstrip("/")
    syscalls.mount("overlay", target, "overlay", MS_NODEV, options if privileged else options + ",userxattr")


def _copy_attributes(source: str, target: str) -> None:
    try:
        facts = os.stat(source)
    except OSError:
        return
    if os.geteuid() == 0 and facts.st_uid != os.stat(target).st_uid:
        try:
            os.chown(target, facts.st_uid, facts.st_gid)
        except OSError:  # a user namespace, where the owner has no number
            pass
    os.chmod(target, stat.S_IMODE(facts.st_mode) | 0o700)


def _ancestors(upper: str, point: str, path: str) -> str:
    """Make the directories on the way to ``path`` in a layer, as they are on the host; return the last one's place."""
    place, seen = upper, point.rstrip("/")
    for part in path[len(point.rstrip("/")) + 1 :].split("/"):
        place, seen = os.path.join(place, part), f"{seen}/{part}"
        if not os.path.isdir(place):
            os.mkdir(place)
            _copy_attributes(seen, place)
    return place


def _mask(upper: str, point: str, path: str, mode: int, xattr: str) -> None:
    if not os.path.isdir(path) or not _real_way(path, point):
        return
    place = _ancestors(upper, point, path)
    try:
        os.getxattr(place, xattr)
    except OSError:
        os.setxattr(place, xattr, b"y")
        os.chmod(place, mode)
        if os.geteuid() == 0:
            os.chown(place, 0, 0)


def _own(upper: str, point: str, path: str) -> None:
    """In user mode: an upper directory of our own that merges with the host's, or is new."""
    if os.path.lexists(path) and not (os.path.isdir(path) and _real_way(path, point)):
        return
    _ancestors(upper, point, path)


def _real_way(path: str, point: str) -> bool:
    """Whether no symbolic link lies on the way from ``point`` to ``path``."""
    del point
    return os.path.realpath(path) == path


def _cover(entry: os.DirEntry[str], root: str, plan: dict[str, Any], depth: int) -> None:
    """Show one entry of the host's tree at the same path below ``root`` (user mode)."""
    path = entry.path
    target = root + path
    if entry.is_symlink():
        if not os.path.lexists(target):
            os.symlink(os.readlink(path), target)
        return
    if not entry.is_dir():
        if path.count("/") > 1 and os.access(path, os.R_OK) and entry.is_file():
            if not os.path.exists(target):
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
            syscalls.bind(path, target)
        return
    os.makedirs(target, exist_ok=True)
    for masked, mode in plan["masks"]:
        if masked == path:
            os.chmod(target, mode)
            return
    if not os.access(path, os.R_OK | os.X_OK):
        return
    try:
        _overlay(path, path, root, plan, False)
    except OSError:
        if depth == 0:
            raise
        for child in sorted(os.scandir(path), key=lambda entry: entry.name):
            _cover(child, root, plan, depth - 1)


def _pseudo_filesystems(root: str, privileged: bool) -> None:
    for name in ("proc", "sys", "dev"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    syscalls.mount("proc", f"{root}/proc", "proc", flags)
    # In a user namespace too: if the caller is root without rights, the instance's root is the machine's to /proc/sys.
    for name in PROC_READ_ONLY:
        if os.path.exists(f"{root}/proc/{name}"):
            syscalls.bind_readonly(f"{root}/proc/{name}", f"{root}/proc/{name}")
    for name in PROC_HIDDEN:
        if os.path.exists(f"{root}/proc/{name}"):
            syscalls.bind("/dev/null", f"{root}/proc/{name}")
    for name in PROC_EMPTY:
        if os.path.isdir(f"{root}/proc/{name}"):
            syscalls.mount("tmpfs", f"{root}/proc/{name}", "tmpfs", flags | MS_RDONLY, "size=0")
    if privileged:
        syscalls.mount("sysfs", f"{root}/sys", "sysfs", flags | MS_RDONLY)
        if os.path.isdir(f"{root}/sys/firmware"):
            syscalls.mount("tmpfs", f"{root}/sys/firmware", "tmpfs", flags | MS_RDONLY, "size=0")
    else:
        try:
            syscalls.bind("/sys", f"{root}/sys", recursive=True)
            syscalls.make_readonly_tree(f"{root}/sys")
        except OSError:  # no /sys then; nothing of it is writable by this user anyway
            pass
    dev = f"{root}/dev"
    syscalls.mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=1m")
    for name in OWN_NODES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        syscalls.bind(f"/dev/{name}", f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    syscalls.mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    os.mkdir(f"{dev}/shm")
    syscalls.mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{dev}/{name}")


def _own_files(root: str, plan: dict[str, Any], resolver: tuple[str, bytes] | None) -> None:
    """Host name, names of the others, resolver, and the interpreter if it would be hidden."""
    for name in ("hosts", "hostname"):
        place = f"{root}/etc/{name}"
        if os.path.islink(place):
            os.unlink(place)
        if not os.path.exists(place):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
        syscalls.bind(name, place)
    for path in ("/run/lock", "/var/lib/pelagos"):
        try:
            os.makedirs(root + path, exist_ok=True)
        except OSError:  # an image with odd links there; nothing depends on it
            pass
    if resolver is not None and not os.path.exists(root + resolver[0]) and not plan["image"]:
        os.makedirs(os.path.dirname(root + resolver[0]), exist_ok=True)
        with open(root + resolver[0], "wb") as file:
            file.write(resolver[1])
    if plan["python"] and not plan["image"]:
        os.makedirs(root + plan["python"], exist_ok=True)
        syscalls.bind_readonly(plan["python"], root + plan["python"])
        link = root + "/usr/local/bin/python3"
        if not os.path.lexists(link):
            os.symlink(plan["python"] + "/bin/python3", link)
