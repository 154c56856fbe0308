"""Secrets by reference: an option's value that says where the value is, read when the account is opened.

In place of any text of an account's options or credentials stands a mapping with one key:

- ``{env: NAME}``: an environment variable of the program;
- ``{file: path}``: what is in a file, less the line break at its end. A file that others may read is refused;
- ``{keyring: service/user}``: a password of the operating system's key ring (extra ``keyring``).

They are read each time an account is opened and kept nowhere else, so a rotated secret is taken up when the account is
opened again. What was read is concealed in all that this program says from then on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pelagos.model.errors import InvalidInput, NotFound, PelagosError, Unsupported
from pelagos.model.redaction import conceal
from pelagos.model.world import World

__all__ = [
    "conceal_all",
    "holds_reference",
    "reference_problem",
    "reference_trouble",
    "resolve",
    "with_absolute_files",
]

_KINDS = ("env", "file", "keyring")
_LARGEST = 64 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def _reference(value: object) -> tuple[str, str] | None:
    """(kind, what it names), if the value is a reference."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((kind, target),) = value.items()
    return (kind, target) if kind in _KINDS and isinstance(target, str) else None


def holds_reference(value: object) -> bool:
    """Whether there is a reference in the value, at any depth."""
    if _reference(value) is not None:
        return True
    if isinstance(value, Mapping):
        return any(holds_reference(item) for item in value.values())
    return isinstance(value, list | tuple) and any(holds_reference(item) for item in value)


def reference_problem(value: object) -> str | None:
    """What is wrong with how a reference in the value is written, as the end of a sentence; None if nothing is."""
    found = _reference(value)
    if found is not None:
        kind, target = found
        if not target:
            return f"refers to no {kind}"
        service, slash, user = target.partition("/")
        if kind == "keyring" and not (service and slash and user):
            return f"must be {{keyring: service/user}}, not {{keyring: {target}}}"
        return None
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((problem for item in inner if (problem := reference_problem(item)) is not None), None)


def reference_trouble(value: object, environ: Mapping[str, str], what: str) -> PelagosError | None:
    """Why a reference in the value cannot be resolved, as far as that can be told without reading a secret: a variable
    that is not set, a file that is not there. ``what`` names the value. Asks the disk."""
    found = _reference(value)
    if found is not None:
        kind, target = found
        if kind == "env" and target not in environ:
            return _not_set(what, target)
        if kind == "file" and not Path(target).expanduser().exists():
            return _no_file(what, Path(target).expanduser())
        return None
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((error for item in inner if (error := reference_trouble(item, environ, what)) is not None), None)


def _not_set(what: str, name: str) -> NotFound:
    return NotFound(
        f"{what} is in the environment variable {name}, which is not set",
        advice="Set it where this program is started, or write {file: path}.",
    )


def _no_file(what: str, path: Path) -> NotFound:
    return NotFound(f"{what} is in {path}, which does not exist", advice="Write the secret there.")


def with_absolute_files(value: Any, directory: Path) -> Any:
    """The value with relative paths of files in it taken from ``directory``, and ``~`` for the user's own."""
    found = _reference(value)
    if found is not None:
        return {"file": str(directory / Path(found[1]).expanduser())} if found[0] == "file" and found[1] else value
    if isinstance(value, Mapping):
        return {key: with_absolute_files(item, directory) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_absolute_files(item, directory) for item in value]
    return value


async def resolve(options: Mapping[str, Any], world: World, owner: str) -> dict[str, Any]:
    """The options with each reference replaced by what it names, and that concealed.

    Raises NotFound for what is not there, InvalidInput for a file that others may read or that is none, Unsupported
    without the package for key rings. Each names the option and whose it is (``owner``, for people)."""
    if not holds_reference(options):
        return dict(options)
    values = {}
    for key, value in options.items():
        values[key] = await _resolved(value, world, f"the option {key!r} of {owner}")
    return values


def conceal_all(value: Any) -> None:
    """Conceal every text in the value."""
    if isinstance(value, str):
        conceal(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            conceal_all(item)
    elif isinstance(value, list | tuple):
        for item in value:
            conceal_all(item)


async def _resolved(value: Any, world: World, what: str) -> Any:
    found = _reference(value)
    if found is not None:
        text = await _read(*found, world, what)
        conceal(text)
        return text
    if isinstance(value, Mapping):
        return {key: await _resolved(item, world, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [await _resolved(item, world, what) for item in value]
    return value


async def _read(kind: str, target: str, world: World, what: str) -> str:
    match kind:
        case "env":
            text = world.environ.get(target)
            if text is None:
                raise _not_set(what, target)
            return text
        case "file":
            return await world.run_blocking(_read_file, target, what)
        case _:
            return await world.run_blocking(_read_keyring, target, what)


def _read_file(name: str, what: str) -> str:
    path = Path(name).expanduser()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe may never begin
            raise InvalidInput(f"{what} is in {path}, which is no regular file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & _OTHERS:
                raise InvalidInput(
                    f"{what} is in {path}, which others than its owner may read (mode {status.st_mode & 0o777:04o})",
                    advice=f"chmod 600 {path}",
                )
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise _no_file(what, path) from None
    except OSError as error:
        raise InvalidInput(f"{what} is in {path}, which cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise InvalidInput(f"{what} is in {path}, which is larger than {_LARGEST // 1024} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is in {path}, which is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


def _read_keyring(target: str, what: str) -> str:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError as error:
        raise Unsupported(
            f"{what} is in the key ring, and the Python package 'keyring' is not installed",
            advice="pip install 'pelagos[keyring]'",
            details={"package": "keyring", "extra": "keyring"},
        ) from error
    service, _, user = target.partition("/")
    try:
        found = keyring.get_password(service, user)
    except (KeyringError, RuntimeError) as error:
        raise InvalidInput(
            f"{what} is in the key ring, which cannot be read: {error}",
            advice="A key ring needs a session that has one; a daemon's secrets are better in a file of mode 0600.",
        ) from error
    if found is None:
        raise NotFound(
            f"{what} is in the key ring, which has no password of {user!r} for {service!r}",
            advice=f"keyring set {service} {user}",
        )
    return found
