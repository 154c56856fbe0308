"""Another Pelagos as a cloud, by its HTTP API."""

from pelagos.clouds.pelagos.options import PelagosAccount, PelagosResource
from pelagos.clouds.pelagos.plugin import DRIVER, PelagosPlugin

__all__ = ["DRIVER", "PelagosAccount", "PelagosPlugin", "PelagosResource"]
