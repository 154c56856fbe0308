"""Lines of Python with top-level ``await``, for ``-c``, for what comes through a pipe, and for the plain prompt."""

from __future__ import annotations

import ast
import asyncio
import inspect
import types
from collections.abc import Callable
from typing import Any

__all__ = ["Lines"]

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Lines:
    """Runs code in one namespace, and coroutines of it on one loop. ``show`` gets the values of expressions."""

    def __init__(self, namespace: dict[str, Any], show: Callable[[Any], None]) -> None:
        self.namespace = namespace
        self._show = show
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()

    def run(self, source: str, name: str = "<shell>") -> None:
        """Run statements; the value of each expression among them is shown. Raises what they raise, and SyntaxError."""
        tree = compile(source, name, "exec", flags=_FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        for statement in tree.body:
            if isinstance(statement, ast.Expr):
                code = compile(ast.Expression(statement.value), name, "eval", flags=_FLAGS, dont_inherit=True)
                value = self._run(code)
                if value is not None:
                    self.namespace["_"] = value
                    self._show(value)
            else:
                self._run(compile(ast.Module([statement], []), name, "exec", flags=_FLAGS, dont_inherit=True))

    def _run(self, code: types.CodeType) -> Any:
        function = types.FunctionType(code, self.namespace)
        value = function()
        if code.co_flags & inspect.CO_COROUTINE:
            return self._runner.run(value)
        return value
