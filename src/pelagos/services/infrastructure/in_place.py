"""What of a change can be made on servers that run: their clouds say which resource keys they change in place. Pure.

The naive way, to look which keys of ``resource`` differ, forgets the variables: a key's text may stay as it is and mean
something else. So both sources are reduced to what cannot be changed in place, which is everything but those keys and
the variables that nothing else looks at. If nothing of that differs, the instance need not be made anew; if something
does, that and nothing else is what forces it.

A key is changed from one value to another. One that is added or taken away forces a replacement: few clouds can make a
limit none at all, and a change that cannot be taken back in the same way would be replaced when it fails.

Whether a change in place has been carried out, the journal of operations knows, and it alone: an instance's record says
what it was last known to be. So one whose last change has not succeeded is as its record says, as that change wanted,
or something between, and is as nobody describes it until a change succeeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pelagos.model.states import OperationState
from pelagos.services.compute.facts import UpdateFacts
from pelagos.services.infrastructure.comparing import differences
from pelagos.services.infrastructure.made_from import Source, pruned, texts
from pelagos.wire.infrastructures import DescriptionChange

__all__ = ["Difference", "Keys", "as_updated", "difference"]

Keys = Mapping[str, Collection[str]]
"""Account -> the resource keys that its cloud changes in place."""


class Difference(NamedTuple):
    """``keys``: what is set in place, if nothing ``forces`` a replacement; all that can be, so that what a former
    change has left half-made is as wanted, too. ``touched``: those of them whose values differ."""

    changes: tuple[DescriptionChange, ...]
    forces: tuple[DescriptionChange, ...]
    keys: tuple[str, ...]
    touched: tuple[str, ...]


def difference(old: Source, new: Source, updatable: Collection[str]) -> Difference:
    """Of what an instance is made from and what it should be made from, where these keys are changed in place."""
    before, after = old.get("resource", {}), new.get("resource", {})
    keys = tuple(sorted(key for key in updatable if key in before and key in after))
    changes = differences(old, new)
    forces = differences(_rest(old, keys), _rest(new, keys)) if keys else changes
    return Difference(changes, forces, keys, tuple(key for key in keys if _meant(old, key) != _meant(new, key)))


def as_updated(source: str, update: UpdateFacts | None) -> tuple[str, str]:
    """The digest of what an instance is made from, whose record says ``source``, after its last change in place; and
    the digest of what it may be made from as well, if nobody knows whether that change was made."""
    if update is None or update.former != source:  # it has been taken note of
        return source, ""
    return (update.label, "") if update.state is OperationState.SUCCEEDED else (source, update.label)


def _rest(source: Source, keys: Iterable[str]) -> Source:
    """What of a source cannot be changed in place."""
    gone = set(keys)
    rest = {**source, "resource": {key: value for key, value in source["resource"].items() if key not in gone}}
    variables = pruned(source.get("variables", {}), _looked_at(rest))
    rest.pop("variables", None)
    return {**rest, "variables": variables} if variables else rest


def _looked_at(source: Source) -> frozenset[tuple[str, ...]]:
    """Paths below ``variables`` that what is left of a source may look at."""
    context: Mapping[str, Any] = source.get("contextualisation", {})
    if context.get("type") == "cooked":
        return frozenset()
    if isinstance(context.get("context_variables"), str):
        return frozenset({()})
    return _paths(source["resource"], source.get("config_management", {}), context)


def _meant(source: Source, key: str) -> tuple[Any, dict[str, Any]]:
    """What a key of the resource says, with the variables that it says it by."""
    value = source["resource"][key]
    return value, pruned(source.get("variables", {}), _paths(value))


def _paths(*roots: Any) -> frozenset[tuple[str, ...]]:
    from pelagos.services.infrastructure.templates.facts import is_template, uses_of

    found: set[tuple[str, ...]] = set()
    for text in (text for root in roots for text in texts(root) if is_template(text)):
        found |= uses_of(text).paths
    return frozenset(found)
