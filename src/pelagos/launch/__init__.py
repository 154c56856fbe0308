"""Launch plans: run levels of infrastructures, containers and programs, whose outputs feed later levels."""

from pelagos.launch.errors import LaunchFailed
from pelagos.launch.files import read_plan
from pelagos.launch.launcher import Launcher, PartStatus
from pelagos.launch.plan import ContainerPart, InfrastructurePart, LaunchPlan, Level, Part, ProgramPart, Ready
from pelagos.launch.record import LaunchRecord, PartRecord, PartState, RecordFile

__all__ = [
    "ContainerPart",
    "InfrastructurePart",
    "LaunchFailed",
    "LaunchPlan",
    "LaunchRecord",
    "Launcher",
    "Level",
    "Part",
    "PartRecord",
    "PartState",
    "PartStatus",
    "ProgramPart",
    "Ready",
    "RecordFile",
    "read_plan",
]
