"""``pelagos call``, ``send`` and ``ping``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.system import System

__all__ = ["call", "ping", "send"]

_CONTENT = click.option(
    "--content", metavar="YAML", help="What is sent: a word, {key: value}, @FILE, or - for stdin; nothing if not given."
)


@command(
    "call",
    examples=[
        ("pelagos call hello hello --content you", "Call an operation of a service"),
        ("pelagos call shop buy --content '{item: lamp, count: 2}' -o json", "Structs are written as mappings"),
        ("pelagos call hello ping --on c-1.4", "One certain process of it"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("service", metavar="SERVICE_OR_ADDRESS")
@click.argument("operation", metavar="OPERATION")
@_CONTENT
@click.option("--timeout", type=click.FloatRange(0.001), metavar="SECONDS", help="How long to wait for the answer.")
@click.option("--on", "process", metavar="PROCESS", help="Call this process, not any of the service.")
@of_system
@pass_invocation
def call(
    invocation: Invocation,
    service: str,
    operation: str,
    content: str | None,
    timeout: float | None,
    process: str | None,
    system: str | None,
    container: str | None,
) -> int:
    """Call an operation of a service (hello), of a process (c-1.7) or of an address (service@local:hello), and print
    what it answers.

    A text is printed as it is, anything else as YAML, or as JSON with -o json. An error that it answers with is told
    with its advice, and has the exit code of its kind. The call is made as the system itself: a policy that would
    refuse it to a user does not refuse it here, unless system_roles says so.
    """
    from pelagos.cli.contents import read_content, show_result
    from pelagos.cli.controlling import address_of, run_with_system, waiting

    address = address_of(process or service)
    value = read_content(content)

    async def work(found: System) -> int:
        with waiting(invocation, f"Waiting for {operation} of {address}"):
            answer = await found.call(address, operation, value, timeout=timeout)
        show_result(invocation, answer)
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "send",
    examples=[
        ("pelagos send hello remember --content you", "Send and do not wait"),
        ("pelagos send topic:event.restock event --content '{item: lamp}'", "Tell whoever listens"),
    ],
    exits=(Exit.FAILED, *COMMON),
)
@click.argument("address", metavar="SERVICE_OR_ADDRESS")
@click.argument("operation", metavar="OPERATION")
@_CONTENT
@of_system
@pass_invocation
def send(
    invocation: Invocation,
    address: str,
    operation: str,
    content: str | None,
    system: str | None,
    container: str | None,
) -> int:
    """Send one message that nobody answers.

    Exit code 0 says that it is in the queue of the service or process, not that it has been worked on; if nobody serves
    it, the exit code is 69. What goes to a fan-out or topic has just been sent: perhaps nobody listens.
    """
    from pelagos.cli.contents import read_content
    from pelagos.cli.controlling import address_of, run_with_system

    full = address_of(address)
    value = read_content(content)

    async def work(found: System) -> int:
        await found.send(full, operation, value)
        if not invocation.plain:
            invocation.document({"address": full, "operation": operation, "sent": True})
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "ping",
    examples=[
        ("pelagos ping hello", "Does the service answer?"),
        ("pelagos ping hello --count 1 --wait 30", "Wait until it does; for start scripts and health checks"),
        ("pelagos ping c-1.7", "One process"),
    ],
    exits=(Exit.FAILED, *COMMON),
)
@click.argument("service", metavar="SERVICE_OR_PROCESS")
@click.option("--count", type=click.IntRange(1, 1_000_000), default=4, show_default=True, help="How many times.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="How long it may take until the first answer, if nobody serves it yet.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.001),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each answer.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The pause between two.",
)
@of_system
@pass_invocation
def ping(
    invocation: Invocation,
    service: str,
    count: int,
    wait: float,
    timeout: float,
    interval: float,
    system: str | None,
    container: str | None,
) -> int:
    """Ask a service or process whether it lives, and say how long its answers took.

    Exit codes: 0 each was answered, 1 at least one was not, 69 there is no container to ask. SIGTERM (timeout 10
    pelagos ping …) ends it with the sum and the exit code of what was asked until then.
    """
    from pelagos.cli.controlling import address_of, run_with_system
    from pelagos.cli.pinging import ping_address

    address = address_of(service)

    async def work(found: System) -> int:
        return await ping_address(
            invocation, found, address, count=count, wait=wait, timeout=timeout, interval=interval
        )

    return run_with_system(invocation, system, container, work)
