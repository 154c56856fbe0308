"""What the SDK raised, in the closed family.

Three questions decide: did the engine answer, may the request have reached it, and does the verb only read? Docker says
in its status what it means; podman says 500 for most, so what is certain there is known by its words. Words that nobody
here knows stay uncertain: a create is then sent again with its token, and any other verb too, which is harmless.
"""

from __future__ import annotations

from collections.abc import Iterator

import docker.errors
import requests
import urllib3.exceptions

from pelagos.clouds.errors import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudError,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    CloudUnreachable,
    ServerNotFound,
)

__all__ = ["SDK_ERRORS", "NotSent", "image_is_missing", "name_is_taken", "network_is_missing", "said_by", "translate"]

SDK_ERRORS = (requests.RequestException, docker.errors.DockerException, urllib3.exceptions.HTTPError, OSError)
"""What a call by the SDK may raise besides ValueError for replies that are cut off."""

_NO_ROOM = (
    "address already in use",
    "already allocated",
    "cannot allocate memory",
    "no free subnet",
    "no space left",
    "non-overlapping",
    "could not find free subnet",
)
_NEVER = (
    "executable file not found",
    "host system doesn't support",
    "invalid argument",
    "invalid mount",
    "invalid reference format",
    "is a directory",
    "no command or entrypoint",
    "no command specified",
    "no such file or directory",
    "permission denied",
    "operation not permitted",
    "unable to find network",
    "unable to find user",
    "unable to set memory limit",
    "minimum memory limit",
)
_BUSY = ("container state improper", "is not running", "is paused", "is restarting", "already in progress")
_UNREACHABLE = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.NameResolutionError,
    urllib3.exceptions.ConnectTimeoutError,
    ConnectionRefusedError,
    FileNotFoundError,
    BlockingIOError,
)


class NotSent(Exception):
    """The call's time was over before a request with an effect left; it never will."""


def said_by(error: docker.errors.APIError) -> str:
    """The engine's own words."""
    return str(error.explanation or error).strip()


def image_is_missing(error: docker.errors.APIError) -> bool:
    """Whether a create was refused because the engine does not have its image."""
    return error.status_code == 404 and "image" in said_by(error).lower() and not network_is_missing(error)


def name_is_taken(error: docker.errors.APIError) -> bool:
    """Whether a create was refused because a container has its name already."""
    words = said_by(error).lower()
    return error.status_code in (409, 500) and "name" in words and "already in use" in words


def network_is_missing(error: docker.errors.APIError) -> bool:
    """Whether a network that the container is to join is not there (any more)."""
    words = said_by(error).lower()
    return error.status_code in (404, 500) and "network" in words and "not found" in words


def translate(error: Exception, what: str, *, reads: bool, makes: bool = False) -> CloudError:
    """The member of the family for an error of the SDK's. ``what`` was being done, in a word or two.

    ``makes``: a container was to be made or started. Only then do podman's words say that it never can be: a removal
    that trips over a missing file is to be asked for again."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, NotSent):
            return CloudUnreachable(f"{what}: there was no time left to send it")
        if isinstance(cause, docker.errors.APIError) and cause.response is not None:
            return _refusal(cause, what, reads, makes)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return CloudAuthFailed(
            f"{what}: this user may not open the engine's socket",
            advice="Let the user be in the group of the socket (often `docker`), or name another `endpoint`.",
        )
    if any(isinstance(cause, docker.errors.TLSParameterError | requests.exceptions.SSLError) for cause in causes):
        return CloudAuthFailed(f"{what}: TLS failed: {error}", advice="Check `tls` in the options of the account.")
    if any(isinstance(cause, _UNREACHABLE) for cause in causes):
        return CloudUnreachable(
            f"{what}: the engine cannot be reached: {_short(causes[-1])}",
            advice="See that it runs, and check `endpoint` in the options of the account.",
        )
    if reads:
        return CloudUnreachable(f"{what}: the engine did not answer: {_short(causes[-1])}")
    return CloudUncertain(f"{what}: no whole answer came from the engine ({_short(causes[-1])}); it may have been done")


def _refusal(error: docker.errors.APIError, what: str, reads: bool, makes: bool) -> CloudError:
    """The error of an answer with a status of 400 or more."""
    status, words = error.status_code or 0, said_by(error)
    lower = words.lower()
    message = f"{what}: {words}"
    match status:
        case 401:
            return CloudAuthFailed(message)
        case 403 if not error.explanation or "authoriz" in lower:
            return CloudAuthFailed(message)
        case 404 if "no such container" in lower or "no such exec" in lower:
            return ServerNotFound(message)
        case 429:
            return CloudRateLimited(message, retry_after=_retry_after(error))
        case 409:
            return CloudBusy(message)
        case 503:
            return CloudUnreachable(message)
    if makes and any(known in lower for known in _NO_ROOM):
        return CloudCapacity(message)
    if not reads and any(known in lower for known in _BUSY):
        return CloudBusy(message)
    if status < 500 or (makes and any(known in lower for known in _NEVER)):
        return CloudRejected(message, advice="Check the keys of the node's `resource`.")
    if reads:
        return CloudUnreachable(f"{what}: the engine answered {status}: {words}")
    return CloudUncertain(f"{what}: the engine answered {status}: {words}; it may have been done")


def _retry_after(error: docker.errors.APIError) -> float:
    """Seconds; 1 where the engine's proxy does not say, or says a date."""
    value = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    try:
        return max(0.0, float(value))
    except ValueError:
        return 1.0


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps, outermost first: as its cause, as an argument, or as urllib3's ``reason``."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = [one.__cause__, getattr(one, "reason", None), *one.args]
        waiting += [each for each in inner if isinstance(each, BaseException)]


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]
