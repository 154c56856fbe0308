"""Amazon EC2 and what speaks its query API, over Libcloud's signed connections."""

from pelagos.clouds.ec2.options import Ec2Account, Ec2Resource
from pelagos.clouds.ec2.plugin import DRIVER, Ec2Plugin

__all__ = ["DRIVER", "Ec2Account", "Ec2Plugin", "Ec2Resource"]
