"""What the exceptions of Libcloud and of its HTTP library mean, in the closed family of errors.

Decided by status and class, never by a message, and by what the call had sent (the ledger of ``wire``): a refusal of
the second request of a create says nothing of what the first one made. Messages are the provider's, shortened; those of
the HTTP library hold whole URLs with keys and signatures, so they are replaced by words of our own.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
from pelagos.clouds.libcloud.wire import Expired, Ledger
from pelagos.clouds.pages import without_page
from pelagos.model.errors import PelagosError, Retry, Unsupported

__all__ = ["http_failure", "network_failure", "scrubber", "translate"]

DEFAULT_PAUSE = 5.0
"""Seconds until the next try, where the provider does not say."""
_SHOWN = 300
_ERRNO_WORDS = {
    errno.ECONNREFUSED: "the connection was refused",
    errno.ECONNRESET: "the connection was reset",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "the network cannot be reached",
    errno.EPIPE: "the connection was closed",
}


def scrubber(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that takes secrets out of a message and shortens it to what a person reads."""
    hidden = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def scrub(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

    return scrub


def network_failure(error: BaseException) -> tuple[bool, str] | None:
    """(whether the request may have been sent, what happened), or None if ``error`` is none of the network's.

    Only a failure to connect is certain to have sent nothing."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

    if not isinstance(error, (requests.RequestException, OSError)):
        return None
    chain = list(_causes(error))
    if any(isinstance(e, (NameResolutionError, socket.gaierror)) for e in chain):
        return False, "the name of the host is not known"
    if any(isinstance(e, NewConnectionError) for e in chain):  # before its parent, which is the time-out
        return False, _errno_words(chain) or "no connection could be made"
    if isinstance(error, requests.exceptions.ConnectTimeout) or any(isinstance(e, ConnectTimeoutError) for e in chain):
        return False, "the connection was not taken in time"
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return False, "the certificate of the host is not trusted"
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return False, "the endpoint is no valid URL"
    if isinstance(error, (requests.Timeout, TimeoutError)):
        return True, "no answer in time"
    return True, _errno_words(chain) or "the connection was closed before the whole answer"


def http_failure(
    status: int,
    message: str,
    headers: Any = None,
    *,
    effect: bool,
    what: str,
    not_found: type[PelagosError] | None = None,
) -> PelagosError:
    """What an HTTP status means, where the provider says nothing more exact.

    ``effect``: whether the request may change something; ``not_found``: what 404 means, by default CloudRejected."""
    said = f"{what}: {without_page(message) or 'no reason given'} (HTTP {status})"
    match status:
        case 401 | 403:
            return CloudAuthFailed(said)
        case 404 | 410:
            return (not_found or CloudRejected)(said)
        case 409:
            return CloudBusy(said)
        case 402 | 413:
            return CloudCapacity(said)
        case 429:
            return CloudRateLimited(said, retry_after=_retry_after(headers))
        case 501:
            return Unsupported(said)
        case 503:
            return CloudUnreachable(said)
        case 408 | 425:
            return CloudUncertain(said) if effect else CloudUnreachable(said)
        case _ if status >= 500:
            return CloudUncertain(said) if effect else CloudUnreachable(said)
        case _ if status >= 400:
            return CloudRejected(said)
        case _:
            return CloudUncertain(said) if effect else CloudError(said)


def translate(
    error: Exception, ledger: Ledger, effect: bool, what: str, scrub: Callable[[str], str] = str
) -> PelagosError:
    """What an exception of a Libcloud driver means for the call; ``effect``: whether the verb may change something."""
    meant = _translate(error, ledger, effect, what, scrub)
    if effect and ledger.effects and meant.retry is not Retry.UNCERTAIN:
        return CloudUncertain(f"{what}: a later step failed after the first had its effect: {meant}")
    return meant


def _translate(error: Exception, ledger: Ledger, effect: bool, what: str, scrub: Callable[[str], str]) -> PelagosError:
    from libcloud.common.exceptions import BaseHTTPError, RateLimitReachedError
    from libcloud.common.types import InvalidCredsError, LibcloudError, MalformedResponseError, ProviderError

    unknown = CloudUncertain if effect else CloudUnreachable
    match error:
        case Expired():
            return CloudUnreachable(f"{what}: the deadline passed before it was sent")
        case NotImplementedError():
            return Unsupported(f"{what}: the provider's driver cannot do that")
        case InvalidCredsError():
            return CloudAuthFailed(f"{what}: {scrub(without_page(str(error.value)))}")
        case RateLimitReachedError():
            return CloudRateLimited(f"{what}: too many requests", retry_after=_retry_after(error.headers))
        case BaseHTTPError():
            return http_failure(
                int(error.code),
                scrub(without_page(str(error.message))),
                error.headers,
                effect=effect,
                what=what,
                not_found=_missing(what),
            )
        case ProviderError() if error.http_code:
            return http_failure(
                int(error.http_code),
                scrub(without_page(str(error.value))),
                effect=effect,
                what=what,
                not_found=_missing(what),
            )
        case MalformedResponseError() if ledger.status >= 400:  # an error page in place of the provider's document
            return http_failure(ledger.status, "", ledger.headers, effect=effect, what=what, not_found=_missing(what))
        case MalformedResponseError():
            return unknown(f"{what}: the answer could not be understood")
    trouble = network_failure(error)
    if trouble is not None:
        sent, words = trouble
        return unknown(f"{what}: {words}") if sent else CloudUnreachable(f"{what}: {words}")
    said = str(error.value) if isinstance(error, LibcloudError) else f"{type(error).__name__}: {error}"
    said = scrub(without_page(said))
    if effect and (ledger.effects or ledger.unanswered_effect):
        return CloudUncertain(f"{what}: {said}")
    if effect and not ledger.requests:
        return CloudRejected(f"{what}: {said}")
    return CloudError(f"{what}: {said}")


def _missing(what: str) -> type[PelagosError]:
    """A 404 to a create means that something it names is not there; to any other verb, that the server is not."""
    return CloudRejected if what.startswith("create") else ServerNotFound


def _retry_after(headers: Any) -> float:
    try:
        return max(0.0, float((headers or {}).get("retry-after", DEFAULT_PAUSE)))
    except (TypeError, ValueError):
        return DEFAULT_PAUSE


def _errno_words(chain: Sequence[BaseException]) -> str:
    for one in chain:
        if isinstance(one, OSError) and one.errno in _ERRNO_WORDS:
            return _ERRNO_WORDS[one.errno]
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all it wraps: by cause, context, ``reason`` (urllib3) and exceptions among its arguments."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *getattr(one, "args", ())]
        waiting.extend(e for e in inner if isinstance(e, BaseException))
