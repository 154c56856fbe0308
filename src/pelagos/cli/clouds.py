"""Clouds as tables and sentences."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pelagos.cli.texts import age, clean, count, state, table
from pelagos.wire.times import from_rfc3339

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session
    from pelagos.wire.clouds import (
        CloudCheck,
        CloudServerView,
        CloudView,
        FlavorView,
        ImageView,
        PoolChangeView,
    )

__all__ = [
    "LOOK",
    "change_text",
    "check_table",
    "cloud_facts",
    "cloud_table",
    "flavor_table",
    "image_table",
    "look_once",
    "patiently",
    "server_table",
]

T = TypeVar("T")

LOOK = 10.0
"""Seconds for which a command that only shows clouds waits for what they say."""
_QUIET = 1.0
"""Seconds after which a person is told what is waited for."""


async def patiently(invocation: Invocation, work: Coroutine[Any, Any, T], what: str) -> T:
    """The result of ``work``; if that takes a while, stderr says what is waited for."""

    async def tell() -> None:
        await asyncio.sleep(_QUIET)
        invocation.note(what)

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(tell())
        try:
            return await work
        finally:
            telling.cancel()


async def look_once(invocation: Invocation, session: Session, name: str = "") -> None:
    """Ask the clouds, or one, where nobody has: services that end with the command know of none how it is.

    Those that have not answered in time are named, and stay unknown. Raises NotFound."""
    if not session.embedded:
        return
    try:
        async with asyncio.timeout(LOOK):
            await patiently(invocation, session.client.clouds.check(name), f"Asking {name or 'the clouds'}…")
    except TimeoutError:
        silent = [one.name for one in await session.client.clouds.list() if one.state == "unknown"]
        if silent:
            hint = "pelagos cloud check waits longer"
            invocation.note(f"warning: no answer within {LOOK:.0f} s of {', '.join(silent)}: {hint}.")


def cloud_table(clouds: Sequence[CloudView], now: float) -> str:
    """A line a cloud."""
    rows = [
        [
            one.name + (" *" if one.default else ""),
            one.driver,
            state(one.state),
            _since(one.answered_at, now),
            _milliseconds(one.latency),
            str(one.servers) if one.servers else "",
            _work(one),
            clean(one.endpoint),
            clean(one.error.message) if one.error is not None and one.state != "ok" else "",
        ]
        for one in clouds
    ]
    return table(["NAME", "DRIVER", "STATE", "ANSWERED", "LATENCY", "SERVERS", "WORK", "ENDPOINT", "ERROR"], rows)


def cloud_facts(one: CloudView, now: float) -> str:
    """All of one cloud, a fact a line; what is not known is left out."""
    facts = [
        ("name", one.name),
        ("driver", one.driver),
        ("endpoint", clean(one.endpoint)),
        ("region", one.region),
        ("default", "of its driver" if one.default else ""),
        ("named by", one.source),
        ("state", state(one.state)),
        ("driver is", "open" if one.opened else "not open yet"),
        ("served by", {"here": "this process", "elsewhere": "another process"}.get(one.served, "")),
        ("answered", _since(one.answered_at, now)),
        ("latency", _milliseconds(one.latency)),
        ("held", f"for {one.held_for:.0f} s" if one.held_for else ""),
        ("circuit", one.circuit),
        ("servers", str(one.servers)),
        ("work", _work(one)),
        ("calls out", str(one.in_flight) if one.in_flight else ""),
        ("last error", _error(one, now)),
    ]
    facts += [(f"can.{key}", str(value)) for key, value in one.details.get("capabilities", {}).items()]
    facts += [(f"driver.{key}", clean(str(value))) for key, value in one.details.get("driver", {}).items()]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts if value)


def check_table(checks: Sequence[CloudCheck]) -> str:
    rows = [
        [
            one.cloud,
            click.style("ok", fg="green") if one.ok else click.style("failed", fg="red"),
            _milliseconds(one.seconds),
            clean(one.error.message) if one.error is not None else "",
        ]
        for one in checks
    ]
    return table(["CLOUD", "RESULT", "TIME", "ERROR"], rows)


def image_table(images: Sequence[ImageView]) -> str:
    rows = [[clean(one.id), clean(one.name), _size(one.size_bytes), (one.created_at or "")[:10]] for one in images]
    return table(["ID", "NAME", "SIZE", "MADE"], rows)


def flavor_table(flavors: Sequence[FlavorView]) -> str:
    rows = [
        [
            clean(one.id),
            clean(one.name),
            "" if one.vcpus is None else f"{one.vcpus:g}",
            "" if one.ram_mb is None else f"{one.ram_mb} MiB",
            "" if one.disk_gb is None else f"{one.disk_gb:g} GB",
            "" if one.price_per_hour is None else f"{one.price_per_hour:g} {one.currency}".rstrip(),
        ]
        for one in flavors
    ]
    return table(["ID", "NAME", "CPUS", "MEMORY", "DISK", "PRICE/H"], rows)


def server_table(servers: Sequence[CloudServerView]) -> str:
    rows = [
        [
            clean(one.provider_id),
            clean(one.name),
            state(one.state.value),
            "yes" if one.ours else "no",
            ", ".join(one.addresses),
            (one.infrastructure_id or "")[:8],
        ]
        for one in servers
    ]
    return table(["ID", "NAME", "STATE", "OURS", "ADDRESSES", "INFRA"], rows)


def change_text(change: PoolChangeView) -> str:
    """What a reload did, a kind of change a line."""
    told = [
        ("added", change.added),
        ("changed", change.changed),
        ("removed", change.removed),
        ("opened anew", change.renewed),
    ]
    lines = [f"{what}: {', '.join(names)}" for what, names in told if names]
    lines.append(f"{count(len(change.kept), 'cloud')} as before")
    return "\n".join(lines)


def _since(moment: str | None, now: float) -> str:
    return "" if moment is None else f"{age(now - from_rfc3339(moment))} ago"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"


def _work(one: CloudView) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(one.operations.items()))


def _error(one: CloudView, now: float) -> str:
    if one.error is None:
        return ""
    return f"{clean(one.error.message)} ({_since(one.error_at, now)})"


def _size(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"
