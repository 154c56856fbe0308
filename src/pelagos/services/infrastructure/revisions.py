"""Versions of what people wrote: an infrastructure's description, and a project's node definitions, in repositories.

Each infrastructure has a repository with its own id, whose branch ``main`` names the description that is wanted now.
A commit is made in the transaction that makes a description the wanted one, or takes it back after a failure, so the
history tells what was wanted when, and by whom. What it holds rebuilds the same thing: all texts, which of them were
named, and the project's node definitions it took from outside the bundle. How many instances a node has is no part of
it: that is changed by scaling and says nothing of the description.

Texts are objects of their own, so a version costs what changed in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.model.errors import NotFound
from pelagos.model.scope import Scope
from pelagos.repository import (
    CommitInfo,
    Link,
    checkout,
    commit,
    create_repository,
    get_many,
    get_repository,
    head,
    history,
    link,
    read_commit,
    resolve,
    stored,
)
from pelagos.services.infrastructure.values import StoredBundle, StoredDefinition

__all__ = [
    "BRANCH",
    "Definition",
    "Description",
    "Text",
    "definition_of",
    "definitions_in",
    "description_of",
    "open_history",
    "read_revision",
    "revert_to",
    "revision_of",
    "revisions",
    "want",
    "wanted",
]

BRANCH = "main"
KIND = "infrastructure"
_PIECE = 256 * 1024
"""Characters of a text in one object, which is bounded; half as many where one may take four bytes."""


@stored("pelagos.text")
class Text(msgspec.Struct, frozen=True):
    """A text, or a piece of a long one."""

    content: str


Files = dict[str, tuple[Link[Text], ...]]
"""Name -> its text in pieces."""


@stored("pelagos.node-definition")
class Definition(msgspec.Struct, frozen=True):
    """A node definition: the file that holds its ``node_def:`` key, and all texts it needs."""

    type: str
    file: str
    files: Files


@stored("pelagos.description")
class Description(msgspec.Struct, frozen=True):
    """An infrastructure's description: ``entries`` are the names that were given, in order."""

    name: str
    entries: tuple[str, ...]
    files: Files
    definitions: dict[str, Link[Definition]]
    """Type -> the project's definition that it was built with, for types that none of its own files defines."""


# -- writing -----------------------------------------------------------------------------------------------------------


def open_history(connection: Connection, scope: Scope, infrastructure_id: str, at: float) -> None:
    """Make the empty repository of a new infrastructure."""
    create_repository(connection, scope, KIND, infrastructure_id, id=infrastructure_id, at=at)


def want(
    connection: Connection,
    scope: Scope,
    infrastructure_id: str,
    name: str,
    bundle: StoredBundle,
    *,
    message: str,
    at: float,
) -> str:
    """Make the bundle the description that is wanted; returns the revision, the present one if it says the same."""
    described = description_of(name, bundle)
    repository = get_repository(connection, scope, infrastructure_id)
    return commit(connection, repository, BRANCH, described, author=scope, at=at, message=message).digest


def description_of(name: str, bundle: StoredBundle) -> Link[Description]:
    """What a commit of the bundle holds. Raises InvalidInput for one that no repository can hold: a run is accepted
    only after this, since a maintainer has nobody to tell."""
    definitions = {type_: link(definition_of(type_, found)) for type_, found in sorted(bundle.definitions.items())}
    return link(Description(name, bundle.entries, _files(bundle.sources), definitions))


def revert_to(
    connection: Connection, scope: Scope, infrastructure_id: str, revision: str, *, message: str, at: float
) -> str:
    """Want again what an earlier revision says, as a new one."""
    repository = get_repository(connection, scope, infrastructure_id)
    root = read_commit(connection, revision).root
    return commit(connection, repository, BRANCH, root, author=scope, at=at, message=message).digest


def definition_of(type_: str, found: StoredDefinition) -> Definition:
    return Definition(type_, found.file, _files(found.sources))


def _files(sources: Mapping[str, str]) -> Files:
    return {name: tuple(link(Text(piece)) for piece in _cut(text)) for name, text in sources.items()}


def _cut(text: str) -> list[str]:
    piece = _PIECE if text.isascii() else _PIECE // 2
    return [text[at : at + piece] for at in range(0, max(len(text), 1), piece)]


# -- reading -----------------------------------------------------------------------------------------------------------


def wanted(connection: Connection, scope: Scope, infrastructure_id: str) -> str:
    """The present revision; empty before the first run has begun."""
    return head(connection, get_repository(connection, scope, infrastructure_id), BRANCH) or ""


def revisions(connection: Connection, scope: Scope, infrastructure_id: str, limit: int = 1000) -> list[CommitInfo]:
    """The newest first."""
    repository = get_repository(connection, scope, infrastructure_id)
    if head(connection, repository, BRANCH) is None:
        return []
    return history(connection, repository, BRANCH, limit=limit)


def revision_of(connection: Connection, scope: Scope, infrastructure_id: str, text: str) -> CommitInfo:
    """The revision that a person named: its number, the first digits of its id, ``HEAD``, ``HEAD~2``, ``@2026-01-31``.

    Raises NotFound, Ambiguous, InvalidInput."""
    repository = get_repository(connection, scope, infrastructure_id)
    newest = head(connection, repository, BRANCH)
    if newest is None:
        raise NotFound("there is no revision yet", advice="The first one is made when the first run begins.")
    if text.isdecimal():
        count = resolve(connection, repository, BRANCH).generation
        number = int(text)
        if 1 <= number <= count:
            return resolve(connection, repository, f"{BRANCH}~{count - number}")
        if len(text) < 4:
            raise NotFound(f"there is no revision {number}", advice=f"They are numbered from 1 to {count}.")
    try:
        return resolve(connection, repository, _as_revision(text))
    except NotFound as error:
        raise NotFound(f"there is no revision {text!r}", advice="`pelagos history` shows those there are.") from error


def _as_revision(text: str) -> str:
    if text.startswith("@"):
        return f"{BRANCH}@{{{text[1:].strip('{}')}}}"
    if text == "HEAD" or text.startswith(("HEAD~", "HEAD@")):
        return BRANCH + text[4:]
    return text


def read_revision(
    connection: Connection, scope: Scope, infrastructure_id: str, text: str
) -> tuple[CommitInfo, StoredBundle]:
    """The texts of a revision. Raises as :func:`revision_of`."""
    info = revision_of(connection, scope, infrastructure_id, text)
    repository = get_repository(connection, scope, infrastructure_id)
    description = checkout(connection, repository, info.digest).root
    assert isinstance(description, Description)
    found: dict[str, Definition] = get_many(connection, description.definitions.values())
    definitions = {type_: found[digest.digest] for type_, digest in description.definitions.items()}
    texts = _texts(connection, description.files)
    order = dict.fromkeys([*description.entries, *texts])
    return info, StoredBundle(
        entries=description.entries,
        sources={name: texts[name] for name in order},
        definitions=definitions_in(connection, definitions),
    )


def definitions_in(connection: Connection, definitions: Mapping[str, Definition]) -> dict[str, StoredDefinition]:
    """Type -> the definition as texts."""
    texts = _pieces(connection, (definition.files for definition in definitions.values()))
    return {
        type_: StoredDefinition(file=definition.file, sources=_joined(definition.files, texts))
        for type_, definition in definitions.items()
    }


def _texts(connection: Connection, files: Files) -> dict[str, str]:
    return _joined(files, _pieces(connection, (files,)))


def _pieces(connection: Connection, several: Iterable[Files]) -> dict[str, Any]:
    return get_many(connection, [piece for files in several for pieces in files.values() for piece in pieces])


def _joined(files: Files, texts: Mapping[str, Text]) -> dict[str, str]:
    return {name: "".join(texts[piece.digest].content for piece in pieces) for name, pieces in files.items()}
