"""The registry: resources with their life cycle, and what containers announce."""

from pelagos.services.registry.lifecycle import FOLLOWING, IllegalResourceTransition, ResourceState
from pelagos.services.registry.messages import (
    AttributeFilter,
    FindResources,
    NamePattern,
    Ownership,
    Register,
    Resource,
    ResourcePage,
    ResourceRef,
    SetState,
    UpdateResource,
)
from pelagos.services.registry.queries import find_resources, get_resource
from pelagos.services.registry.service import RegistryService

__all__ = [
    "FOLLOWING",
    "AttributeFilter",
    "FindResources",
    "IllegalResourceTransition",
    "NamePattern",
    "Ownership",
    "Register",
    "RegistryService",
    "Resource",
    "ResourcePage",
    "ResourceRef",
    "ResourceState",
    "SetState",
    "UpdateResource",
    "find_resources",
    "get_resource",
]
