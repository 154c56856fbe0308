"""CloudSigma, by its API 2.0 over Libcloud's connection."""

from pelagos.clouds.cloudsigma.options import CloudSigmaAccount, CloudSigmaResource
from pelagos.clouds.cloudsigma.plugin import DRIVER, CloudSigmaPlugin

__all__ = ["DRIVER", "CloudSigmaAccount", "CloudSigmaPlugin", "CloudSigmaResource"]
