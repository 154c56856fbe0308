"""What can be set about a simulated cloud: its account's options and its resource keys.

Times are in seconds. A delay is a number, or a distribution: ``{uniform: [low, high]}`` or ``{lognormal: [median,
sigma]}``. Draws come from the world's generator of the account, so one seed gives one history.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from pelagos.clouds.simulated.faults import Faults
from pelagos.clouds.values import Capabilities, TokenLookup

__all__ = [
    "CallDelay",
    "Delay",
    "SimulatedOptions",
    "SimulatedResource",
    "capabilities_of",
    "sampler",
]

NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A distribution of delays; exactly one of the two is given."""

    uniform: tuple[NotNegative, NotNegative] | None = None
    """Lowest and highest."""
    lognormal: tuple[NotNegative, NotNegative] | None = None
    """Median, and sigma of the logarithm (0.5 is a mild tail, 1 a long one)."""

    def __post_init__(self) -> None:
        if (self.uniform is None) == (self.lognormal is None):
            raise ValueError("give one of `uniform: [low, high]` and `lognormal: [median, sigma]`")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("`uniform` is [low, high], and its low is above its high")


CallDelay = NotNegative | Delay
"""A delay as options give it: seconds, or a distribution."""


def sampler(delay: float | Delay, rng: random.Random) -> Callable[[], float]:  # noqa: TID251 - its type
    """A function that draws one delay in seconds. A constant draws nothing from ``rng``."""
    if not isinstance(delay, Delay):
        constant = float(delay)
        return lambda: constant
    if delay.uniform is not None:
        low, high = delay.uniform
        return lambda: rng.uniform(low, high)
    assert delay.lognormal is not None
    median, sigma = delay.lognormal
    if median == 0:
        return lambda: 0.0
    mu = math.log(median)
    return lambda: rng.lognormvariate(mu, sigma)


class SimulatedResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: simulated``."""

    flavor: str = "small"
    """Refused by a cloud whose account lists ``flavors`` without it."""
    image: str = "default"
    """Refused by a cloud whose account lists ``images`` without it."""
    boot_seconds: NotNegative | None = None
    """From BUILD to ACTIVE; in place of the account's."""
    health: Literal["ok", "bad", "flapping"] = "ok"
    """What a probe finds, and what commands answer by default: flapping is 30 s well, 30 s ill, from ACTIVE on."""
    lifetime_seconds: NotNegative | None = None
    """The cloud takes the server away so long after its boot."""
    volumes: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """Volumes to make before it."""
    volume_gb: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The size of each."""
    keep_volumes: bool = False
    """They stay when the server is deleted."""
    address: bool = False
    """Whether to make a public address before it, and to give it to the server when it runs."""


class SimulatedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: simulated``."""

    state: Literal["memory", "file"] = "memory"
    """Where the cloud's reality lives: in this process, or in a file under Pelagos's home that commands share."""
    seed: int | None = None
    """Seeds the account's generator when the cloud is made; without it the world's own seed holds."""

    create_latency: CallDelay = 0.0
    """A create call, half before its effect and half after; the same for the others."""
    delete_latency: CallDelay = 0.0
    list_latency: CallDelay = 0.0
    get_latency: CallDelay = 0.0
    """get_server, find_by_token and console."""
    power_latency: CallDelay = 0.0
    """start, stop, reboot, execute and update."""
    boot_seconds: CallDelay = 0.0
    """From BUILD to ACTIVE."""
    delete_seconds: CallDelay = 0.0
    """From DELETING to gone."""
    power_seconds: CallDelay = 0.0
    """From a start, stop or reboot call to its new state."""
    part_latency: CallDelay = 0.0
    """A call that makes, lists or deletes parts, or finishes a server."""
    part_seconds: CallDelay = 0.0
    """Until a volume is ready; addresses are at once."""
    part_delete_seconds: CallDelay = 0.0
    """From the delete call of a part until it is gone."""
    visibility_delay: CallDelay = 0.0
    """How long reads go on showing what was before a create or delete. Never longer than ``settle``."""

    flavors: tuple[str, ...] = ()
    """Flavors there are; none given: any."""
    prices: dict[str, NotNegative] = {}
    """Flavor -> its price an hour; others have none."""
    currency: str = "EUR"
    images: tuple[str, ...] = ()
    max_servers: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The provider's quota."""
    max_parts: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The same of volumes and addresses together."""
    rate_limit: NotNegative = 0.0
    """Calls a second that the provider admits; 0: unlimited."""
    burst: Annotated[int, msgspec.Meta(ge=1)] = 10
    """Calls above the rate that it admits at once."""

    faults: Faults = Faults()
    retry_after: NotNegative = 1.0
    """What a 429 by chance says."""
    late_by: CallDelay = 5.0
    slow_by: CallDelay = 5.0
    refuse_for: CallDelay = 5.0
    spot_after: CallDelay = 60.0
    spot_state: Literal["stopped", "error", "vanish"] = "vanish"

    token_lookup: TokenLookup = TokenLookup.TAG
    settle: NotNegative = 10.0
    create_timeout: NotNegative = 60.0
    call_timeout: NotNegative = 30.0
    build_timeout: NotNegative = 900.0
    poll_interval: NotNegative = 2.0
    parallel_calls: Annotated[int, msgspec.Meta(ge=1)] = 16
    calls_per_second: NotNegative = 0.0
    power: bool = True
    console: bool = True
    execute: bool = True
    updates: frozenset[Literal["flavor", "image", "health"]] = frozenset()
    """Resource keys that this cloud changes on a server that is there."""
    user_data_limit: int | None = None


def capabilities_of(options: SimulatedOptions) -> Capabilities:
    """What a driver of an account with these options declares: each field of the same name."""
    return Capabilities(
        **{
            name: getattr(options, name)
            for name in Capabilities.__struct_fields__
            if name in SimulatedOptions.__struct_fields__
        }
    )
