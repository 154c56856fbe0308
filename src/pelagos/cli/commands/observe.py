"""``pelagos observe``."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.observation import Stream
    from pelagos.cli.system import System
    from pelagos.exchange.sequences import Row

__all__ = ["observe"]

_REMEMBERED = 1000


@command(
    "observe",
    examples=[
        ("pelagos observe", "Messages as they pass, until Ctrl+C"),
        ("pelagos observe --last 20 --errors", "The last failures that the containers remember"),
        ("pelagos observe --last 50 --conversation c-1.2#7 --svg call.svg", "One conversation as a chart"),
        ("pelagos observe --service hello --seconds 10 --mermaid hello.mmd", "Ten seconds of a service's messages"),
    ],
    exits=COMMON,
)
@click.option("--conversation", metavar="ID", default="", help="One conversation, and what was asked on its behalf.")
@click.option("--service", metavar="NAME", default="", help="To or from a service, or a process.")
@click.option("--op", metavar="OPERATION", default="", help="An operation and its answers.")
@click.option("--errors", is_flag=True, help="Only failures, refusals, and what could not be delivered.")
@click.option("--all", "plumbing", is_flag=True, help="Also what containers tell each other all the time.")
@click.option("--content", is_flag=True, help="With contents; what looks like a secret is left out.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="The last N that are remembered, and no more.")
@click.option("--follow", is_flag=True, help="Go on after --last.")
@click.option("--seconds", type=click.FloatRange(0), metavar="S", help="Follow for so long.")
@click.option("--mermaid", type=click.Path(path_type=Path), metavar="FILE", help="Draw a chart as Mermaid text.")
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Draw a chart as SVG.")
@of_system
@pass_invocation
def observe(
    invocation: Invocation,
    conversation: str,
    service: str,
    op: str,
    errors: bool,
    plumbing: bool,
    content: bool,
    last: int | None,
    follow: bool,
    seconds: float | None,
    mermaid: Path | None,
    svg: Path | None,
    system: str | None,
    container: str | None,
) -> int:
    """Follow the messages of all containers: when, who, to whom, operation, performative, status, time taken,
    conversation. With -o json a document a message. Conversations that broke their protocol are told at the end.

    Containers remember their last messages (--last). Without --last it follows what passes from now on, and with
    --conversation shows first what is remembered of it. Ctrl+C (or SIGTERM) ends it with exit code 0, and the charts
    are drawn of all that was shown.
    """
    from pelagos.cli.controlling import open_system
    from pelagos.cli.observation import Stream
    from pelagos.exchange.observing import ObservationFilter

    if follow and last is None:
        raise click.UsageError("--follow goes on after --last; without --last it follows anyway.")
    wanted = ObservationFilter(conversation, service, op, errors, plumbing, content)
    going = last is None or follow or seconds is not None
    stream: Stream | None = None

    async def work(found: System) -> None:
        nonlocal stream
        stream = Stream(found, wanted, invocation.note)
        if last is not None or conversation:
            _show(invocation, stream, await stream.recent(last or _REMEMBERED))
        if not going:
            return
        if invocation.plain:
            invocation.note(f"Following the messages of system {found.name}. Ctrl+C ends.")
        try:
            async with asyncio.timeout(seconds):
                async for rows in stream.follow():
                    _show(invocation, stream, rows)
        except TimeoutError:
            pass

    async def whole() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl+C, which asyncio handles
        async with open_system(invocation, system, container) as found:
            await work(found)

    try:
        with asyncio.Runner() as runner:
            runner.run(whole())
    except (KeyboardInterrupt, asyncio.CancelledError):
        if stream is None:
            raise
    if stream is not None:
        _show(invocation, stream, stream.rest())
        _draw(invocation, stream, mermaid, svg)
    return Exit.OK


def _show(invocation: Invocation, stream: Stream, rows: list[Row]) -> None:
    import sys

    from pelagos.cli.observation import line

    for row in rows:
        if invocation.plain:
            invocation.say(line(row, stream.label))
        else:
            invocation.document(row, many=True)
    sys.stdout.flush()


def _draw(invocation: Invocation, stream: Stream, mermaid: Path | None, svg: Path | None) -> None:
    from pelagos.cli.outputs import write_output
    from pelagos.cli.texts import count
    from pelagos.exchange import charts

    sequence = stream.sequence
    for note in sequence.notes:
        invocation.note(f"Not as its protocol says: {note}")
    for path, draw in ((mermaid, charts.mermaid), (svg, charts.svg)):
        if path is not None:
            write_output(path, draw(sequence, title=stream.title).encode())
            invocation.note(f"{path}: {count(len(sequence.rows), 'message')}")
