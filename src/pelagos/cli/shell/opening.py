"""``pelagos shell``: connects, gathers the names, and chooses the prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from pelagos.cli.contents import show_result
from pelagos.cli.controlling import connect
from pelagos.cli.exits import Exit
from pelagos.cli.failures import report
from pelagos.cli.shell.classes import import_classes
from pelagos.cli.shell.execution import Lines
from pelagos.cli.shell.names import ShellNames
from pelagos.cli.shell.remote import Remote
from pelagos.cli.shell.values import Listing, Said, unawaited
from pelagos.model.errors import PelagosError

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.system import System
    from pelagos.container.control.port import Control

__all__ = ["open_shell"]

_HINT = "IPython is not installed: pip install 'pelagos[shell]' gives completion and history."


def open_shell(
    invocation: Invocation, system: str | None, container: str | None, line: str | None, *, history: bool = True
) -> int:
    """Run the lines of ``line``, of a pipe, or of a person. Answers the exit code."""
    remote: Remote | None = None

    async def control() -> Control:
        # The next container may be another one than that which was named, if that has gone; its system is the same.
        known = remote is not None and remote.was_connected
        return await connect(
            invocation, remote.info.system if known and remote else system, None if known else container
        )

    remote = Remote(control)
    try:
        info = remote.info
        classes = import_classes(info, invocation.note if line is None else _quiet)
        namespace = {"__name__": "__pelagos_shell__", **ShellNames(invocation, remote, classes).namespace()}
        if line is not None:
            return _run(invocation, namespace, line, "-c")
        if sys.stdin is None or not sys.stdin.isatty():
            return _run(invocation, namespace, sys.stdin.read() if sys.stdin else "", "<stdin>")
        banner = f"Pelagos {info.version}: system {info.system}, container {info.id} ({info.broker})\n"
        names = [name for name in namespace if not name.startswith("_")]
        banner += f"{', '.join(sorted(names, key=str.lower))}\n"
        _prompt(invocation, namespace, remote, banner, history=history)
        return Exit.OK
    finally:
        remote.close()


def _run(invocation: Invocation, namespace: dict[str, Any], source: str, name: str) -> int:
    lines = Lines(namespace, _shower(invocation))
    try:
        lines.run(source, name)
    except PelagosError:
        raise
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else Exit.OK
    except Exception as error:  # noqa: BLE001 - the person's own line, not a defect of ours
        _traceback(error)
        return Exit.FAILED
    finally:
        lines.close()
    return Exit.OK


def _prompt(invocation: Invocation, namespace: dict[str, Any], remote: Remote, banner: str, *, history: bool) -> None:
    def tell(error: BaseException) -> None:
        if isinstance(error, (PelagosError, KeyboardInterrupt)):
            report(error, invocation)
        else:
            _traceback(error)

    from importlib.util import find_spec

    if find_spec("IPython") is None:
        from pelagos.cli.shell.plain import PlainShell

        lines = Lines(namespace, _shower(invocation))
        try:
            PlainShell(lines, tell).run(f"{banner}{_HINT}")
        finally:
            lines.close()
        return
    from pelagos.cli.session import settings_of
    from pelagos.cli.shell.history import history_file
    from pelagos.cli.shell.ipython import run_ipython

    home = settings_of(invocation).home
    run_ipython(
        namespace,
        banner=banner,
        history=history_file(home) if history else None,
        known=lambda: remote.run(_known),
        report=tell,
        directory=home / "shell",
    )


async def _known(system: System) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    operations = {service.name: service.operations for service in await system.services()}
    startable = {name for node in await system.nodes() for name in node.startable}
    return operations, tuple(sorted(startable))


def _shower(invocation: Invocation) -> Callable[[Any], None]:
    def show(value: Any) -> None:
        if isinstance(value, (Listing, Said)) and invocation.plain:
            invocation.say(repr(value))
        elif isinstance(value, CoroutineType):
            invocation.note(unawaited(value))
        elif invocation.plain and isinstance(value, (list, tuple)) and value and all(one is None for one in value):
            return  # of calls side by side that answer nothing: as little to show as of one
        else:
            try:
                show_result(invocation, value)
            except TypeError:  # no value that a document can hold: a client, a class
                invocation.say(repr(value))

    return show


def _traceback(error: BaseException) -> None:
    """Of the person's line, without the frames above it, which are ours and the loop's."""
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename not in ("-c", "<stdin>", "<shell>"):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


def _quiet(text: str) -> None:
    """A script is not told what it has not asked for."""
