"""The clouds of the configuration: accounts of ``pool``, those of the ancestor's files, and the mistakes in them.

``pool`` is a list of accounts, or a mapping from their names. ``cloud_farm`` names a file with the ``CLOUD_FARM``
mapping of the CRS4 Orchestrator, ``auth_file`` an authentication file of Occopus. Relative paths are taken from the
file that names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clouds import AuthFile, Plugins, Pool, Provenance, account_mistakes, problem_diagnostics
from pelagos.clouds.cloudfarm import read_cloud_farm
from pelagos.clouds.references import with_absolute_files
from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, PelagosError
from pelagos.model.world import World
from pelagos.model.yaml_layer import Layer, PathKey
from pelagos.runtime.settings import Settings

__all__ = ["ancestors_auth_file", "check_options", "complete_pool", "named_accounts", "open_pool"]


def named_accounts(layer: Layer) -> None:
    """Make a list of accounts of a ``pool`` that is a mapping from their names, in place."""
    accounts = layer.data.get("pool")
    if not isinstance(accounts, dict):
        return
    layer.data["pool"], moved = as_list(accounts), {}
    for path, origin in layer.origins.items():
        if len(path) > 1 and path[0] == "pool":
            path = ("pool", list(accounts).index(path[1]), *path[2:])
        moved[path] = origin
    layer.origins = moved


def as_list(accounts: Mapping[str, Any]) -> list[Any]:
    """Name -> account as a list of accounts with their names; one with nothing but a name may be empty."""
    return [
        {"name": name, **(account or {})} if isinstance(account, dict | None) else account
        for name, account in accounts.items()
    ]


def complete_pool(settings: Settings, layer: Layer, mistakes: list[Diagnostic]) -> Settings:
    """The settings with their accounts as the pool takes them: places known, paths absolute, those of ``cloud_farm``
    among them. Mistakes are added."""
    accounts = []
    for index, account in enumerate(settings.pool):
        path: PathKey = ("pool", index)
        directory = _directory(layer, path)
        accounts.append(
            msgspec.structs.replace(
                account,
                options=with_absolute_files(account.options, directory),
                credentials=with_absolute_files(account.credentials, directory),
                provenance=Provenance("the configuration", layer, path),
            )
        )
    if settings.cloud_farm:
        farm = _directory(layer, ("cloud_farm",)) / Path(settings.cloud_farm).expanduser()
        known = {account.name for account in accounts}
        try:
            accounts += [
                msgspec.structs.replace(
                    account, credentials=with_absolute_files(account.credentials, farm.absolute().parent)
                )
                for account in read_cloud_farm(farm, mistakes)
                if account.name not in known
            ]
        except OSError as error:
            summary = f"cloud_farm: {str(farm)!r} cannot be read: {error.strerror}"
            mistakes.append(layer.diagnostic(("cloud_farm",), summary))
    mistakes += [one.config.provenance.diagnostic(one.key, one.text) for one in account_mistakes(accounts)]
    auth = settings.auth_file
    if auth:
        auth = str((_directory(layer, ("auth_file",)) / Path(auth).expanduser()).absolute())
    return msgspec.structs.replace(settings, pool=tuple(accounts), auth_file=auth)


def ancestors_auth_file(environ: Mapping[str, str], home: Path) -> str:
    """Where Occopus would find its authentication file, without its look into the working directory: the path of
    OCCOPUS_AUTH_DATA_PATH, else ``~/.occopus/auth_data.yaml`` if there is one; empty for none."""
    named = environ.get("OCCOPUS_AUTH_DATA_PATH")
    if named:
        return str(Path(named).expanduser().absolute())
    usual = home / ".occopus" / "auth_data.yaml"
    return str(usual) if usual.is_file() else ""


def open_pool(settings: Settings, plugins: Plugins, world: World) -> Pool:
    """The pool of the settings. No driver is opened yet."""
    return Pool(
        settings.pool,
        plugins,
        world,
        settings.home,
        simulated=settings.simulated,
        auth=auth_of(settings),
    )


def auth_of(settings: Settings) -> AuthFile | None:
    """The authentication file of the settings."""
    return AuthFile(Path(settings.auth_file)) if settings.auth_file else None


def check_options(settings: Settings, plugins: Plugins, world: World) -> None:
    """Check the options of every account against its driver, and read the authentication file: what a reload does
    before it changes anything. Accounts whose driver is not installed are left to those who use them.

    Raises DescriptionError with all mistakes."""
    pool = open_pool(settings, plugins, world)
    mistakes: list[Diagnostic] = []
    for account in pool.accounts():
        try:
            problems = account.problems()
        except PelagosError as error:
            if error.code == "not_found":
                mistakes.append(account.config.provenance.diagnostic("driver", error.message, error.advice))
            continue
        told = problem_diagnostics(account.config, problems)
        mistakes += told or [
            Diagnostic(f"the account {account.name!r}: {key or 'the options'} {text}") for key, text in problems
        ]
    if pool.auth is not None:
        try:
            pool.auth.entries()
        except DescriptionError as error:
            mistakes += error.diagnostics
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise DescriptionError(f"{count} in the configuration of the pool", diagnostics=tuple(mistakes))


def _directory(layer: Layer, path: PathKey) -> Path:
    """The directory from which relative paths at a place are taken."""
    origin = layer.origin(path)
    return Path(origin.file).absolute().parent if isinstance(origin, Position) else Path()
