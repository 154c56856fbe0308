"""The pool: the accounts of all clouds that this installation may use, each with its driver, opened when first needed.

Which account a resource section means (reference, section 4.7: ``type``, and a ``name`` that is just a label there) is
decided here and nowhere else: the account called like the label, else the only one of that type, else the default
one of that type. Guessing among several would put servers on somebody's bill by accident, so it is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clouds.keys import KeyProblem, check_keys
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.port import CloudDriver, DriverContext, DriverPlugin
from pelagos.clouds.values import Capabilities
from pelagos.model.errors import Ambiguous, InvalidInput, NotFound, Unavailable
from pelagos.model.names import name_problem
from pelagos.model.world import World

__all__ = ["Account", "AccountConfig", "Pool"]


class AccountConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One account in the configuration."""

    name: str
    driver: str
    """The plug-in's type: ``local``, ``simulated``, ..."""
    options: dict[str, Any] = {}
    """Of the driver; see its ``account_options``."""
    parallel_calls: int | None = None
    """In place of the driver's own."""
    calls_per_second: float | None = None
    default: bool = False
    """Used for resource sections of this type that name none of several accounts."""


class Account:
    """One account of the pool."""

    def __init__(self, config: AccountConfig, plugins: Plugins, world: World, home: Path) -> None:
        self.config = config
        self._plugins = plugins
        self._world = world
        self._home = home
        self._driver: CloudDriver | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def plugin(self) -> DriverPlugin:
        """Raises NotFound or Unsupported if there is no such driver or its SDK is missing."""
        return self._plugins.get(self.config.driver)

    @property
    def opened(self) -> bool:
        return self._driver is not None

    def problems(self) -> list[KeyProblem]:
        """All that is wrong with the account's options; loads the plug-in."""
        return check_keys(self.plugin.account_options, self.config.options)[1]

    async def driver(self) -> CloudDriver:
        """The driver, opened at the first call; a failure is not kept, the next call tries again.

        Raises InvalidInput for wrong options, what the plug-in's ``open`` raises, and Unavailable after close."""
        async with self._opening:
            if self._closed:
                raise Unavailable(f"the pool is closed, and with it the account {self.name!r}")
            if self._driver is None:
                self._driver = await self._open()
            return self._driver

    async def capabilities(self) -> Capabilities:
        """The driver's, with what the configuration puts in their place."""
        declared = (await self.driver()).capabilities
        config = self.config
        if config.parallel_calls is not None:
            declared = msgspec.structs.replace(declared, parallel_calls=config.parallel_calls)
        if config.calls_per_second is not None:
            declared = msgspec.structs.replace(declared, calls_per_second=config.calls_per_second)
        return declared

    async def close(self) -> None:
        """Close the driver if it is open, for good. Servers live on."""
        async with self._opening:
            self._closed = True
            driver, self._driver = self._driver, None
            if driver is not None:
                await driver.close()

    def snapshot(self) -> dict[str, Any]:
        """Facts for people; no options, which may hold secrets."""
        return {
            "driver": self.config.driver,
            "default": self.config.default,
            "opened": self.opened,
            **({"driver_state": self._driver.snapshot()} if self._driver is not None else {}),
        }

    async def _open(self) -> CloudDriver:
        options, problems = check_keys(self.plugin.account_options, self.config.options)
        if problems:
            listed = "; ".join(f"{key or 'the options'} {message}" for key, message in problems)
            raise InvalidInput(
                f"the options of the account {self.name!r} are wrong: {listed}",
                advice="Correct the account in the configuration of the pool.",
                details={"problems": [list(problem) for problem in problems]},
            )
        context = DriverContext(account=self.name, world=self._world, home=self._home, options=options)
        return await self.plugin.open(context)


class Pool:
    """All accounts, by name.

    Without an account named ``local`` or of that driver, there is one, so that a laptop needs no configuration;
    with ``simulated``, the same goes for the simulated cloud. Raises InvalidInput for bad or doubled names, two
    defaults of one driver, or numbers that cannot be."""

    def __init__(
        self,
        accounts: Sequence[AccountConfig],
        plugins: Plugins,
        world: World,
        home: Path,
        *,
        simulated: bool = False,
    ) -> None:
        self._plugins = plugins
        configs = list(accounts)
        for implicit in ("local", "simulated") if simulated else ("local",):
            if not any(implicit in (config.name, config.driver) for config in configs):
                configs.append(AccountConfig(name=implicit, driver=implicit))
        _check(configs)
        self._accounts = {config.name: Account(config, plugins, world, home) for config in configs}

    @property
    def plugins(self) -> Plugins:
        return self._plugins

    def accounts(self) -> list[Account]:
        """All accounts, as configured, the implicit ones last."""
        return list(self._accounts.values())

    def account(self, name: str) -> Account:
        """The account of that name. Raises NotFound, which says what there is."""
        account = self._accounts.get(name)
        if account is None:
            raise NotFound(
                f"the pool has no account {name!r}",
                advice=f"There are: {', '.join(self._accounts)}.",
                details={"accounts": list(self._accounts)},
            )
        return account

    async def driver(self, name: str) -> CloudDriver:
        """The driver of the account of that name, opened if need be."""
        return await self.account(name).driver()

    def for_resource(self, type: str, label: str | None = None) -> str:
        """Name of the account that a resource section of ``type``, with ``label`` as its ``name``, means.

        If there is no such driver or no account of it, raises NotFound; if several and none is named or the
        default, Ambiguous."""
        fitting = [account.config for account in self._accounts.values() if account.config.driver == type]
        named = [config for config in fitting if config.name == label]
        if named:
            return named[0].name
        if len(fitting) == 1:
            return fitting[0].name
        for config in fitting:
            if config.default:
                return config.name
        names = [config.name for config in fitting]
        if names:
            raise Ambiguous(
                f"the pool has {len(names)} accounts of type {type!r}, and the resource names none of them",
                advice=f"Give the resource `name:` with one of {', '.join(names)}, or make one the default.",
                details={"ids": names, "type": type},
            )
        if type not in self._plugins.names():
            self._plugins.get(type)
        raise NotFound(
            f"the pool has no account of type {type!r}",
            advice=f"Add one to the pool in the configuration, such as {{name: {type}, driver: {type}}}; "
            f"there are: {', '.join(f'{a.name} ({a.config.driver})' for a in self._accounts.values())}.",
            details={"type": type, "accounts": list(self._accounts)},
        )

    def validate_resource(
        self, type: str, keys: Mapping[str, Any], *, unrendered: Collection[str] = ()
    ) -> tuple[dict[str, Any], list[KeyProblem]]:
        """Check a resource section's keys, less ``type``, ``name``, ``endpoint``: (options for the driver, problems).

        All problems are given at once, each as (key or None, end of a sentence); the options may be used only if
        there is none. Values of ``unrendered`` keys are templates still and not looked at. Raises NotFound for an
        unknown type, Unsupported if its SDK is missing."""
        return check_keys(self._plugins.get(type).resource, keys, unrendered=unrendered)

    async def close(self) -> None:
        """Close all drivers, the last account first; goes on after a failure and raises them together."""
        failures: list[Exception] = []
        for account in reversed(self._accounts.values()):
            try:
                await account.close()
            except Exception as error:  # noqa: BLE001 - forwarded below; the other drivers must be closed all the same
                failures.append(error)
        if failures:
            raise ExceptionGroup("closing the drivers of the pool", failures)

    def snapshot(self) -> dict[str, Any]:
        """Facts for people, an entry an account; no secrets."""
        return {name: account.snapshot() for name, account in self._accounts.items()}


def _check(configs: Sequence[AccountConfig]) -> None:
    problems: list[str] = []
    seen: set[str] = set()
    defaults: dict[str, str] = {}
    for config in configs:
        problem = name_problem(config.name)
        if problem is not None:
            problems.append(f"the account name {config.name!r} {problem}")
        if config.name in seen:
            problems.append(f"two accounts are called {config.name!r}")
        seen.add(config.name)
        if config.default:
            other = defaults.setdefault(config.driver, config.name)
            if other != config.name:
                problems.append(f"{other!r} and {config.name!r} are both the default of driver {config.driver!r}")
        if config.parallel_calls is not None and config.parallel_calls < 1:
            problems.append(f"parallel_calls of {config.name!r} must be 1 or more")
        if config.calls_per_second is not None and config.calls_per_second < 0:
            problems.append(f"calls_per_second of {config.name!r} must be 0 (unlimited) or more")
    if problems:
        raise InvalidInput("the pool's configuration is wrong: " + "; ".join(problems), details={"problems": problems})
