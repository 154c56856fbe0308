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
        """Run statements; the value of each expression among them is shown. Raises what they raise, and SyntaxError.

        With an ``await`` in any of them all run within the loop, so that one may start what another waits for.
        """
        tree = compile(source, name, "exec", flags=_FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        whole = compile(source, name, "exec", flags=_FLAGS, dont_inherit=True)
        if whole.co_flags & inspect.CO_COROUTINE:
            self._runner.run(self._statements(tree, name))
            return
        nothing_awaited = self._statements(tree, name)
        try:
            nothing_awaited.send(None)
        except StopIteration:
            pass

    async def _statements(self, tree: ast.Module, name: str) -> None:
        for statement in tree.body:
            if isinstance(statement, ast.Expr):
                code = compile(ast.Expression(statement.value), name, "eval", flags=_FLAGS, dont_inherit=True)
                value = await self._value(code)
                if value is not None:
                    self.namespace["_"] = value
                    self._show(value)
            else:
                await self._value(compile(ast.Module([statement], []), name, "exec", flags=_FLAGS, dont_inherit=True))

    async def _value(self, code: types.CodeType) -> Any:
        value = types.FunctionType(code, self.namespace)()
        if code.co_flags & inspect.CO_COROUTINE:
            return await value
        return value
