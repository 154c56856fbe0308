"""One account of the pool: what is written about it, and its driver, opened when it is first needed.

What a driver is given are its options: those under ``options``, with ``endpoint`` and ``region`` and the keys of
``credentials``, which are options too and stand apart so that a reader sees which are secret. References in them
(:mod:`pelagos.clouds.references`) are resolved each time the driver is opened.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pelagos.clouds.keys import KeyProblem, check_keys
from pelagos.clouds.labels import option_names, secret_options
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.port import CloudDriver, DriverContext, DriverPlugin
from pelagos.clouds.references import conceal_all, holds_reference, reference_problem, reference_trouble, resolve
from pelagos.clouds.values import Capabilities
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import InvalidInput, PelagosError, Unavailable
from pelagos.model.names import name_problem
from pelagos.model.redaction import HIDDEN, may_hold_secret, names_secret, without_secrets
from pelagos.model.world import World
from pelagos.model.yaml_layer import Layer, PathKey

__all__ = [
    "Account",
    "AccountConfig",
    "AccountIdentity",
    "AccountMistake",
    "Provenance",
    "account_mistakes",
    "problem_diagnostics",
]


class Provenance:
    """Where an account was written, for messages. Any two are equal: another place makes no other account."""

    def __init__(self, source: str = "the configuration", layer: Layer | None = None, path: PathKey = ()) -> None:
        """``source``: who names it, in words. ``path`` is the account's in ``layer``."""
        self.source = source
        self._layer = layer
        self._path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Provenance)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"Provenance({self.source!r})"

    def diagnostic(self, key: str | None, summary: str, advice: str = "") -> Diagnostic:
        """A mistake at a key of the account; without a file, one without a place. A line that may hold a secret is not
        shown."""
        if self._layer is None:
            return Diagnostic(summary, advice=advice)
        inside: PathKey = ()
        for path in ((), ("options",), ("credentials",)):
            if key is not None and (*self._path, *path, key) in self._layer.origins:
                inside = (*path, key)
        found = self._layer.diagnostic((*self._path, *inside), summary, advice)
        return msgspec.structs.replace(found, source="") if may_hold_secret(found.source) else found


class AccountConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One account in the configuration."""

    name: str
    driver: str
    """The plug-in's type: ``local``, ``simulated``, ..."""
    endpoint: str = ""
    """The cloud's address, where the driver takes one. Resource sections with this endpoint mean this account."""
    region: str = ""
    credentials: dict[str, Any] = {}
    """Options that are secret, best by reference: ``{env: NAME}``, ``{file: path}`` or ``{keyring: service/user}``."""
    options: dict[str, Any] = {}
    """Of the driver, on its page. Each value may be a reference, too."""
    parallel_calls: int | None = None
    """Calls in flight at once, in place of the driver's own."""
    calls_per_second: float | None = None
    """0: unlimited; in place of the driver's own."""
    default: bool = False
    """Used for resource sections of this type that name none of several accounts."""
    provenance: Provenance = Provenance()

    def __repr__(self) -> str:
        shown = {key: HIDDEN if names_secret(key) else value for key, value in self.options.items()}
        return f"AccountConfig(name={self.name!r}, driver={self.driver!r}, endpoint={self.endpoint!r}, options={shown})"

    @property
    def told_endpoint(self) -> str:
        """The endpoint, wherever it is written; empty if none is, or by reference."""
        endpoint = self.endpoint or self.options.get("endpoint")
        return endpoint if isinstance(endpoint, str) else ""

    def effective(self) -> tuple[dict[str, Any], list[KeyProblem]]:
        """All that the driver is given, references as they are written; and what is there twice or malformed."""
        options = dict(self.options)
        apart = {
            **self.credentials,
            **{key: getattr(self, key) for key in ("endpoint", "region") if getattr(self, key)},
        }
        problems: list[KeyProblem] = [
            (key, "is there twice, once under `options`; delete one of them") for key in apart if key in options
        ]
        options.update(apart)
        for key, value in options.items():
            problem = reference_problem(value)
            if problem is not None:
                problems.append((key, problem))
        return options, problems


class AccountIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells whether an account is the one that it was: which cloud, and how it is used; nothing of how one
    enters, which may be renewed."""

    driver: str
    endpoint: str = ""
    region: str = ""
    options: str = ""
    """A digest of all other options that are no secrets; empty if there is none."""


class Account:
    """One account of the pool. ``given`` are options that are read only when the driver is opened (a blocking call),
    and go over what is configured: those of an account that a description means. ``place`` says, after that, where they
    were read."""

    def __init__(
        self,
        config: AccountConfig,
        plugins: Plugins,
        world: World,
        home: Path,
        *,
        given: Callable[[], Mapping[str, Any]] | None = None,
        endpoint: str = "",
        place: Callable[[], str] | None = None,
    ) -> None:
        self.config = config
        self.endpoint = endpoint or config.told_endpoint
        """The cloud's address as far as it is told; for people."""
        self._plugins = plugins
        self._world = world
        self._home = home
        self._given = given
        self._place = place
        self._driver: CloudDriver | None = None
        self._opened_with = b""
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
    def identity(self) -> AccountIdentity:
        """By which it is known again."""
        config = self.config
        region = config.region or config.options.get("region", "")
        try:
            written = self._written()[0]
            hidden = self._hidden(written)
        except PelagosError:  # its driver cannot be loaded: what its secrets are called is not known
            written, hidden = {}, set()
        told = _plain({key: value for key, value in written.items() if key not in {*hidden, *_TOLD_APART}})
        return AccountIdentity(
            driver=config.driver,
            endpoint=_without_user(self.endpoint),
            region=region if isinstance(region, str) else "",
            options=self._digest(told).hex() if told else "",
        )

    @property
    def opened(self) -> bool:
        return self._driver is not None

    @property
    def described(self) -> bool:
        """Whether it is there because a description means it, not because it is configured."""
        return self._given is not None

    def problems(self) -> list[KeyProblem]:
        """All that is wrong with the account's options, as far as it can be seen without its secrets; loads the
        plug-in. Raises as :attr:`plugin`."""
        if self.described:
            return []
        options, problems = self._written()
        unread = [key for key, value in options.items() if holds_reference(value)]
        found = check_keys(self.plugin.account_options, options, unrendered=unread, hidden=self._hidden(options))[1]
        return problems + [problem for problem in found if problem not in problems]

    def trouble(self) -> PelagosError | None:
        """Why the driver could not be opened now, as far as that can be told beforehand: it is not installed, an option
        is missing or wrong, a reference names nothing. None where it is open. Blocks on the disk; reads no secret by
        reference."""
        if self._driver is not None:
            return None
        try:
            lacking = self._plugins.lacking(self.config.driver)
            if lacking is not None:
                return lacking
            options, problems = self._written()
            if self._given is not None:
                options |= self._given()
            unread = [key for key, value in options.items() if holds_reference(value)]
            found = check_keys(self.plugin.account_options, options, unrendered=unread, hidden=self._hidden(options))[1]
            problems += [problem for problem in found if problem not in problems]
            if problems:
                return self._wrong(problems)
        except PelagosError as error:
            return error
        for key, value in options.items():
            named = f"the option {key!r} of the account {self.name!r}"
            trouble = reference_trouble(value, self._world.environ, named)
            if trouble is not None:
                where = self._where([(key, "")])
                trouble.advice += f" It is named at {where}." if where else ""
                return trouble
        return None

    async def driver(self) -> CloudDriver:
        """The driver, opened at the first call; a failure is not kept, the next call tries again.

        Raises InvalidInput for wrong options, what the references raise, what the plug-in's ``open`` raises, and
        Unavailable after close."""
        async with self._opening:
            if self._closed:
                raise Unavailable(f"the account {self.name!r} is closed, with its pool or for another in its place")
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

    async def outdated(self) -> bool:
        """Whether the driver is open with other secrets than those that its references name now. Raises what reading
        them raises."""
        if self._driver is None:
            return False
        return self._digest(await self._read()) != self._opened_with

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

    async def _read(self) -> dict[str, Any]:
        """All options with their secrets, not checked yet."""
        written, problems = self._written()
        if self._given is not None:
            written |= await self._world.run_blocking(self._given)
        if problems:
            raise self._wrong(problems)
        values = await resolve(written, self._world, f"the account {self.name!r}")
        for key in self._hidden(written):
            conceal_all(values[key])
        return values

    async def _open(self) -> CloudDriver:
        values = await self._read()
        hidden = self._hidden(values) | self._hidden(self._written()[0])
        options, problems = check_keys(self.plugin.account_options, values, hidden=hidden)
        if problems:
            raise self._wrong(problems)
        self._opened_with = self._digest(values)
        context = DriverContext(account=self.name, world=self._world, home=self._home, options=options)
        try:
            return await self.plugin.open(context)
        except PelagosError as error:
            error.message, error.advice = without_secrets(error.message), without_secrets(error.advice)
            raise

    def _written(self) -> tuple[dict[str, Any], list[KeyProblem]]:
        """The options as they are written, by the names that the driver has for them: it may be told the ancestor's
        ``accesskey``, too."""
        written, problems = self.config.effective()
        names = option_names(self.plugin)
        return {names.get(key, key): value for key, value in written.items()}, problems

    @staticmethod
    def _digest(values: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(msgspec.msgpack.encode(values, order="deterministic")).digest()

    def _hidden(self, options: Mapping[str, Any]) -> set[str]:
        """Options whose values are nobody's business."""
        names = option_names(self.plugin)
        secret = {names.get(key, key) for key in self.config.credentials} | secret_options(self.plugin.account_options)
        return {key for key, value in options.items() if key in secret or holds_reference(value)}

    def _wrong(self, problems: Sequence[KeyProblem]) -> InvalidInput:
        listed = "; ".join(f"{key or 'the options'} {message}" for key, message in problems)
        what = "the entry of the authentication file" if self._place is not None else "the account in the configuration"
        where = self._where(problems)
        return InvalidInput(
            f"the options of the account {self.name!r} are wrong: {listed}",
            advice=f"Correct {what}: {where}." if where else f"Correct {what} of the pool.",
            details={"problems": [list(problem) for problem in problems]},
            diagnostics=problem_diagnostics(self.config, problems),
        )

    def _where(self, problems: Sequence[KeyProblem]) -> str:
        """The place of the first of these; empty if it is of no file."""
        if self._place is not None:
            return self._place()
        placed = problem_diagnostics(self.config, problems)
        return next((str(one.position) for one in placed if one.position is not None), "")


_TOLD_APART = ("endpoint", "region")


def _plain(value: Any) -> Any:
    """The value less all in it that is called like a secret."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not names_secret(str(key))}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _without_user(endpoint: str) -> str:
    """Without the user and the password that an address may hold."""
    scheme, slashes, rest = endpoint.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def problem_diagnostics(config: AccountConfig, problems: Sequence[KeyProblem]) -> tuple[Diagnostic, ...]:
    """The problems of an account's options with their places in its file; none if it is of no file."""
    found = tuple(
        config.provenance.diagnostic(key, f"the account {config.name!r}: {key or 'the options'} {message}")
        for key, message in problems
    )
    return found if any(one.position for one in found) else ()


class AccountMistake(NamedTuple):
    """What is wrong with one of several accounts: at which key of it, and what, as a sentence."""

    config: AccountConfig
    key: str
    text: str


def account_mistakes(configs: Sequence[AccountConfig]) -> list[AccountMistake]:
    """Bad or doubled names, two defaults of one driver, numbers that cannot be."""
    mistakes: list[AccountMistake] = []
    seen: set[str] = set()
    defaults: dict[str, str] = {}
    for config in configs:
        problem = name_problem(config.name)
        if problem is not None:
            mistakes.append(AccountMistake(config, "name", f"the account name {config.name!r} {problem}"))
        if config.name in seen:
            mistakes.append(AccountMistake(config, "name", f"two accounts are called {config.name!r}"))
        seen.add(config.name)
        if config.default:
            other = defaults.setdefault(config.driver, config.name)
            if other != config.name:
                text = f"{other!r} and {config.name!r} are both the default of driver {config.driver!r}"
                mistakes.append(AccountMistake(config, "default", text))
        if config.parallel_calls is not None and config.parallel_calls < 1:
            text = f"parallel_calls of {config.name!r} must be 1 or more"
            mistakes.append(AccountMistake(config, "parallel_calls", text))
        if config.calls_per_second is not None and config.calls_per_second < 0:
            text = f"calls_per_second of {config.name!r} must be 0 (unlimited) or more"
            mistakes.append(AccountMistake(config, "calls_per_second", text))
    return mistakes
