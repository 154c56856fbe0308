"""The prompt of IPython: completion of services and operations, history, help by ``name?``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import CoroutineType
from typing import Any, cast

from pelagos.model.errors import PelagosError

__all__ = ["run_ipython", "suggestions"]

_FIRST = re.compile(r"\b(call|ping|send|spawn|client|ps)\(\s*[\"']([\w.:@-]*)\Z")
_SECOND = re.compile(r"\b(?:call|send)\(\s*[\"']([\w.:@-]+)[\"']\s*,\s*([\"']?)(\w*)\Z")

Known = Callable[[], tuple[dict[str, tuple[str, ...]], tuple[str, ...]]]
"""Operations by service, and startable names."""


def suggestions(line: str, known: Known) -> tuple[list[str], int] | None:
    """What may stand at the end of a line, and how much of it is there; None where it is not ours to say."""
    second = _SECOND.search(line)
    if second is not None:
        operations = known()[0].get(second[1].removeprefix("service:"), ())
        quote = "" if second[2] else '"'  # not written yet: the name comes with its quotes
        return [f"{quote}{op}{quote}" for op in operations if op.startswith(second[3])], len(second[3])
    first = _FIRST.search(line)
    if first is None:
        return None
    services, startable = known()
    kind, begun = first[1], first[2]
    names = startable if kind in ("spawn", "client") else sorted(services)
    prefix = "service:" if begun.startswith("service:") else ""
    return [f"{prefix}{name}" for name in names if f"{prefix}{name}".startswith(begun)], len(begun)


def run_ipython(
    namespace: dict[str, Any],
    *,
    banner: str,
    history: Path | None,
    known: Known,
    report: Callable[[BaseException], None],
    directory: Path,
) -> None:
    """Until Ctrl+D. ``history`` None: none is kept."""
    from IPython.core.completer import SimpleCompletion, context_matcher
    from IPython.terminal.interactiveshell import TerminalInteractiveShell
    from traitlets.config import Config

    config = Config()
    config.TerminalInteractiveShell.banner1 = banner
    config.TerminalInteractiveShell.confirm_exit = False
    config.TerminalInteractiveShell.autoawait = True
    config.TerminalInteractiveShell.term_title = False
    config.HistoryManager.enabled = history is not None
    if history is not None:
        config.HistoryManager.hist_file = str(history)
    shell = TerminalInteractiveShell.instance(user_ns=namespace, config=config, ipython_dir=str(directory))

    def tell(shell: Any, kind: Any, error: BaseException, traceback: Any, tb_offset: Any = None) -> None:
        report(error)

    def services(context: Any) -> Any:
        found = suggestions(context.text_until_cursor.rpartition("\n")[2], known)
        if found is None:
            return {"completions": [], "suppress": False}
        names, begun = found
        return {
            "completions": [SimpleCompletion(text=name, type="service") for name in names],
            "matched_fragment": context.text_until_cursor[len(context.text_until_cursor) - begun :],
            "suppress": bool(names),
        }

    untyped = cast(Any, shell)
    untyped.set_custom_exc((PelagosError,), tell)
    from pelagos.cli.shell.values import unawaited

    text = untyped.display_formatter.formatters["text/plain"]
    text.for_type(CoroutineType, lambda value, printer, _: printer.text(unawaited(value)))
    untyped.Completer.custom_matchers.append(cast(Any, context_matcher)()(services))
    untyped.show_banner()
    untyped.mainloop()
