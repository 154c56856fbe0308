"""What a driver may raise. Each class carries its retry class, so nobody above a driver interprets provider messages.

A driver raises one of these from every verb, whatever its library raised; the cause is chained. If a call may have had
its effect and the driver cannot say, it raises :class:`CloudUncertain`: that is the one honest answer to a lost reply.
"""

from __future__ import annotations

from pelagos.model.errors import PelagosError, Retry

__all__ = [
    "CloudAuthFailed",
    "CloudBusy",
    "CloudCapacity",
    "CloudError",
    "CloudRateLimited",
    "CloudRejected",
    "CloudUncertain",
    "CloudUnreachable",
    "ServerGone",
    "ServerNotFound",
]


class CloudError(PelagosError):
    """A cloud refused or failed; base of the others and the class of what fits none of them."""

    code = "cloud_error"
    status = 502


class CloudRejected(CloudError):
    """The cloud understood the request and will never accept it as it is (bad image, flavor, options)."""

    code = "cloud_rejected"
    status = 422


class CloudAuthFailed(CloudError):
    """The account's credentials are not accepted."""

    code = "cloud_auth_failed"
    default_advice = "Check the account's credentials in the configuration of the pool."


class CloudCapacity(CloudError):
    """The cloud has no room, or its own quota for this account is used up. Another implementation may do."""

    code = "cloud_capacity"
    status = 503


class CloudRateLimited(CloudError):
    """Too many requests; nothing was done. ``retry_after`` is in seconds."""

    code = "cloud_rate_limited"
    status = 503
    retry = Retry.AFTER


class CloudBusy(CloudError):
    """The thing is in a state that does not admit the verb now; nothing was done."""

    code = "cloud_busy"
    status = 409
    retry = Retry.TRANSIENT


class CloudUnreachable(CloudError):
    """The cloud certainly did not receive or accept the request (connection refused, 503 before any effect)."""

    code = "cloud_unreachable"
    status = 503
    retry = Retry.TRANSIENT


class CloudUncertain(CloudError):
    """The request may have had its effect (time-out, connection lost after sending, 500)."""

    code = "cloud_uncertain"
    status = 504
    retry = Retry.UNCERTAIN


class ServerNotFound(CloudError):
    """The cloud says that no such server exists."""

    code = "server_not_found"
    status = 404


class ServerGone(ServerNotFound):
    """The cloud says that the server was there and is no more: unlike one that it does not know of, that is no doubt of
    a look too early."""

    code = "server_gone"
