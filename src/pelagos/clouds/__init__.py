"""Clouds: the driver port, its values and errors, the pool; one module a driver."""

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
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.pool import Account, AccountConfig, Pool
from pelagos.clouds.port import CloudDriver, CloudReader, CloudWriter, DriverContext, DriverPlugin, ListenerOracle
from pelagos.clouds.values import Capabilities, CloudServer, CommandResult, ServerSpec, TokenLookup

__all__ = [
    "Account",
    "AccountConfig",
    "Capabilities",
    "CloudAuthFailed",
    "CloudBusy",
    "CloudCapacity",
    "CloudDriver",
    "CloudError",
    "CloudRateLimited",
    "CloudReader",
    "CloudRejected",
    "CloudServer",
    "CloudUncertain",
    "CloudUnreachable",
    "CloudWriter",
    "CommandResult",
    "DriverContext",
    "DriverPlugin",
    "ListenerOracle",
    "Plugins",
    "Pool",
    "ServerNotFound",
    "ServerSpec",
    "TokenLookup",
]
