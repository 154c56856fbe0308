"""Azure: virtual machines and container groups, by Azure Resource Manager."""

from pelagos.clouds.azure.options import AzureAccount, AzureAciResource, AzureVmResource
from pelagos.clouds.azure.plugin import ACI, VM, AzurePlugin

__all__ = ["ACI", "VM", "AzureAccount", "AzureAciResource", "AzurePlugin", "AzureVmResource"]
