"""Drift as people read it, and the rules by which some of it is not told."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pelagos.cli.texts import clean, count, table
from pelagos.clouds.keys import check_keys
from pelagos.model.errors import DescriptionError, InvalidInput
from pelagos.wire.drift import DriftFinding, DriftRule, DriftView, SilentCloud

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation

__all__ = ["read_rules", "show_drift", "tell_silent"]


def read_rules(options: Iterable[str], file: Path | None) -> tuple[DriftRule, ...]:
    """The rules of ``--ignore`` and of a file.

    Raises InvalidInput for a mistake in an option, DescriptionError with all mistakes of the file, OSError where that
    cannot be read."""
    rules: list[DriftRule] = []
    for text in options:
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(key and sign for key, sign, _ in pairs):
            raise InvalidInput(f"{text!r} is no rule", advice="A rule is KEY=TEXT,…, for example kind=changed,node=db.")
        given = {key.strip(): value.strip() for key, _, value in pairs}
        wrong = check_keys(DriftRule, given)[1]
        if wrong:
            key, problem = wrong[0]
            raise InvalidInput(f"--ignore {text}: {key!r} {problem}")
        rules.append(msgspec.convert(given, DriftRule))
    return (*rules, *(_rules_of(file) if file is not None else ()))


def _rules_of(file: Path) -> list[DriftRule]:
    from pelagos.model.diagnostics import Diagnostic
    from pelagos.model.yaml_layer import parse_layer, read_bounded

    mistakes: list[Diagnostic] = []
    layer = parse_layer(str(file), read_bounded(file), mistakes, what="the rules", list_key="ignore")
    loaded = layer.data.get("ignore", [])
    if not mistakes and (set(layer.data) - {"ignore"} or not isinstance(loaded, list)):
        advice = "Write a rule an item: - {kind: changed, node: db}."
        mistakes.append(layer.diagnostic(("ignore",), f"{file} does not hold a list", advice))
    for number, rule in enumerate(loaded if isinstance(loaded, list) else ()):
        if not isinstance(rule, dict):
            advice = "Write a rule an item: - {kind: changed, node: db}."
            mistakes.append(layer.diagnostic(("ignore", number), "a rule is a mapping", advice))
            continue
        for key, problem in check_keys(DriftRule, rule)[1]:
            mistakes.append(layer.diagnostic(("ignore", number, key or ""), f"{key!r} {problem}"))
    if mistakes:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise DescriptionError(f"{mistakes[0]}{more}", advice=mistakes[0].advice, diagnostics=tuple(mistakes))
    return [msgspec.convert(rule, DriftRule, strict=False) for rule in loaded]


def show_drift(invocation: Invocation, view: DriftView) -> None:
    """The findings on stdout, the rest on stderr."""
    tell_silent(invocation, view.silent)
    if not invocation.plain:
        invocation.document(view)
        return
    ignored = f", {count(view.ignored, 'finding')} ignored" if view.ignored else ""
    if not view.findings:
        invocation.note(f"No drift: {count(view.compared, 'server')} compared{ignored}.")
        return
    rows = [
        [
            one.kind,
            f"{one.infrastructure}/{one.node}" if one.infrastructure else "",
            one.cloud,
            one.provider_id,
            clean(one.server),
            clean(_difference(one)),
        ]
        for one in view.findings
    ]
    invocation.say(table(["DRIFT", "NODE", "CLOUD", "SERVER", "NAME", "DIFFERENCE"], rows))
    invocation.note(
        f"{count(len(view.findings), 'finding')} in {count(view.compared, 'server')}{ignored}. Nothing was changed."
    )


def _difference(one: DriftFinding) -> str:
    if one.kind == "changed":
        return f"{one.field}: {one.expected or 'nothing'} became {one.found or 'nothing'}"
    if one.kind == "unknown":
        return f"{one.found}; no record knows it: pelagos orphans"
    return f"{one.expected} became {one.found}" if one.found else ""


def tell_silent(invocation: Invocation, silent: Iterable[SilentCloud]) -> None:
    """Clouds that could not be looked at, on stderr."""
    for one in silent:
        invocation.note(f"warning: nothing is known of {one.cloud}: {clean(one.error.message)}")
