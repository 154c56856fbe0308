"""The notifications service: tells the configured sinks of what happens, each at its own pace.

Every sink is a durable subscription of its own (:mod:`pelagos.services.events`): events are read by position, one
container in the system reads for a sink at a time, another takes over where it died, and what could not be told is told
later, in order. So a sink that fails holds up nobody: not the transaction whose event it is, not the other sinks. The
way rejected was to tell from where the event happens, as the ancestor did: there an error of the receiver made the
creation of a node fail.

What a sink is told is at least once: a crash between telling and storing the position repeats it, under the same
delivery id. Events about readers that gave up are never told, or two sinks that fail would tell each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from sqlalchemy import Connection

from pelagos.model.errors import InvalidInput, NotFound, PelagosError
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import World
from pelagos.process import Context, ServiceProcess, current_context, get_logger, operation, use_context
from pelagos.services.events import DurableSubscription, PublishedEvent, follow
from pelagos.services.events.subscriptions import list_subscriptions
from pelagos.services.events.topics import check_patterns
from pelagos.services.notifications.messages import Notification, SetRoutes, SinkInfo, SinkRef, TestResult
from pelagos.services.notifications.routes import name_of, routed_to, set_routes
from pelagos.services.notifications.senders import Sender, Undeliverable, sender_of
from pelagos.services.notifications.settings import CommandSink, EmailSink, SinkSettings, WebhookSink
from pelagos.services.requests import repeatable
from pelagos.store import LeaseKeeper, Store
from pelagos.wire.times import rfc3339

__all__ = ["NotificationsService"]

log = get_logger(__name__)

_NEVER_TOLD = frozenset({"event_skipped", "subscription_added", "subscription_removed"})


class NotificationsService(ServiceProcess):
    """See :mod:`pelagos.services.notifications.messages` for what it is asked and answers."""

    name = "notifications"
    version = "1.0"

    def __init__(
        self,
        store: Store,
        keeper: LeaseKeeper,
        sinks: Sequence[SinkSettings],
        senders: Callable[[SinkSettings, World], Sender] = sender_of,
    ) -> None:
        """Raises InvalidInput for two sinks of one name, and for patterns that are none."""
        super().__init__()
        names = [sink.name for sink in sinks]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InvalidInput(f"two sinks are called {doubled[0]!r}", advice="Give each sink a name of its own.")
        for sink in sinks:
            check_patterns(sink.events)
        self._store = store
        self._keeper = keeper
        self._settings = tuple(sinks)
        self._senders = senders
        self._sinks: dict[str, _Sink] = {}

    async def on_activate(self) -> None:
        with use_context(Context(DEFAULT_SCOPE, process=self.id)):
            for settings in self._settings:
                sink = _Sink(settings, self._senders(settings, self.world), self._store)
                self._sinks[settings.name] = sink
                sink.subscription = await follow(
                    self,
                    self._store,
                    self._keeper,
                    subscription_name(settings.name),
                    settings.events,
                    sink.tell,
                    max_attempts=settings.attempts or None,
                )

    @operation
    async def list_sinks(self) -> tuple[SinkInfo, ...]:
        """The sinks of this container, by name."""
        stored = await self._store.read(partial(list_subscriptions, scope=DEFAULT_SCOPE))
        by_name = {one.name: one for one in stored}
        told = []
        for name, sink in sorted(self._sinks.items()):
            row, settings = by_name.get(subscription_name(name)), sink.settings
            state = None if sink.subscription is None else sink.subscription.snapshot()
            told.append(
                SinkInfo(
                    name=name,
                    type=_type_of(settings),
                    target=sink.sender.target,
                    events=settings.events,
                    infrastructures=settings.infrastructures,
                    reader="" if row is None else row.reader,
                    position=0 if row is None else row.position,
                    lag=0 if row is None else row.lag,
                    delivered=sink.delivered,
                    repeated=0 if state is None else state.repeated,
                    refused=sink.refused + (0 if state is None else state.skipped),
                    last_error=sink.last_error,
                )
            )
        return tuple(told)

    @operation
    async def test_sink(self, request: SinkRef) -> TestResult:
        """Tell a sink something now, past its events. Raises NotFound."""
        sink = self._sinks.get(request.name)
        if sink is None:
            known = ", ".join(sorted(self._sinks)) or "none"
            raise NotFound(f"there is no sink {request.name!r}", advice=f"There are: {known}.")
        scope, now, began = current_context().scope, self.world.now(), self.world.monotonic()
        test = Notification(
            delivery=f"{request.name}/test-{self.world.new_id()}",
            position=0,
            at=rfc3339(now),
            type="test",
            origin=self.container.id,
            project_id=scope.project_id,
            user_id=scope.user_id,
            data={"reason": "somebody tests this sink"},
        )
        try:
            await sink.sender.send(test)
        except PelagosError as error:
            return TestResult(request.name, self.world.monotonic() - began, error.message)
        return TestResult(request.name, self.world.monotonic() - began)

    @operation
    async def route(self, request: SetRoutes) -> SetRoutes:
        """These sinks are told of an infrastructure, whatever infrastructures their configuration names; none: only
        what that says. Raises NotFound for a sink or infrastructure that is not there."""
        for name in request.sinks:
            if name not in self._sinks:
                known = ", ".join(sorted(self._sinks)) or "none"
                raise NotFound(f"there is no sink {name!r}", advice=f"There are: {known}. Sinks are configured.")
        change = partial(set_routes, infrastructure_id=request.infrastructure_id, sinks=request.sinks)
        written = await self._store.run(repeatable("notifications.route", self.world.now(), change, tuple[str, ...]))
        return SetRoutes(request.infrastructure_id, written)


class _Sink:
    """One sink of this container, and how it fares."""

    def __init__(self, settings: SinkSettings, sender: Sender, store: Store) -> None:
        self.settings = settings
        self.sender = sender
        self.subscription: DurableSubscription | None = None
        self.delivered = 0
        self.refused = 0
        self.last_error = ""
        self._store = store

    async def tell(self, event: PublishedEvent) -> None:
        """The subscription's handler: whatever it raises is tried again."""
        if event.type in _NEVER_TOLD:
            return
        told = await self._store.read(partial(self._notification, event=event))
        if told is None:
            return
        try:
            await self.sender.send(told)
        except Undeliverable as error:
            self.refused += 1
            self.last_error = error.message
            log.error("a sink refuses an event", sink=self.settings.name, delivery=told.delivery, error=error.message)
        except PelagosError as error:
            self.last_error = error.message
            raise
        else:
            self.delivered += 1
            self.last_error = ""

    def _notification(self, connection: Connection, event: PublishedEvent) -> Notification | None:
        """What the sink is told; None if the event is about an infrastructure that is none of its."""
        id_ = event.data.get("infrastructure_id", "")
        name = name_of(connection, id_) if id_ else ""
        wanted = self.settings.infrastructures
        meant = not wanted or (id_ and (id_ in wanted or name in wanted))
        if not meant and not (id_ and self.settings.name in routed_to(connection, id_)):
            return None
        return Notification(
            delivery=f"{self.settings.name}/{event.position}",
            position=event.position,
            at=rfc3339(event.at),
            type=event.type,
            origin=event.origin,
            project_id=event.project_id,
            user_id=event.user_id,
            infrastructure=name,
            data=event.data,
        )


def subscription_name(sink: str) -> str:
    """Under which a sink's position is kept."""
    return f"sink {sink}"


def _type_of(settings: SinkSettings) -> Literal["webhook", "email", "command"]:
    match settings:
        case WebhookSink():
            return "webhook"
        case EmailSink():
            return "email"
        case CommandSink():
            return "command"
