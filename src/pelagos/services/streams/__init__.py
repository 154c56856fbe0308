"""Streams: typed data by name and key, live or by durable queues."""

from pelagos.services.streams.messages import (
    Bind,
    DeclareStream,
    FindStreams,
    Stream,
    StreamMessage,
    StreamRef,
    StreamSubscription,
    SubscribeStream,
    SubscriptionName,
)
from pelagos.services.streams.rows import find_streams
from pelagos.services.streams.service import StreamsService
from pelagos.services.streams.using import LiveStream, StreamPublisher, StreamWorker, listen, work

__all__ = [
    "Bind",
    "DeclareStream",
    "FindStreams",
    "LiveStream",
    "Stream",
    "StreamMessage",
    "StreamPublisher",
    "StreamRef",
    "StreamSubscription",
    "StreamWorker",
    "StreamsService",
    "SubscribeStream",
    "SubscriptionName",
    "find_streams",
    "listen",
    "work",
]
