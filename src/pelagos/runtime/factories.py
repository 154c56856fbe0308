"""The services of Pelagos as app files name them: what each needs, and how it is made.

``src/pelagos/apps/*.yaml`` are the apps of these. A site spreads them over hosts by release files of its own; what they
share is the store, the exchange and nothing else. Each service is imported where it is made, so that a program pays for
those that it runs.
"""

# The store, the world and host facts are ports (protocols), which stand for themselves as keys of the resources.
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

from pelagos.clouds import Pool
from pelagos.container.apps import Resources, process_factory
from pelagos.model.world import World
from pelagos.process import Process
from pelagos.runtime.home import DaemonLock
from pelagos.runtime.listening import Listening
from pelagos.runtime.reloading import PoolReloader
from pelagos.runtime.settings import Settings
from pelagos.store import HostFacts, LeaseKeeper, Store

__all__ = [
    "associations",
    "attributes",
    "compute",
    "edge",
    "events",
    "housekeeping",
    "infrastructure",
    "logger",
    "notifications",
    "registry",
    "repository",
    "scheduler",
    "streams",
]


@process_factory(needs=(Store, LeaseKeeper, Pool))
def compute(resources: Resources) -> Process:
    """Servers on the clouds of the pool, one worker an account in the whole system."""
    from pelagos.operations import OperationsEngine
    from pelagos.services.compute import ComputeService

    store = resources.get(Store)
    engine = OperationsEngine(store, resources.get(Pool), resources.get(LeaseKeeper), resources.get(World))
    reloader = resources.find(PoolReloader)
    return ComputeService(store, engine, None if reloader is None else reloader.reload)


@process_factory(needs=(Store, LeaseKeeper, Pool))
def infrastructure(resources: Resources, *, maintain: bool = True) -> Process:
    """Infrastructures; ``maintain``: whether this one keeps alive what nobody else does."""
    from pelagos.runtime.host_commands import run_host_command
    from pelagos.services.infrastructure import InfrastructureService, MaintainerSettings
    from pelagos.services.infrastructure.health import Prober
    from pelagos.services.infrastructure.metrics import MetricReader

    settings = resources.get(Settings)
    return InfrastructureService(
        store=resources.get(Store),
        keeper=resources.get(LeaseKeeper),
        pool=resources.get(Pool),
        settings=MaintainerSettings(
            interval=settings.maintain_interval,
            health_interval=settings.health_interval,
            choose=settings.choose,
            create_patience=settings.create_patience,
            fallback_patience=settings.fallback_patience,
        ),
        maintain=maintain,
        prober=resources.find(Prober),
        metrics=resources.find(MetricReader),
        run_command=run_host_command if settings.commands == "allowed" else None,
    )


@process_factory(needs=(Store,))
def events(resources: Resources) -> Process:
    """The catalogue of events, publishing, and subscriptions that are kept."""
    from pelagos.services.events import EventsService

    return EventsService(resources.get(Store))


@process_factory(needs=(Store,))
def registry(resources: Resources) -> Process:
    """Resources with their life cycle, and what containers announce."""
    from pelagos.services.registry import RegistryService

    return RegistryService(resources.get(Store))


@process_factory(needs=(Store, LeaseKeeper))
def scheduler(resources: Resources) -> Process:
    """Events at set times, each once in the whole system."""
    from pelagos.services.scheduler import SchedulerService

    return SchedulerService(resources.get(Store), resources.get(LeaseKeeper))


@process_factory(needs=(Store,))
def attributes(resources: Resources) -> Process:
    """Named values that processes share."""
    from pelagos.services.attributes import AttributesService

    return AttributesService(resources.get(Store))


@process_factory(needs=(Store,))
def associations(resources: Resources) -> Process:
    """Who is, has or owns what, with a past."""
    from pelagos.services.associations import AssociationsService

    return AssociationsService(resources.get(Store))


@process_factory(needs=(Store,))
def repository(resources: Resources) -> Process:
    """The repositories of the store, for other containers to pull from and push to."""
    from pelagos.repository.sync import RepositoryService

    return RepositoryService(resources.get(Store))


@process_factory(needs=(Store,))
def streams(resources: Resources) -> Process:
    """Streams of data by name and key, live or by durable queues."""
    from pelagos.services.streams import StreamsService

    return StreamsService(resources.get(Store))


@process_factory
def logger(resources: Resources) -> Process:
    """Lines of other programs, and log levels at run time."""
    from pelagos.services.logger import LoggerService

    return LoggerService()


@process_factory(needs=(Store, LeaseKeeper))
def notifications(resources: Resources) -> Process:
    """Tells the configured sinks of what happens."""
    from pelagos.services.notifications.service import NotificationsService

    return NotificationsService(resources.get(Store), resources.get(LeaseKeeper), resources.get(Settings).sinks)


@process_factory(needs=(Store, Pool, DaemonLock))
def edge(resources: Resources, *, listen: str = "", depends: tuple[str, ...] = ()) -> Process:
    """The HTTP API on the home's socket, and on ``listen``; ``depends``: services to wait for before it listens."""
    from pelagos.runtime.http_edge import EdgeProcess

    return EdgeProcess(
        resources.get(Settings),
        store=resources.get(Store),
        pool=resources.get(Pool),
        facts=resources.get(HostFacts),
        listening=resources.get(Listening),
        listen=listen,
        depends=depends,
    )


@process_factory(needs=(Store,))
def housekeeping(resources: Resources) -> Process:
    """Prunes the records of what is long gone, once an hour."""
    from pelagos.runtime.housekeeping import Housekeeping

    return Housekeeping(resources.get(Store), retention_days=resources.get(Settings).retention_days)
