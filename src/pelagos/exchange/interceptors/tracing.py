"""Traces: every message has one, and the last hops are kept.

A trace is the id of the whole chain of requests; callers carry it on, and what comes without one begins one here. With
OpenTelemetry installed and ``export: true``, each request served and each call made is a span of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from pelagos.exchange.envelope import Envelope, Performative, Status
from pelagos.exchange.transport import Receiver
from pelagos.model.errors import Unsupported
from pelagos.model.world import World

__all__ = ["Exporter", "Hop", "OpenTelemetryExporter", "Trace", "TraceOptions"]


class TraceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hops: int = 0
    """How many of the last hops are kept; each costs the time of a clock and a small object."""
    export: bool = False
    """Hand spans to OpenTelemetry, as it is configured in this interpreter."""


class Hop(msgspec.Struct, frozen=True, gc=False):
    """A message that passed here; ``at`` by this clock, ``sent`` by its sender's, in seconds since the epoch."""

    at: float
    sent: float
    outbound: bool
    trace: str
    conversation: str
    op: str
    performative: Performative
    address: str
    status: Status


class Exporter(Protocol):
    def hop(self, hop: Hop) -> None: ...


class Trace:
    """See the module's head."""

    name = "trace"

    def __init__(
        self,
        world: World,
        options: TraceOptions | None = None,
        *,
        exporter: Exporter | None = None,
        local: bool = False,
    ) -> None:
        options = options or TraceOptions()
        self._new_id: Callable[[], str] = world.new_id
        self._now = world.now
        self._hops: deque[Hop] = deque(maxlen=options.hops)
        if exporter is None and options.export:
            exporter = OpenTelemetryExporter()
        self._exporter = exporter
        self._records = options.hops > 0 or exporter is not None
        self.replies = self._records
        self.sees_inbound = self._records or not local  # who sent it in this interpreter has given it a trace
        self._made = 0

    def outbound(self, envelope: Envelope) -> Envelope:
        if not envelope.trace:
            self._made += 1
            envelope = msgspec.structs.replace(envelope, trace=self._new_id())
        if self._records:
            self._record(envelope, envelope.receiver, outbound=True)
        return envelope

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        if not envelope.trace:
            self._made += 1
            envelope = msgspec.structs.replace(envelope, trace=self._new_id())
        if self._records:
            self._record(envelope, receiver.address, outbound=False)
        return envelope

    def hops(self, trace: str = "") -> list[Hop]:
        """What is kept, the oldest first; of one trace, or all."""
        return [hop for hop in self._hops if not trace or hop.trace == trace]

    def snapshot(self) -> dict[str, Any]:
        return {"made": self._made, "hops": len(self._hops)}

    def _record(self, envelope: Envelope, address: str, *, outbound: bool) -> None:
        hop = Hop(
            self._now(),
            envelope.ts / 1000,
            outbound,
            envelope.trace,
            envelope.conv_id,
            envelope.op,
            envelope.performative,
            address,
            envelope.status,
        )
        self._hops.append(hop)
        if self._exporter is not None:
            self._exporter.hop(hop)


class OpenTelemetryExporter:
    """Spans from hops: a request's hop opens one, its answer's hop the other way ends it. Open ones are bounded.

    Raises :class:`Unsupported` where OpenTelemetry is not installed.
    """

    def __init__(self, tracer: Any = None, *, limit: int = 4096) -> None:
        if tracer is None:
            try:
                from opentelemetry import trace  # type: ignore[import-not-found,unused-ignore]
            except ImportError as error:
                raise Unsupported(
                    "exporting traces needs the Python package 'opentelemetry-api', which is not installed",
                    advice="pip install opentelemetry-sdk, or leave 'export' out of the trace interceptor's options.",
                ) from error
            tracer = trace.get_tracer("pelagos.exchange")
        self._tracer = tracer
        self._limit = limit
        self._open: dict[tuple[str, bool], Any] = {}

    def hop(self, hop: Hop) -> None:
        if hop.performative is Performative.REQUEST:
            if len(self._open) >= self._limit:
                self._open.pop(next(iter(self._open))).end()
            span = self._tracer.start_span(f"{hop.address} {hop.op}", start_time=int(hop.at * 1e9))
            span.set_attribute("pelagos.trace", hop.trace)
            span.set_attribute("pelagos.conversation", hop.conversation)
            span.set_attribute("messaging.operation.type", "send" if hop.outbound else "process")
            self._open[hop.conversation, hop.outbound] = span
        elif hop.performative not in (Performative.AGREE, Performative.INFORM, Performative.CANCEL):
            span = self._open.pop((hop.conversation, not hop.outbound), None)
            if span is not None:
                span.set_attribute("pelagos.status", hop.status.value)
                span.end(end_time=int(hop.at * 1e9))
