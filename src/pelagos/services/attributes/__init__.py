"""The attribute store: named values that processes share."""

from pelagos.services.attributes.messages import (
    Attribute,
    AttributeRef,
    GetAttributes,
    ListAttributes,
    PutAttribute,
    PutAttributes,
    Version,
)
from pelagos.services.attributes.rows import get_attribute, get_attributes, list_attributes
from pelagos.services.attributes.service import AttributesService

__all__ = [
    "Attribute",
    "AttributeRef",
    "AttributesService",
    "GetAttributes",
    "ListAttributes",
    "PutAttribute",
    "PutAttributes",
    "Version",
    "get_attribute",
    "get_attributes",
    "list_attributes",
]
