"""A settings file of Python that assigns one literal to one name, as plain values with places.

    CLOUD_FARM = {"sandbox": {"ENGINE": "dummy"}}

The text is parsed and never run: a name, a call or an import in it is a mistake with its place. What a literal cannot
say in YAML (bytes, sets, complex numbers) is one, too.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.yaml_layer import MAX_BYTES, Layer, PathKey

__all__ = ["is_assignment", "parse_assignment"]


def is_assignment(variable: str, data: bytes) -> bool:
    """Whether a line of the text assigns to the name, which no line of YAML or JSON does."""
    pattern = rb"^(?:\xef\xbb\xbf)?%s[ \t]*(?::[^=\n]*)?=(?!=)" % re.escape(variable.encode())
    return len(data) <= MAX_BYTES and re.search(pattern, data, re.MULTILINE) is not None


def parse_assignment(name: str, data: bytes, variable: str, mistakes: list[Diagnostic]) -> Layer:
    """``{variable: its value}`` with places, of a text that was read from ``name``. Mistakes are added to the list,
    without the lines, which may hold secrets."""
    layer = Layer()
    try:
        text = data.decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # an odd escape is what it is in Python
            module = ast.parse(text)
    except SyntaxError as error:
        mistakes.append(
            Diagnostic(f"as Python: {error.msg}", Position(name, error.lineno or 1, max(error.offset or 1, 1)))
        )
        return layer
    except UnicodeDecodeError as error:
        mistakes.append(Diagnostic(f"the file is not UTF-8: {error.reason} at byte {error.start}", Position(name, 1)))
        return layer
    except (ValueError, RecursionError, MemoryError) as error:
        mistakes.append(Diagnostic(f"as Python: {error}", Position(name, 1), advice="Write it as YAML."))
        return layer
    reader = _Reader(name, text, layer, mistakes)
    for statement in module.body:
        value = _assigned(statement, variable)
        if value is None:
            advice = f"Copy the assignment {variable} = {{...}} alone to a file of its own, or write it as YAML."
            reader.mistake(statement, f"only {variable} is read here, and nothing is run", advice)
        elif variable in layer.data:
            reader.mistake(statement, f"{variable} is assigned twice", "Delete one of them.")
        else:
            layer.origins[()] = layer.origins[(variable,)] = reader.position(statement)
            layer.data[variable] = reader.value(value, (variable,))
    return layer


def _assigned(statement: ast.stmt, variable: str) -> ast.expr | None:
    """What a statement assigns to the name; None if it does anything else."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == variable:
            return value
        case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == variable:
            return value
    return None


class _Reader:
    def __init__(self, name: str, text: str, layer: Layer, mistakes: list[Diagnostic]) -> None:
        self._name = name
        self._lines = re.split(r"\r\n|\r|\n", text)  # Python's own idea of lines, by which it counts
        self._layer = layer
        self._mistakes = mistakes

    def position(self, node: ast.stmt | ast.expr) -> Position:
        line = self._lines[node.lineno - 1] if node.lineno <= len(self._lines) else ""
        before = line.encode()[: node.col_offset].decode(errors="replace")
        return Position(self._name, node.lineno, len(before) + 1)

    def mistake(self, node: ast.stmt | ast.expr, summary: str, advice: str = "") -> None:
        self._mistakes.append(Diagnostic(summary, self.position(node), advice=advice))

    def value(self, node: ast.expr, path: PathKey) -> Any:
        match node:
            case ast.Dict():
                return self._mapping(node, path)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                found = []
                for index, item in enumerate(items):
                    self._layer.origins[(*path, index)] = self.position(item)
                    found.append(self.value(item, (*path, index)))
                return found
            case ast.Constant(value=str() | int() | float() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
        self._no_literal(node)
        return None

    def _no_literal(self, node: ast.expr) -> None:
        what = f"{type(node.value).__name__} values are" if isinstance(node, ast.Constant) else "an expression is"
        advice = 'Write the value itself; a secret may be a reference, such as {"env": "NAME"} or {"file": "path"}.'
        self.mistake(node, f"{what} not read here: nothing in this file is run", advice)

    def _mapping(self, node: ast.Dict, path: PathKey) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            match key:
                case ast.Constant(value=str() as text) if text not in values:
                    self._layer.origins[(*path, text)] = self.position(key)
                    values[text] = self.value(value, (*path, text))
                case ast.Constant(value=str() as text):
                    self.mistake(key, f"the key {text!r} is there twice", "Delete one of them.")
                case None:
                    self._no_literal(value)
                case _:
                    self.mistake(key, "a key must be text", "Put it in quotes.")
        return values
