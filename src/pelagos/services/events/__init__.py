"""Events: a catalogue of types, publishers, live and durable subscribers, and the service."""

from pelagos.services.events.catalogue import (
    CATALOGUE,
    AppChanged,
    BusinessState,
    Catalogue,
    ContainerChanged,
    DataBlock,
    EventSkipped,
    EventType,
    LogLine,
    ProcessChanged,
    ResourceChanged,
    ScheduledTrigger,
    SubscriptionChanged,
)
from pelagos.services.events.durable import DurableSubscription, follow
from pelagos.services.events.lifecycle import LifecycleEvents
from pelagos.services.events.live import LiveSubscription, subscribe
from pelagos.services.events.messages import (
    Declare,
    EventTypeInfo,
    Publish,
    Published,
    PublishedEvent,
    Seek,
    SubscriptionInfo,
    SubscriptionRef,
)
from pelagos.services.events.publishing import EventPublisher, append_event, make_event, write_events
from pelagos.services.events.service import EventsService
from pelagos.services.events.subscriptions import history, list_subscriptions
from pelagos.services.events.topics import matches_any, topic_of

__all__ = [
    "CATALOGUE",
    "AppChanged",
    "BusinessState",
    "Catalogue",
    "ContainerChanged",
    "DataBlock",
    "Declare",
    "DurableSubscription",
    "EventPublisher",
    "EventSkipped",
    "EventType",
    "EventTypeInfo",
    "EventsService",
    "LifecycleEvents",
    "LiveSubscription",
    "LogLine",
    "ProcessChanged",
    "Publish",
    "Published",
    "PublishedEvent",
    "ResourceChanged",
    "ScheduledTrigger",
    "Seek",
    "SubscriptionChanged",
    "SubscriptionInfo",
    "SubscriptionRef",
    "append_event",
    "follow",
    "history",
    "list_subscriptions",
    "make_event",
    "matches_any",
    "subscribe",
    "topic_of",
    "write_events",
]
