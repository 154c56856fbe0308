"""The scheduler: events at set times, each once in the whole system."""

from pelagos.services.scheduler.messages import (
    CreateSchedule,
    ListSchedules,
    Missed,
    ScheduleInfo,
    ScheduleKind,
    ScheduleRef,
    UpdateSchedule,
)
from pelagos.services.scheduler.schedules import get_schedule, list_schedules
from pelagos.services.scheduler.service import SchedulerService

__all__ = [
    "CreateSchedule",
    "ListSchedules",
    "Missed",
    "ScheduleInfo",
    "ScheduleKind",
    "ScheduleRef",
    "SchedulerService",
    "UpdateSchedule",
    "get_schedule",
    "list_schedules",
]
