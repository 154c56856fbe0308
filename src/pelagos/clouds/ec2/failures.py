"""What the error codes of EC2 mean. Amazon's list: *Error codes for the Amazon EC2 API*."""

from __future__ import annotations

from collections.abc import Mapping

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
from pelagos.clouds.libcloud.failures import DEFAULT_PAUSE, http_failure
from pelagos.model.errors import PelagosError

__all__ = ["Ec2Fault", "fault_error"]


class Ec2Fault(Exception):
    """An error answer: its code (empty if the answer was no document of EC2's), message, HTTP status and headers."""

    def __init__(self, code: str, message: str, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(code or status)
        self.code = code
        self.message = message
        self.status = status
        self.headers = headers


_AUTH = frozenset(
    {
        *("AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "OptInRequired", "UnauthorizedOperation"),
        *("Blocked", "MissingAuthenticationToken", "RequestExpired", "ExpiredToken", "ExpiredTokenException"),
        *("InvalidAccessKeyId", "AccessDenied", "IncompleteSignature", "PendingVerification"),
    }
)
_LIMITED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"})
_CAPACITY = frozenset(
    {
        *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity"),
        *("InstanceLimitExceeded", "VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InsufficientCapacity"),
        *("AddressLimitExceeded", "InsufficientAddressCapacity", "InsufficientFreeAddressesInSubnet"),
        *("VolumeLimitExceeded", "MaxIOPSLimitExceeded", "InsufficientVolumeCapacity", "SecurityGroupLimitExceeded"),
        *("InsufficientCapacityOnHost", "SpotMaxPriceTooLow", "ResourceLimitExceeded", "QuotaExceeded"),
    }
)
_BUSY = frozenset(
    {
        *("IncorrectInstanceState", "IncorrectState", "DependencyViolation", "VolumeInUse", "InvalidGroup.InUse"),
        *("InvalidIPAddress.InUse", "IncorrectModificationState", "InvalidState", "ResourceInUse"),
    }
)
_INSTANCE_MISSING = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "InvalidInstanceID"})


def fault_error(fault: Ec2Fault, action: str, message: str, *, effect: bool) -> PelagosError:
    """The error of the family for an answer. ``message`` is the fault's, fit to be shown."""
    code = fault.code
    said = f"{action}: {code}: {message}" if message else f"{action}: {code}"
    details = {"code": code, "status": fault.status}
    if not code:
        return http_failure(fault.status, message, fault.headers, effect=effect, what=action)
    if code in _AUTH:
        return CloudAuthFailed(said, details=details)
    if code in _LIMITED:
        return CloudRateLimited(said, retry_after=_pause(fault), details=details)
    if code in _CAPACITY:
        return CloudCapacity(said, details=details)
    if code in _BUSY:
        return CloudBusy(said, details=details)
    if code in _INSTANCE_MISSING:
        return ServerNotFound(said, details=details)
    if code == "IdempotentParameterMismatch":
        return CloudUncertain(said, details=details)
    if code in ("Unavailable", "ServiceUnavailable"):
        return CloudUnreachable(said, details=details)
    if code in ("InternalError", "InternalFailure") or fault.status >= 500:
        return (CloudUncertain if effect else CloudUnreachable)(said, details=details)
    if code == "OperationNotPermitted":
        return CloudRejected(said, advice="Is the instance protected against termination?", details=details)
    return (CloudRejected if fault.status < 500 else CloudError)(said, details=details)


def _pause(fault: Ec2Fault) -> float:
    try:
        return max(0.0, float(fault.headers.get("retry-after", DEFAULT_PAUSE)))
    except ValueError:
        return DEFAULT_PAUSE
