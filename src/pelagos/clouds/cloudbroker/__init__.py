"""CloudBroker, by its REST API."""

from pelagos.clouds.cloudbroker.options import CloudBrokerAccount, CloudBrokerResource
from pelagos.clouds.cloudbroker.plugin import DRIVER, CloudBrokerPlugin

__all__ = ["DRIVER", "CloudBrokerAccount", "CloudBrokerPlugin", "CloudBrokerResource"]
