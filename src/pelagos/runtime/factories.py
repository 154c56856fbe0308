"""The services of Pelagos as app files name them: what each needs, and how it is made.

``src/pelagos/apps/*.yaml`` are the apps of these. A site spreads them over hosts by release files of its own; what they
share is the store, the exchange and nothing else.
"""

# The store, the world and host facts are ports (protocols), which stand for themselves as keys of the resources.
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

from pelagos.clouds import Pool
from pelagos.container.apps import Resources, process_factory
from pelagos.model.world import World
from pelagos.operations import OperationsEngine
from pelagos.process import Process
from pelagos.runtime.host_commands import run_host_command
from pelagos.runtime.settings import Settings
from pelagos.services.attributes import AttributesService
from pelagos.services.compute import ComputeService
from pelagos.services.events import EventsService
from pelagos.services.infrastructure import InfrastructureService, MaintainerSettings
from pelagos.services.logger import LoggerService
from pelagos.services.registry import RegistryService
from pelagos.services.scheduler import SchedulerService
from pelagos.services.streams import StreamsService
from pelagos.store import LeaseKeeper, Store

__all__ = ["attributes", "compute", "events", "infrastructure", "logger", "registry", "scheduler", "streams"]


@process_factory(needs=(Store, LeaseKeeper, Pool))
def compute(resources: Resources) -> Process:
    """Servers on the clouds of the pool, one worker an account in the whole system."""
    store = resources.get(Store)
    engine = OperationsEngine(store, resources.get(Pool), resources.get(LeaseKeeper), resources.get(World))
    return ComputeService(store, engine)


@process_factory(needs=(Store, LeaseKeeper, Pool))
def infrastructure(resources: Resources, *, maintain: bool = True) -> Process:
    """Infrastructures; ``maintain``: whether this one keeps alive what nobody else does."""
    settings = resources.get(Settings)
    return InfrastructureService(
        store=resources.get(Store),
        keeper=resources.get(LeaseKeeper),
        pool=resources.get(Pool),
        settings=MaintainerSettings(interval=settings.maintain_interval, health_interval=settings.health_interval),
        maintain=maintain,
        run_command=run_host_command if settings.commands == "allowed" else None,
    )


@process_factory(needs=(Store,))
def events(resources: Resources) -> Process:
    """The catalogue of events, publishing, and subscriptions that are kept."""
    return EventsService(resources.get(Store))


@process_factory(needs=(Store,))
def registry(resources: Resources) -> Process:
    """Resources with their life cycle, and what containers announce."""
    return RegistryService(resources.get(Store))


@process_factory(needs=(Store, LeaseKeeper))
def scheduler(resources: Resources) -> Process:
    """Events at set times, each once in the whole system."""
    return SchedulerService(resources.get(Store), resources.get(LeaseKeeper))


@process_factory(needs=(Store,))
def attributes(resources: Resources) -> Process:
    """Named values that processes share."""
    return AttributesService(resources.get(Store))


@process_factory(needs=(Store,))
def streams(resources: Resources) -> Process:
    """Streams of data by name and key, live or by durable queues."""
    return StreamsService(resources.get(Store))


@process_factory
def logger(resources: Resources) -> Process:
    """Lines of other programs, and log levels at run time."""
    return LoggerService()
