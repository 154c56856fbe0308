"""Tables made from the code itself, so that the reference cannot say what the program does not do.

``{struct} package.module.Class`` is a table of a Struct's fields: key, value, default, and the text below the field in
the source. ``{choices} package.module.Enum`` lists an enumeration's values with their texts. ``{endpoints} tag`` lists
the HTTP endpoints of a tag.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import textwrap
from functools import cache
from types import NoneType
from typing import Any

import msgspec
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from msgspec import inspect as shapes
from sphinx.application import Sphinx


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@cache
def _texts(kind: type) -> dict[str, str]:
    """Name of a field -> the string below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        match statement, following:
            case (
                (ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)])),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split()).replace("``", "`")
            case _:
                pass
    return found


def _value(shape: shapes.Type) -> str:
    """What a value may be, in words."""
    match shape:
        case shapes.UnionType(types=types):
            plain = [part for part in types if not isinstance(part, shapes.NoneType)]
            return " or ".join(_value(part) for part in plain)
        case shapes.Metadata(type=inner):
            return _value(inner)
        case shapes.EnumType(cls=cls):
            return ", ".join(f"`{item.value}`" for item in cls)
        case shapes.LiteralType(values=values):
            return ", ".join(f"`{item}`" for item in values)
        case shapes.IntType():
            return "whole number" + _bounds(shape)
        case shapes.FloatType():
            return "number" + _bounds(shape)
        case shapes.BoolType():
            return "`true` or `false`"
        case shapes.StrType() | shapes.CustomType():
            return "text"
        case shapes.StructType(cls=cls):
            return f"mapping ({cls.__name__})"
        case shapes.DictType():
            return "mapping"
        case shapes.VarTupleType(item_type=item) | shapes.ListType(item_type=item):
            return f"list of {_value(item)}"
        case _:
            return "any"


def _bounds(shape: shapes.IntType | shapes.FloatType) -> str:
    parts = [("> ", shape.gt), (">= ", shape.ge), ("< ", shape.lt), ("<= ", shape.le)]
    told = [f"{sign}{bound:g}" for sign, bound in parts if bound is not None]
    return f" ({', '.join(told)})" if told else ""


def _default(field: shapes.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    match value:
        case None | "" | () | {}:
            return ""
        case bool():
            return "`true`" if value else "`false`"
        case enum.Enum():
            return f"`{value.value}`"
        case float():
            return f"`{int(value) if value.is_integer() else value}`"
        case msgspec.Struct() | NoneType():
            return ""
        case _:
            return "" if not str(value).strip(".") else f"`{value}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class _Made(Directive):
    required_arguments = 1

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        holder = nodes.Element()
        self.state.nested_parse(StringList(self.lines(), source="made from the code"), self.content_offset, holder)
        return list(holder.children)


class StructTable(_Made):
    optional_arguments = 20

    def lines(self) -> list[str]:
        kind, *wanted = (argument.strip(",") for argument in self.arguments)
        cls = _load(kind)
        shape = shapes.type_info(cls)
        texts = _texts(cls)
        assert isinstance(shape, shapes.StructType)
        rows = [
            _row(f"`{field.encode_name}`", _value(field.type), _default(field), texts.get(field.name, ""))
            for field in shape.fields
            if not wanted or field.name in wanted
        ]
        return [_row("key", "value", "default", "meaning"), "|---|---|---|---|", *rows]


class Choices(_Made):
    def lines(self) -> list[str]:
        cls = _load(self.arguments[0])
        texts = _texts(cls)
        return [
            _row("value", "meaning"),
            "|---|---|",
            *(_row(f"`{item.value}`", texts.get(item.name, "")) for item in cls),
        ]


class Endpoints(_Made):
    optional_arguments = 20

    def lines(self) -> list[str]:
        from pelagos.api import events, infrastructures, system

        endpoints = (*system.ENDPOINTS, *infrastructures.ENDPOINTS, *events.ENDPOINTS)
        tags = set(self.arguments)
        unknown = tags - {endpoint.tag for endpoint in endpoints}
        if unknown:
            raise self.error(f"there are no endpoints of {', '.join(sorted(unknown))}")
        rows = [
            _row(
                f"`{endpoint.method} {endpoint.path.replace(':path', '')}`",
                endpoint.summary,
                ", ".join(f"`{name}`" for name in endpoint.query.__struct_encode_fields__),
                ", ".join(map(str, endpoint.never)) or str(endpoint.status),
            )
            for endpoint in endpoints
            if endpoint.tag in tags
        ]
        return [_row("request", "what", "parameters", "status"), "|---|---|---|---|", *rows]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("struct", StructTable)
    app.add_directive("choices", Choices)
    app.add_directive("endpoints", Endpoints)
    return {"version": "1", "parallel_read_safe": True}
