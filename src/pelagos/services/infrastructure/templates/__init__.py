"""Templates: their sandbox, what can be told of them beforehand, and their rendering before an instance is made."""

from pelagos.services.infrastructure.templates.render import (
    InstanceInfo,
    Rendered,
    TemplateData,
    render_attributes,
    render_health_check,
    render_implementation,
)

__all__ = [
    "InstanceInfo",
    "Rendered",
    "TemplateData",
    "render_attributes",
    "render_health_check",
    "render_implementation",
]
