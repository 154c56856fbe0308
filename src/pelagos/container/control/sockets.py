"""Where control sockets lie: ``<home>/control/<system>/<container id>.sock``, for this user alone.

Whether a container lives is asked of its socket, not of a pid in a file: a socket that refuses belongs to a container
that is gone, and is removed by whoever finds it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
from pathlib import Path

from pelagos.model.errors import Conflict, InvalidInput, StoreUnavailable

__all__ = ["MAX_PATH", "answers", "bind_control", "live_sockets", "name_problem", "peer_uid", "socket_path"]

MAX_PATH = 107
_UCRED = struct.Struct("3i")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")


def name_problem(name: str) -> str | None:
    """What is wrong with a system's name or a container's id, as the end of a sentence, or None. They become parts of
    addresses, topics and paths."""
    if _NAME.match(name):
        return None
    return "may have 1 to 63 letters, digits, '-' and '_', and nothing else"


def socket_path(home: Path, system: str, container: str) -> Path:
    """Raises :class:`InvalidInput` if the operating system allows no socket of so long a path."""
    for what, name in (("system's name", system), ("container's id", container)):
        problem = name_problem(name)
        if problem is not None:
            raise InvalidInput(f"the {what} {name!r} {problem}", advice="Choose another one.")
    path = home / "control" / system / f"{container}.sock"
    if len(os.fsencode(path)) > MAX_PATH:
        raise InvalidInput(
            f"the control socket's path is longer than the {MAX_PATH} bytes that the system allows: {path}",
            advice="Set PELAGOS_HOME to a shorter path, or give a shorter container id.",
        )
    return path


def answers(path: Path) -> bool:
    """Whether somebody listens at the socket."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1.0)
        probe.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True  # a full backlog, no permission: somebody's
    finally:
        probe.close()
    return True


def live_sockets(home: Path, system: str | None = None) -> list[tuple[str, str, Path]]:
    """System, container id and path of each container that answers, the newest first. Those of the dead are removed."""
    found: list[tuple[float, str, str, Path]] = []
    for path in sorted((home / "control").glob(f"{system or '*'}/*.sock")):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISSOCK(status.st_mode):
            continue
        if answers(path):
            found.append((status.st_mtime, path.parent.name, path.stem, path))
        else:
            path.unlink(missing_ok=True)
    found.sort(key=lambda entry: -entry[0])
    return [(name, container, path) for _, name, container, path in found]


def bind_control(path: Path) -> socket.socket:
    """A listening socket of mode 0600 in directories of mode 0700, which are made.

    Raises :class:`Conflict` if a container of that id lives or something else is in the way, :class:`StoreUnavailable`
    if there is no writing."""
    try:
        for directory in (path.parent.parent, path.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = directory.stat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise StoreUnavailable(
                    f"{directory} may be entered by others, so no control socket is put there",
                    advice="Make it yours alone (chmod 700), or set PELAGOS_HOME to another directory.",
                )
        if path.exists() or path.is_symlink():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise Conflict(f"{path} is there and is no socket", advice="Move it away.")
            if answers(path):
                raise Conflict(
                    f"a container {path.stem!r} of system {path.parent.name!r} runs already",
                    advice="Give another --id, or none.",
                )
            path.unlink()
    except OSError as error:
        raise StoreUnavailable(f"the control socket {path} cannot be made: {error.strerror}") from error
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the file is made by bind: there is no moment in which others may connect
    # It gets its name when it listens: one that is bound and refuses would be swept as a dead container's.
    early = path.with_name(f".{os.getpid():x}")
    try:
        early.unlink(missing_ok=True)
        bound.bind(str(early))
        bound.listen(64)
        os.link(early, path)
    except FileExistsError:
        bound.close()
        raise Conflict(
            f"a container {path.stem!r} of system {path.parent.name!r} starts at the same time",
            advice="Give another --id, or none.",
        ) from None
    except OSError as error:
        bound.close()
        raise StoreUnavailable(f"the control socket {path} cannot be made: {error.strerror}") from error
    finally:
        os.umask(before)
        with contextlib.suppress(OSError):
            early.unlink(missing_ok=True)
    bound.setblocking(False)
    return bound


def peer_uid(peer: socket.socket) -> int:
    """The user at the other end (SO_PEERCRED)."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])
