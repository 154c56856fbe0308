"""Apps and releases: what is started together, from which files, in which order."""

from pelagos.container.apps.factories import Resources, process_factory
from pelagos.container.apps.files import AppFile, ReleaseFile
from pelagos.container.apps.finding import find_apps
from pelagos.container.apps.manager import AppManager
from pelagos.container.apps.resolving import AppPlan, StartPlan, parse_arguments, resolve

__all__ = [
    "AppFile",
    "AppManager",
    "AppPlan",
    "ReleaseFile",
    "Resources",
    "StartPlan",
    "find_apps",
    "parse_arguments",
    "process_factory",
    "resolve",
]
