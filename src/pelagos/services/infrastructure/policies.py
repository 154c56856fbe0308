"""Policies of a node: how the service treats its instances beside making them. Values only.

They are no part of what an instance is made from, so a changed policy changes no instance.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "AutoscalePolicy",
    "ChangePolicy",
    "Choose",
    "HealAction",
    "HealPolicy",
    "MetricSource",
    "MetricType",
    "NodePolicy",
    "OnFailure",
    "ScaleDown",
]

ChangePolicy = Literal["replace", "keep"]
OnFailure = Literal["stop", "rollback", "keep"]
HealAction = Literal["restart", "replace", "keep"]
Choose = Literal["ordered", "random", "weighted", "cheapest", "least_used"]
ScaleDown = Literal["unhealthy", "youngest", "oldest"]
MetricType = Literal["cpu", "http", "prometheus", "command"]


class HealPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done about an instance in a bad state, and how often. Times in seconds."""

    shutdown: HealAction = "replace"
    """Its server is stopped."""
    failed: HealAction = "replace"
    """Unhealthy for longer than its health check's ``timeout``, or its server is in error: that is never restarted."""
    temp_failed: HealAction = "keep"
    """Unhealthy for now: ``keep`` gives it time to recover."""
    unreachable: Literal["replace", "keep"] = "keep"
    """Its cloud cannot be asked for ``unreachable_after`` seconds: ``replace`` makes another by the node's next
    implementation, if there is one, and deletes this one when the cloud is back."""
    unreachable_after: float = 300.0
    outdated: Literal["replace", "keep"] = "keep"
    """What it was told of others when it was made is no longer true, since they were healed: ``keep`` leaves it with a
    mark; ``replace`` makes it anew, as a change of the description would."""
    restarts: int = 3
    """Restarts of one instance in a row; the next failure replaces it."""
    backoff: float | None = None
    """Before the second attempt in a row; doubles with each, up to ``backoff_max``. None: 2."""
    backoff_max: float | None = None
    """None: 300."""
    attempts: int = 10
    """Failures of the node within ``window`` after which its breaker opens: nothing more is healed until it is closed
    by a person or a new description. 0: it never opens."""
    window: float = 3600.0


class MetricSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the number comes from that a node is scaled by. Texts are templates, as in a health check."""

    type: MetricType
    """``cpu``: per cent busy, by a command inside each instance; ``http``: a number in a JSON document;
    ``prometheus``: a sample of an exposition page, or of a query to a Prometheus server; ``command``: what a command
    inside each instance prints."""
    url: str = ""
    path: str = ""
    """``http``: the way to the number, ``queue.length`` or ``items[0].load``; empty: the document is the number."""
    name: str = ""
    """``prometheus``: the sample's name on the exposition page at ``url``; all that fit are added up."""
    labels: dict[str, str] = {}
    """Labels that a sample must have."""
    query: str = ""
    """Instead of ``name``: an expression that the Prometheus server at ``url`` evaluates."""
    command: tuple[str, ...] = ()
    rate: bool = False
    """It is a counter: its growth a second is what counts."""
    of: Literal["instances", "node"] = "instances"
    """``instances``: each is asked, and the numbers are added up; ``node``: one answer tells for all."""
    timeout: float = 5.0

    @property
    def per_instance(self) -> bool:
        return self.of == "instances" or self.type in ("cpu", "command")


class AutoscalePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keeps a metric at its target by the number of instances. Times in seconds."""

    metric: MetricSource
    target: float
    """What one instance should have of it."""
    min: int | None = None
    """Within the node's ``scaling``; None: its ``min``."""
    max: int | None = None
    tolerance: float = 0.1
    """No change while the metric an instance is within this share of the target."""
    interval: float = 15.0
    """Between two looks."""
    up_cooldown: float = 30.0
    """After a change, before the number rises again."""
    down_cooldown: float = 300.0
    """After a change, before the number sinks; it sinks no further than the highest number wanted in this time."""
    max_step: int = 0
    """Most instances added or removed at once; 0: any number."""


class NodePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a description says under a node's ``policy``."""

    change: ChangePolicy = "replace"
    """What becomes of instances that are described differently now: ``replace``, one after the other; or ``keep``, with
    a mark that they are not as described."""
    max_unavailable: int = 0
    """Most instances that a change may have down at once; 0: a new one is ready before an old one goes."""
    max_surge: int | None = None
    """Most instances beyond the target while they are replaced; None: one where none may be unavailable, else none."""
    on_failure: OnFailure = "rollback"
    """A change that fails because of this node: ``rollback`` to what was before; ``stop``: what is half-made goes, what
    is ready stays; ``keep``: all stays as it is."""
    heal: HealPolicy = HealPolicy()
    scale_down: ScaleDown = "unhealthy"
    """Which instances go when there are too many: ``unhealthy`` ones first and then the youngest, the ``youngest``, or
    the ``oldest``."""
    protect: bool = False
    """Instances are protected as soon as they are ready: nobody destroys them until that is lifted by hand."""
    autoscale: AutoscalePolicy | None = None
    choose: Choose | None = None
    """How an implementation is chosen where the node's type has several; None: as the configuration says."""
    create_patience: float | None = None
    """Seconds for which a creation is tried that its cloud certainly has not made, before it is given up; None: as the
    configuration says."""
    weights: dict[str, float] = {}
    """For ``weighted``: cloud account, or else resource type -> its share of the instances; 1 for all others."""

    @property
    def surge(self) -> int:
        """How many instances there may be beyond the target while they are replaced; at least one where none may be
        unavailable, since nothing could move otherwise."""
        if self.max_surge is None:
            return 0 if self.max_unavailable else 1
        return self.max_surge if self.max_unavailable else max(1, self.max_surge)
