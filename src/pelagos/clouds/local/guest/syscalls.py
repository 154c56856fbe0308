"""The Linux calls that Python does not offer in all supported versions, by ctypes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "KEPT_CAPABILITIES",
    "LIFE_BYTE",
    "MAKING_BYTE",
    "bind",
    "bind_readonly",
    "change_root",
    "drop_capabilities",
    "is_locked",
    "lock_exclusive",
    "lock_shared",
    "make_readonly_tree",
    "mount",
    "parent_death_signal",
    "set_dumpable",
    "set_hostname",
    "set_name",
    "set_subreaper",
    "setns",
    "start_time",
    "unlock",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 24, 36
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522

AT_RECURSIVE, MOUNT_ATTR_RDONLY, SYS_MOUNT_SETATTR = 0x8000, 1, 442
PIVOT_ROOT = {"x86_64": 155, "i686": 217, "i386": 217, "armv7l": 218, "s390x": 217, "ppc64le": 203}
AARCH64_PIVOT_ROOT = 41
"""aarch64, riscv64 and the other architectures with the generic table."""

# What container run-times leave to root, less MKNOD (no device control group guards the nodes) and NET_ADMIN's kin.
KEPT_CAPABILITIES = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        13,  # NET_RAW
        18,  # SYS_CHROOT
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)

LIFE_BYTE = 0
"""Byte of an instance's lock file that its init holds for life."""
MAKING_BYTE = 1
"""Byte that whoever is bringing the instance up holds until that has ended well or badly."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    _check(result, f"mount {kind or source} at {target}")


def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Show ``source`` at ``target`` too."""
    mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))


def bind_readonly(source: str, target: str) -> None:
    """Show ``source`` at ``target``, read-only."""
    bind(source, target)
    mount(source, target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def make_readonly_tree(target: str) -> None:
    """Make all mounts at and below ``target`` read-only (mount_setattr, Linux 5.12)."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(-100),
        os.fsencode(target),
        ctypes.c_uint(AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _check(result, f"mount_setattr {target}")


def keep_mounts_private() -> None:
    """What is mounted from here on is not seen outside this mount namespace."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def change_root(root: str) -> None:
    """Make ``root`` (a mount point) the root, and let go of the old one for good."""
    os.chdir(root)
    number = PIVOT_ROOT.get(os.uname().machine, AARCH64_PIVOT_ROOT)
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def set_hostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname")


def _prctl(option: int, argument: int | bytes = 0, second: int = 0) -> None:
    first = argument if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    result = _libc.prctl(option, first, ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check(result, f"prctl {option}")


def set_name(name: str) -> None:
    """What ``ps`` shows as the command's short name."""
    _prctl(PR_SET_NAME, name.encode()[:15] + b"\0")


def set_dumpable(dumpable: bool) -> None:
    """If False, nobody without CAP_SYS_PTRACE over the host looks into this process through /proc."""
    _prctl(PR_SET_DUMPABLE, int(dumpable))


def set_subreaper() -> None:
    """Orphans below this process become its children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def parent_death_signal(number: int) -> None:
    """Be sent this signal when the parent ends."""
    _prctl(PR_SET_PDEATHSIG, number)


def drop_capabilities() -> None:
    """Keep KEPT_CAPABILITIES at most, for this process and all that it starts."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="utf-8") as file:
            last = int(file.read())
    except OSError:
        last = 40
    try:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # no ambient set before Linux 4.3
            raise
    for capability in range(last + 1):
        if capability not in KEPT_CAPABILITIES:
            _prctl(PR_CAPBSET_DROP, capability)
    header = struct.pack("II", CAPABILITY_VERSION_3, 0)
    old = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, old), "capget")
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("6I", old.raw)
    low = sum(1 << capability for capability in KEPT_CAPABILITIES if capability < 32)
    del effective_high, permitted_high
    _check(_libc.capset(header, struct.pack("6I", effective & low, permitted & low, 0, 0, 0, 0)), "capset")


# -- locks: open-file-description locks, which can be asked after without being taken -------------------------------


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


def lock_shared(fd: int, byte: int) -> None:
    """Hold a byte of the file as long as any process holds ``fd``'s description."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, byte))


def lock_exclusive(fd: int, byte: int) -> bool:
    """Take a byte of the file (opened for writing) alone; False if somebody has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(fd: int, byte: int) -> None:
    """Let a byte go."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte))


def is_locked(fd: int, byte: int) -> bool:
    """Whether another description holds the byte. Takes nothing, so it disturbs nobody."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    kind: int = struct.unpack("hhqqi4x", answer)[0]
    return kind != fcntl.F_UNLCK


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid it names one process. 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
