"""Reads a launch plan: all mistakes at once, each with file, line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pelagos.launch.checking import check_plan
from pelagos.launch.plan import LaunchPlan
from pelagos.launch.texts import names_in, texts_of
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import DescriptionError, InvalidInput
from pelagos.model.yaml_layer import Layer, PathKey, did_you_mean, read_layer

__all__ = ["read_plan"]

_KINDS = ("infrastructure", "program", "container")


def read_plan(path: Path) -> LaunchPlan:
    """Raises InvalidInput if the file cannot be read, DescriptionError with all mistakes in it."""
    mistakes: list[Diagnostic] = []
    try:
        layer = read_layer(path, mistakes, what="the launch plan")
    except OSError as error:
        raise InvalidInput(f"the launch plan {path} cannot be read: {error.strerror}") from error
    plan = None
    if not mistakes:
        check_plan(layer.data, LaunchPlan, lambda *told: mistakes.append(layer.diagnostic(*told)))
    if not mistakes:
        plan = msgspec.convert(layer.data, LaunchPlan)
        _check(plan, layer, mistakes)
    if mistakes or plan is None:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise DescriptionError(f"{count} in {path}", diagnostics=tuple(mistakes))
    return plan


def _check(plan: LaunchPlan, layer: Layer, mistakes: list[Diagnostic]) -> None:
    earlier: set[str] = set()
    seen: set[str] = set()
    for level_index, level in enumerate(plan.levels):
        for part_index, part in enumerate(level.parts):
            place: PathKey = ("levels", level_index, "parts", part_index)
            if part.name in seen:
                mistakes.append(layer.diagnostic((*place, "name"), f"two parts are called {part.name!r}"))
            seen.add(part.name)
            given = [kind for kind in _KINDS if getattr(part, kind) is not None]
            if len(given) != 1:
                summary = f"the part {part.name!r} is {' and '.join(given) or 'nothing'}"
                mistakes.append(layer.diagnostic(place, summary, f"Give one of {', '.join(_KINDS)}."))
            program = part.program
            if program is not None and not program.boot and not program.run:
                mistakes.append(
                    layer.diagnostic((*place, "program"), f"the program {part.name!r} has nothing to boot or run")
                )
            raw: Any = layer.data["levels"][level_index]["parts"][part_index]
            for where, text in texts_of(raw):
                own = {part.name} if where[0] in ("ready", "outputs") else set()
                _check_text(text, earlier | own, (*place, *where), layer, mistakes)
        earlier |= {part.name for part in level.parts}


def _check_text(text: str, known: set[str], place: PathKey, layer: Layer, mistakes: list[Diagnostic]) -> None:
    try:
        strange = sorted(names_in(text) - known)
    except InvalidInput as error:
        mistakes.append(layer.diagnostic(place, f"not a template: {error.message}"))
        return
    for name in strange:
        otherwise = f"Parts of earlier levels are: {', '.join(sorted(known)) or 'none'}."
        advice = did_you_mean(name, known, otherwise)
        mistakes.append(layer.diagnostic(place, f"no part {name!r} of an earlier level has outputs", advice))
