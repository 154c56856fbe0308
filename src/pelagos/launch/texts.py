"""Templates of a launch plan: rendered over the outputs of parts, strictly, in a sandbox."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pelagos.model.errors import InvalidInput

__all__ = ["names_in", "render", "texts_of"]


@functools.cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def render(value: Any, outputs: Mapping[str, Any], where: str) -> Any:
    """The value with every text in it rendered. Raises InvalidInput, which names ``where``."""
    if isinstance(value, str):
        if "{" not in value:
            return value
        from jinja2 import TemplateError

        try:
            return _environment().from_string(value).render(outputs)
        except (TemplateError, TypeError, ValueError) as error:
            known = ", ".join(sorted(outputs)) or "none yet"
            raise InvalidInput(f"{where}: {value!r}: {error}", advice=f"Parts with outputs are: {known}.") from error
    if isinstance(value, Mapping):
        return {key: render(item, outputs, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, outputs, where) for item in value]
    return value


def names_in(text: str) -> set[str]:
    """Names of parts that a template needs. Raises InvalidInput if it is none."""
    from jinja2 import TemplateError, meta

    try:
        return set(meta.find_undeclared_variables(_environment().parse(text)))
    except TemplateError as error:
        raise InvalidInput(str(error)) from error


def texts_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(where, text) of every text in plain values."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_of(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from texts_of(item, (*path, index))
