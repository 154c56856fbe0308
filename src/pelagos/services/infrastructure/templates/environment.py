"""The sandbox in which templates run: strict names, no side effects, bounded work and bounded size.

Jinja's own sandbox keeps templates away from Python's insides, but not from eating the machine: two nested loops over
``range`` or forty lines that each double a text are enough. So every loop step and every call counts against a budget
(loops are rewritten at parse time to pass through a counting filter), and whatever can make a text much longer than
what it was made from is measured before it is done.

``variables.items`` means the variable called so where there is one, and only otherwise the method: names that people
give win over Python's.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = ["FUNCTIONS", "MAX_OUTPUT", "MAX_STEPS", "NODE_FUNCTIONS", "Runaway", "environment", "run"]

MAX_OUTPUT = 1 << 20
"""Most characters that a template, or any text made inside of one, may have."""
MAX_STEPS = 200_000
"""Most loop steps and calls of one template."""

NODE_FUNCTIONS = ("getip", "getprivip", "getipall", "find_node_id")
"""Functions whose first argument is a node's name."""
FUNCTIONS = (*NODE_FUNCTIONS, "cut", "cmd", "ibget")

_budget: ContextVar[list[int]] = ContextVar("budget")


class Runaway(Exception):
    """The template does too much, or makes something too large."""


def _step(count: int = 1) -> None:
    left = _budget.get(None)
    if left is None:
        return
    left[0] -= count
    if left[0] < 0:
        raise Runaway(f"the template takes more than {MAX_STEPS} steps")


def _measure(size: int) -> None:
    if size > MAX_OUTPUT:
        raise Runaway(f"the template makes a text of more than {MAX_OUTPUT} characters")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _steps(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _step()
        yield value


def _bounded(value: Any) -> Any:
    _measure(_size(value))
    return value


def _concat(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _measure(sum(map(len, texts)))
    return "".join(texts)


def _range(*args: int) -> range:
    result = range(*args)
    _step(len(result))
    return result


def _check_widths(text: str) -> None:
    """Numbers in a format are widths: none may be large."""
    if any(len(number) > 4 for number in re.findall(r"[0-9]+", text)):
        raise Runaway("the template formats to more than 9999 characters")


def _check_method(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Refuse a text's method if its result would be far larger than what goes in."""
    owner = getattr(function, "__self__", None)
    if not isinstance(owner, str | bytes):
        return
    match getattr(function, "__name__", ""):
        case "replace" if len(args) >= 2:
            _measure((len(owner) + 1) * max(1, _size(args[1])))
        case "join" if args:
            texts = [str(item) for item in args[0]]
            _measure(sum(map(len, texts)) + len(owner) * len(texts))
        case "format" | "format_map":
            _check_widths(str(owner))
        case "ljust" | "rjust" | "center" | "zfill" | "expandtabs":
            _measure(max((arg for arg in args if isinstance(arg, int)), default=0) * max(1, len(owner)))


class _Bounds(NodeTransformer):
    """Sends loops, concatenations and block assignments through the measuring filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_steps", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_concat", [], [], None, None, lineno=node.lineno)

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = nodes.Filter(node.filter, "_bounded", [], [], None, None, lineno=node.lineno)
        return node


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Bounds().visit(template)
        return template

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        match operator:
            case "+":
                _measure(_size(left) + _size(right))
            case "*":
                for text, times in ((left, right), (right, left)):
                    if isinstance(times, int):
                        _measure(_size(text) * times)
                _check_number(left, right)
            case "**":
                if not all(isinstance(item, int | float) and abs(item) <= 1000 for item in (left, right)):
                    raise Runaway("the template computes a power of large numbers")
            case "%" if isinstance(left, str):
                _check_widths(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _step()
        _check_method(__obj, args)
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(argument) is int and isinstance(obj, Mapping) and argument not in obj:
            argument = str(argument)  # keys of descriptions are text
        return super().getitem(obj, argument)


def _check_number(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise Runaway("the template computes with very large numbers")


def _b64encode(value: Any) -> str:
    return base64.b64encode(value if isinstance(value, bytes) else str(value).encode()).decode("ascii")


def _environment() -> _Environment:
    made = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, cache_size=0)
    original = dict(made.filters)

    def join(value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = list(value)
        if attribute is not None:
            items = [made.getattr(item, str(attribute)) for item in items]
        texts = [str(item) for item in items]
        _measure(sum(map(len, texts)) + len(d) * len(texts))
        return d.join(texts)

    def replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text = str(s)
        _measure((len(text) + 1) * max(1, len(str(new))))
        return text.replace(str(old), str(new), -1 if count is None else count)

    def center(value: Any, width: int = 80) -> str:
        _measure(width)
        return str(value).center(width)

    def indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        text = str(s)
        _measure((text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
        return original["indent"](text, width, first, blank)

    def formatted(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_widths(str(value))
        return original["format"](value, *args, **kwargs)

    made.filters.update(
        {"_steps": _steps, "_bounded": _bounded, "_concat": _concat, "b64encode": _b64encode}
        | {"join": join, "replace": replace, "center": center, "indent": indent, "format": formatted}
    )
    made.globals.update(range=_range)
    del made.globals["lipsum"]
    return made


@functools.cache
def environment() -> _Environment:
    """The one environment; made at first use, since importing must stay cheap."""
    return _environment()


@functools.lru_cache(maxsize=4096)
def _compiled(text: str) -> jinja2.Template:
    return environment().from_string(text)


def run(text: str, names: Mapping[str, Any]) -> str:
    """The text of the rendered template. Raises what Jinja raises, and :class:`Runaway`."""
    template = _compiled(text)
    token = _budget.set([MAX_STEPS])
    try:
        parts, size = [], 0
        for part in template.generate(names):
            size += len(part)
            _measure(size)
            parts.append(part)
        return "".join(parts)
    except SecurityError as error:
        raise Runaway(f"the template is not allowed to do this: {error}") from error
    finally:
        _budget.reset(token)
