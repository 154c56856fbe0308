"""Any compute provider of Apache Libcloud's, and what drivers on blocking libraries share. See README.md."""

from pelagos.clouds.libcloud.options import LibcloudAccount, LibcloudResource
from pelagos.clouds.libcloud.plugin import DRIVER, LibcloudPlugin

__all__ = ["DRIVER", "LibcloudAccount", "LibcloudPlugin", "LibcloudResource"]
