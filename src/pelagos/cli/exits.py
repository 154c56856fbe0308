"""The exit codes of every command, in one table.

They follow sysexits(3) where it has a fitting one, so that a script can tell "your file is wrong" from "try again
later" without reading text. Codes below 64 are ours. The table is shown by each command's ``--help`` and in the
reference of the command line; a test compares the two.
"""

from __future__ import annotations

import enum
import errno

__all__ = ["COMMON", "MEANINGS", "Exit", "exit_of"]


class Exit(enum.IntEnum):
    OK = 0
    FAILED = 1
    CHANGES = 2
    NOT_READY = 3
    DRIFT = 4
    UNSEEN = 5
    USAGE = 64
    DESCRIPTION = 65
    MISSING = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    QUOTA = 73
    STORE = 74
    BUSY = 75
    DENIED = 77
    INTERRUPTED = 130
    PIPE = 141


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done, or nothing to do",
    Exit.FAILED: "it was tried and failed, or the state does not allow it, or there was no answer (ping)",
    Exit.CHANGES: "there is something to change (plan)",
    Exit.NOT_READY: "the pass ended, and something is not ready yet (maintain --once)",
    Exit.DRIFT: "a cloud differs from the records (drift)",
    Exit.UNSEEN: "a cloud could not be looked at, and nothing is wrong on the others (drift, orphans list)",
    Exit.USAGE: "wrong options or arguments, a file that cannot be read, an ambiguous name, nobody to ask (give --yes)",
    Exit.DESCRIPTION: "mistakes in the YAML files; each is shown with file, line and column",
    Exit.MISSING: "no such infrastructure, node, definition, run, process, container or dead letter",
    Exit.UNAVAILABLE: "the daemon, a container, a service or a cloud does not answer, or lacks this ability",
    Exit.INTERNAL: "a defect in Pelagos, or in the service that was called",
    Exit.QUOTA: "a quota would be exceeded",
    Exit.STORE: "the store or a file cannot be read or written (for example a full disk)",
    Exit.BUSY: "somebody else holds the lease, or no answer in time; try again",
    Exit.DENIED: "no permission, or no valid token",
    Exit.INTERRUPTED: "interrupted by Ctrl+C",
    Exit.PIPE: "the reader of the output has gone",
}

COMMON = (Exit.UNAVAILABLE, Exit.INTERNAL, Exit.STORE, Exit.BUSY, Exit.DENIED, Exit.INTERRUPTED)
"""What any command that reaches the services may end with, beside its own."""

_BY_CODE = {
    "ambiguous": Exit.USAGE,
    "invalid_input": Exit.USAGE,
    "description_error": Exit.DESCRIPTION,
    "not_found": Exit.MISSING,
    "gone": Exit.MISSING,
    "unavailable": Exit.UNAVAILABLE,
    "cloud_unreachable": Exit.UNAVAILABLE,
    "unsupported": Exit.UNAVAILABLE,
    "internal_error": Exit.INTERNAL,
    "internal": Exit.INTERNAL,
    "quota_exceeded": Exit.QUOTA,
    "store_unavailable": Exit.STORE,
    "output_failed": Exit.STORE,
    "lease_held": Exit.BUSY,
    "lease_lost": Exit.BUSY,
    "deadline_exceeded": Exit.BUSY,
    "unauthenticated": Exit.DENIED,
    "forbidden": Exit.DENIED,
}

_BY_ERRNO = {
    errno.ENOENT: Exit.MISSING,
    errno.ENOTDIR: Exit.MISSING,
    errno.EACCES: Exit.DENIED,
    errno.EPERM: Exit.DENIED,
    errno.EPIPE: Exit.PIPE,
    errno.ECONNREFUSED: Exit.UNAVAILABLE,
    errno.EADDRINUSE: Exit.UNAVAILABLE,
    errno.EADDRNOTAVAIL: Exit.UNAVAILABLE,
}


def exit_of(error: BaseException) -> Exit:
    """The exit code for an error that ended a command. Errors of the family are told by their ``code``."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, Exit.STORE)
    code = getattr(error, "code", None)
    if isinstance(code, str):
        return _BY_CODE.get(code, Exit.FAILED)
    return Exit.INTERNAL
