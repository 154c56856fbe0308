"""What the SDK raised, as one of the closed family: by HTTP status, and by what the exchange says of the effect.

OpenStack's services use few statuses for many things; where one status means a used-up quota, a conflict or a refusal,
the words of the service's own message decide (they are not translated unless asked for).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keystoneauth1.exceptions as identity
import openstack.exceptions as sdk
import requests

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
from pelagos.clouds.openstack.exchange import DeadlinePassed, Exchange
from pelagos.clouds.pages import without_page
from pelagos.model.errors import PelagosError, Unsupported

__all__ = ["FOREIGN", "NO_SERVICE", "gone_is_fine", "no_answer", "retry_after_of", "translate"]

FOREIGN: tuple[type[Exception], ...] = (
    sdk.SDKException,
    identity.ClientException,
    requests.RequestException,
    DeadlinePassed,
)
"""What may come out of the SDK; the rest is a defect."""

NO_SERVICE: tuple[type[Exception], ...] = (
    sdk.EndpointNotFound,
    sdk.NotSupported,
    sdk.ServiceDiscoveryException,
    sdk.ServiceDisabledException,
    identity.EndpointNotFound,
    identity.DiscoveryFailure,
    identity.EmptyCatalog,
)
"""What the SDK raises if the catalogue has no fitting service, and also if it could not be asked."""

_LONGEST = 600
_DEFAULT_RETRY_AFTER = 5.0
_QUOTA = re.compile(
    r"(?i)quota|exceeds? (?:the )?(?:available|allowed|limit)|no more (?:ip|floating)|not enough|maximum number of"
    r"|no available (?:ip|floating)|ip address(?:es)? (?:not available|exhausted)|\blimit (?:of|reached)"
)
_BUSY = re.compile(r"(?i)status must be|must be (?:available|in)|while it is in|is (?:currently )?(?:in use|being)")
_NEVER = re.compile(
    r"(?i)multiple (?:possible )?(?:networks|security)|no unique match|ambiguous|already (?:exists|in use|allocated)"
    r"|not valid|invalid|overlap"
)
_TOO_LARGE = re.compile(r"(?i)too (?:large|big)|(?:body|entity|request).{0,20}large")


def translate(error: Exception, exchange: Exchange, what: str, *, about_server: bool = False) -> PelagosError:
    """The error of the family for ``error``, which ended the call ``what`` ("create server web-1").

    ``about_server``: the call names a server, and 404 means that there is none. Errors of the family pass."""
    if isinstance(error, PelagosError):
        return error
    if isinstance(error, DeadlinePassed):
        return no_answer(exchange, f"cannot {what} in time")
    if isinstance(error, sdk.HttpException | identity.HttpError):
        return _by_status(error, exchange, what, about_server)
    if isinstance(error, NO_SERVICE) and not exchange.failed:
        return Unsupported(
            f"cannot {what}: {_short(str(error))}",
            advice="The cloud's catalogue has no such service for this account and region; check `region_name`, "
            "`interface` and `endpoints` of the account.",
        )
    if isinstance(error, identity.AuthorizationFailure | identity.AuthPluginException | identity.MissingAuthMethods):
        return CloudAuthFailed(f"cannot {what}: {_short(str(error))}")
    if isinstance(error, identity.SSLError):
        return no_answer(
            exchange,
            f"cannot {what}: {_short(str(error))}",
            advice="Name the certificates of the cloud in `cacert` of the account, if it signs its own.",
        )
    text = f"cannot {what}: {_short(str(error) or type(error).__name__)}"
    if isinstance(error, sdk.SDKException) and not (exchange.failed or exchange.uncertain or exchange.happened):
        return CloudError(text)  # the SDK itself refuses, and would again
    return no_answer(exchange, text)


def no_answer(exchange: Exchange, message: str, *, advice: str | None = None) -> CloudError:
    """Uncertain if the exchange may have had an effect (or had it, and its answer is of no use), else unreachable."""
    if exchange.uncertain or exchange.happened:
        return CloudUncertain(message, advice=advice)
    return CloudUnreachable(message, advice=advice)


def retry_after_of(headers: Mapping[str, str], default: float = _DEFAULT_RETRY_AFTER) -> float:
    """Seconds that a 429 or 413 asks for; an HTTP date, or nothing, counts as ``default``."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return default
    return seconds if 0 <= seconds < 86_400 else default


def _by_status(
    error: sdk.HttpException | identity.HttpError, exchange: Exchange, what: str, about_server: bool
) -> PelagosError:
    status = (error.status_code if isinstance(error, sdk.HttpException) else error.http_status) or 0
    said = _said(error)
    request = error.request_id
    details: dict[str, Any] = {"status": status, **({"request_id": request} if request else {})}
    text = f"cannot {what}: {said} (HTTP {status})"

    def make(cls: type[PelagosError], advice: str | None = None, **more: Any) -> PelagosError:
        return cls(text, advice=advice, details=details, **more)

    match status:
        case 401:
            return make(CloudAuthFailed)
        case 403 if _QUOTA.search(said):
            return make(CloudCapacity, "Raise the project's quota, or delete what is not needed.")
        case 403:
            return make(CloudRejected, "The account's roles do not allow this; ask the cloud's administrator.")
        case 404 if isinstance(error, identity.HttpError):
            return make(CloudRejected, "Check `endpoint` of the account: the identity service is not there.")
        case 404 if isinstance(error, sdk.HttpException) and not _says_absent(error):
            return make(CloudUnreachable, "The service's front end answered in its place.")
        case 404 if about_server:
            return make(ServerNotFound)
        case 400 | 409 if _QUOTA.search(said):
            return make(CloudCapacity, "Raise the project's quota, or delete what is not needed.")
        case 400 if _BUSY.search(said):
            return make(CloudBusy)
        case 409 if exchange.effect and _NEVER.search(said):
            return make(CloudRejected)
        case 409 | 423:
            return make(CloudBusy)
        case 413 if _TOO_LARGE.search(said):
            return make(CloudRejected)
        case 413 if _QUOTA.search(said):
            return make(CloudCapacity, "Raise the project's quota, or delete what is not needed.")
        case 413 | 429:
            return make(CloudRateLimited, retry_after=retry_after_of(_headers(error)))
        case 405 | 406 | 501:
            return make(Unsupported, "This cloud, or its release, lacks the ability.")
        case _ if status == 408 or status >= 500:
            return make(CloudUncertain if exchange.uncertain else CloudUnreachable)
        case _:
            return make(CloudRejected)


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Whatever this block asks about or deletes may be gone: the block then ends, without an error."""
    try:
        yield
    except sdk.NotFoundException as error:
        if not _says_absent(error):
            raise


def _says_absent(error: sdk.HttpException) -> bool:
    """Whether it is the service that says 404, in its JSON. A front end's page says nothing of the thing asked for."""
    response = error.response
    return response is not None and "json" in response.headers.get("Content-Type", "")


def _headers(error: sdk.HttpException | identity.HttpError) -> Mapping[str, str]:
    response = error.response
    return response.headers if response is not None else {}


def _said(error: sdk.HttpException | identity.HttpError) -> str:
    """What the service said, in one line; never what it was sent."""
    return _short(str(error.details or error.message or type(error).__name__))


def _short(text: str) -> str:
    line = " ".join(without_page(text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
