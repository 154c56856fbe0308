"""How a maintainer works: times and counts, with defaults that suit real clouds."""

from __future__ import annotations

import msgspec

from pelagos.services.infrastructure.policies import Choose

__all__ = ["MaintainerSettings"]


class MaintainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    interval: float = 10.0
    """Between two passes of a maintained infrastructure: its clouds are listed."""
    health_interval: float = 5.0
    """Between two probes of a healthy instance of a maintained infrastructure."""
    first_poll: float = 0.05
    """Between the first two health checks of a new instance; grows by half each time up to ``poll``."""
    poll: float = 2.0
    recheck: float = 1.0
    """After the first failed check of an instance that was ready."""
    probes: int = 64
    """Health checks in flight an infrastructure."""
    attempts: int = 3
    """Creations of a node that may fail in a row before a run gives up."""
    backoff: float = 2.0
    """First back-off of healing; doubles with each failure in a row up to ``backoff_max``."""
    backoff_max: float = 300.0
    command_patience: float = 10.0
    """How long compute may take to journal a command; then it is sent again."""
    resend: float = 1.0
    """Before a command that compute did not take is sent again."""
    restart_patience: float = 120.0
    """A restart that its cloud does not take for so long has failed."""
    update_patience: float = 300.0
    """A change in place that its cloud does not take for so long has failed."""
    stable: float = 60.0
    """An instance that was ready for so long has proved its node: when it fails, the count of failures begins anew."""
    retry_patience: float = 30.0
    """A maintenance run waits so long for a node that backs off."""
    choose: Choose = "ordered"
    """How implementations are chosen for nodes whose policy does not say."""
    create_patience: float = 300.0
    """How long a creation that its cloud certainly has not made is tried before it is given up, where the node's policy
    does not say."""
    fallback_patience: float = 60.0
    """The same where the node has another implementation, if that is less."""
    refusal_memory: float = 300.0
    """How long an implementation that a cloud refused to make is passed over while there is another."""
    refusal_patience: float = 30.0
    """How long a run waits for a cloud that refuses to delete before it ends and lists what remains."""
    leave_patience: float = 60.0
    """How long a run that was asked to stop waits for what is being destroyed already."""
