"""Templates: their sandbox, what can be told of them beforehand, and their rendering just before an instance is made.

Jinja itself is loaded at the first rendering's import of the submodules; callers import this package only in services.
"""

from pelagos.services.infrastructure.templates.render import (
    InstanceInfo,
    Rendered,
    TemplateData,
    render_health_check,
    render_implementation,
)

__all__ = ["InstanceInfo", "Rendered", "TemplateData", "render_health_check", "render_implementation"]
