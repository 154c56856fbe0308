"""The prompt of the standard library, where IPython is not installed."""

from __future__ import annotations

import code
import sys
from typing import Any

from pelagos.cli.shell.execution import Lines

__all__ = ["PlainShell"]


class PlainShell(code.InteractiveConsole):
    """Reads lines until they are whole, and runs them with top-level ``await``. ``report`` tells an error."""

    def __init__(self, lines: Lines, report: Any) -> None:
        super().__init__(lines.namespace)
        self._lines = lines
        self._report = report
        self.compile.compiler.flags |= 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, to know when a line is whole

    def run(self, banner: str) -> None:
        """Until Ctrl+D."""
        self.interact(banner=banner, exitmsg="")

    def runsource(self, source: str, filename: str = "<shell>", symbol: str = "single") -> bool:
        try:
            if self.compile(source, filename, symbol) is None:
                return True
        except (OverflowError, SyntaxError, ValueError):
            self.showsyntaxerror(filename)
            return False
        try:
            self._lines.run(source, filename)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - the prompt goes on, whatever a line does
            self._report(error)
        return False

    def raw_input(self, prompt: str = "") -> str:
        if prompt == getattr(sys, "ps1", ">>> "):
            prompt = "pelagos> "
        return super().raw_input(prompt)
