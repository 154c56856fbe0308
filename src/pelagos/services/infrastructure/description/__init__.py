"""Descriptions and node definitions: from texts to compiled values, or to a list of mistakes with their places."""

from pelagos.services.infrastructure.description.compile import (
    CompileOptions,
    CompileResult,
    DefinitionsResult,
    compile_definitions,
    compile_description,
)
from pelagos.services.infrastructure.values import ResourceChecker

__all__ = [
    "CompileOptions",
    "CompileResult",
    "DefinitionsResult",
    "ResourceChecker",
    "compile_definitions",
    "compile_description",
]
