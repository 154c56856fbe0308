"""The pool: the accounts of all clouds that this installation may use, each with its driver, opened when first needed.

Which account a resource section means (reference, sections 3.4 and 4.7: ``type``, ``endpoint``, and a ``name`` that is
just a label there) is decided here and nowhere else. In this order:

1. the account called like the label;
2. the accounts whose ``endpoint`` is the section's: the only one, or the default among them;
3. for a section with an endpoint, the account that it describes (:mod:`pelagos.clouds.described`), if there are
   credentials for it or it needs none;
4. the accounts of the type without an endpoint: the only one, or the default among them;
5. the account that a section without an endpoint describes.

Guessing among several would put servers on somebody's bill by accident, so it is an error.

The pool can be replaced by another configuration while it is used (:meth:`Pool.reload`). Accounts that are configured
as before stay what they are, with their drivers; the others are given to whoever follows, who lets their calls end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clouds.accounts import Account, AccountConfig, AccountIdentity, Provenance, account_mistakes
from pelagos.clouds.authfile import AuthFile, same_endpoint
from pelagos.clouds.described import DescribedAccount
from pelagos.clouds.keys import KeyProblem, check_keys, check_presence
from pelagos.clouds.labels import account_name, option_names, section_keys
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.port import CloudDriver, StandIn
from pelagos.model.errors import Ambiguous, InvalidInput, NotFound, PelagosError, Unsupported
from pelagos.model.world import World

__all__ = ["Account", "AccountConfig", "Pool", "PoolChange"]

_TEMPLATE = "{"


class PoolChange(msgspec.Struct, frozen=True, kw_only=True):
    """What another configuration of the pool changed, by the names of accounts."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


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
        auth: AuthFile | None = None,
    ) -> None:
        self._plugins = plugins
        self._world = world
        self._home = home
        self._auth = auth
        self._accounts: dict[str, Account] = {}
        self._described: dict[str, DescribedAccount] = {}
        self._retired: list[Account] = []
        self._followers: list[Callable[[], None]] = []
        self.generation = 0
        """Rises whenever accounts come, go or are replaced."""
        for config in _complete(accounts, simulated):
            self._accounts[config.name] = self._account(config)

    @property
    def plugins(self) -> Plugins:
        return self._plugins

    @property
    def auth(self) -> AuthFile | None:
        """The authentication file, if one is named."""
        return self._auth

    def accounts(self) -> list[Account]:
        """All accounts: as configured, then the implicit ones, then those that descriptions mean."""
        return list(self._accounts.values())

    def find(self, name: str) -> Account | None:
        """The account of that name, if there is one."""
        return self._accounts.get(name)

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

    def identity(self, name: str) -> AccountIdentity:
        """By what the account of that name is known. Raises as :meth:`account`."""
        return self.account(name).identity

    async def driver(self, name: str) -> CloudDriver:
        """The driver of the account of that name, opened if need be."""
        return await self.account(name).driver()

    # -- which account -----------------------------------------------------------------------------------------------

    def for_resource(
        self, type: str, label: str | None = None, *, endpoint: str = "", section: Mapping[str, Any] | None = None
    ) -> str:
        """Name of the account that a resource section of ``type`` means; ``label`` is its ``name``, ``section`` all of
        its keys. An account that it describes is in the pool from now on.

        If there is no such driver or no account of it, raises NotFound; if several fit, Ambiguous; and what reading the
        authentication file raises."""
        chosen = self._choose(type, label, endpoint, section or {})
        if isinstance(chosen, str):
            return chosen
        self._know(chosen)
        return chosen.name

    def means(
        self, type: str, label: str | None = None, *, endpoint: str = "", section: Mapping[str, Any] | None = None
    ) -> str:
        """As :meth:`for_resource`, and changes nothing: for whoever only checks, in whatever thread."""
        chosen = self._choose(type, label, endpoint, section or {})
        return chosen if isinstance(chosen, str) else chosen.name

    def instead_of(self, chosen: str, type: str, label: str, *, endpoint: str = "") -> tuple[str, ...]:
        """The accounts among which ``chosen`` was taken for a section whose ``label`` is no account's name; empty where
        the section says with its label, or with its endpoint, which account it means, or describes one."""
        fitting = self._fitting(type)
        if not label or _TEMPLATE in label or _named(fitting, label) or chosen not in {one.name for one in fitting}:
            return ()
        if endpoint and _TEMPLATE not in endpoint:
            there = [config for config in fitting if same_endpoint(config.told_endpoint, endpoint)]
            if len(there) == 1:
                return ()
            fitting = there or [config for config in fitting if not config.told_endpoint]
        return tuple(config.name for config in fitting)

    def can_describe(self, type: str) -> bool:
        """Whether sections of a type may mean accounts that nobody configured: the authentication file may have entries
        for it, or it needs no credentials."""
        try:
            plugin = self._plugins.get(type)
        except PelagosError:
            return False
        if "endpoint" not in section_keys(plugin):
            return False
        if self._auth is not None and any(entry.filter.get("type", type) == type for entry in self._auth.entries()):
            return True
        given = {option_names(plugin)["endpoint"]: "http://localhost"}
        return not check_keys(plugin.account_options, given)[1]

    def unusable(self, type: str, section: Mapping[str, Any]) -> PelagosError | None:
        """Why no server of a type can be made of a resource section here, with what to do about it: there is no such
        driver (NotFound), what its driver needs is not installed (Unsupported), or no account is of it, and the section
        does not describe one (NotFound)."""
        try:
            lacking = self._plugins.lacking(type)
        except NotFound as error:
            return error
        same = self._plugins.same
        there = any(not one.described and same(one.config.driver, type) for one in self._accounts.values())
        if there or (self.can_describe(type) and self._describes(type, section)):
            return lacking
        advice = f"add an account of driver {type} to the clouds of the configuration"
        if self._auth is not None:
            advice += ", or an entry for it to the authentication file"
        if lacking is not None:
            return Unsupported(lacking.message, advice=f"{lacking.advice}, and {advice}", details=lacking.details)
        return NotFound(f"the pool has no account of driver {type!r}", advice=advice, details={"type": type})

    def trouble(self, type: str, section: Mapping[str, Any]) -> PelagosError | None:
        """Why the account that a resource section means could not be opened now, as far as that can be told beforehand
        (:meth:`Account.trouble`). None where it is open to templates, or cannot be told, which account is meant: others
        say so. Changes nothing, and blocks on the disk."""
        label, endpoint = str(section.get("name") or ""), str(section.get("endpoint") or "")
        if _TEMPLATE in label or _TEMPLATE in endpoint:
            return None
        try:
            chosen = self._choose(type, label or None, endpoint, section)
        except PelagosError:
            return None
        account = self._accounts.get(chosen if isinstance(chosen, str) else chosen.name)
        if account is None and not isinstance(chosen, str):
            account = self._opened_by(chosen)
        return None if account is None else account.trouble()

    def _describes(self, type: str, section: Mapping[str, Any]) -> bool:
        """Whether a section means an account by itself; that of an endpoint which is wrong is a mistake."""
        if section.get("endpoint"):
            return True
        try:
            self.means(type, section=section)
        except NotFound:
            return False
        except PelagosError:
            return True
        return True

    def stand_in(self, name: str) -> str:
        """Name of the account that descriptions are built on in place of their own clouds: of that name, or the one of
        that driver. Raises NotFound, Ambiguous, and Unsupported where it can stand in for nothing."""
        account = self._accounts.get(name) or self.account(self.for_resource(name))
        if not isinstance(account.plugin, StandIn):
            fitting = [one.name for one in self._accounts.values() if self._stands_in(one)]
            raise Unsupported(
                f"the account {account.name!r} (driver {account.config.driver}) cannot stand in for other clouds",
                advice=f"These can: {', '.join(fitting) or 'none of the pool'}.",
            )
        return account.name

    def know(self, name: str, described: Mapping[str, Any]) -> bool:
        """Take an account into the pool again that a description meant once, from what was journaled of it
        (:meth:`description`). Whether it is there now."""
        if name not in self._accounts and described:
            try:
                found = msgspec.convert(dict(described), DescribedAccount)
            except msgspec.ValidationError:
                return False
            if found.name == name:
                self._know(found)
        return name in self._accounts

    def description(self, name: str) -> dict[str, Any]:
        """What an account is that a description means, as plain values without secrets; empty for a configured one."""
        found = self._described.get(name)
        return {} if found is None else dict(msgspec.to_builtins(found))

    # -- resource sections -------------------------------------------------------------------------------------------

    def validate_resource(
        self, type: str, keys: Mapping[str, Any], *, unrendered: Collection[str] = ()
    ) -> tuple[dict[str, Any], list[KeyProblem]]:
        """Check a resource section's keys, less ``type``, ``name``, ``endpoint``: (options for the driver, problems).

        All problems are given at once, each as (key or None, end of a sentence); the options may be used only if
        there is none. Values of ``unrendered`` keys are templates still and not looked at. Raises NotFound for an
        unknown type, Unsupported if its SDK is missing."""
        return check_keys(self._plugins.get(type).resource, keys, unrendered=unrendered)

    def missing_keys(self, type: str, keys: Collection[str]) -> list[KeyProblem]:
        """What is wrong with a section's keys alone, whatever their values. Raises as :meth:`validate_resource`."""
        return check_presence(self._plugins.get(type).resource, keys)

    def options_of_stand_in(self, account: str, type: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Options for a server on ``account`` that was described for a cloud of another type. Raises NotFound,
        Unsupported, and InvalidInput where its driver wants what the section cannot say."""
        plugin = self.account(account).plugin
        if not isinstance(plugin, StandIn):
            raise Unsupported(f"the account {account!r} cannot stand in for a cloud of type {type!r}")
        options, problems = check_keys(plugin.resource, plugin.stand_in(type, keys))
        if problems:
            said = "; ".join(f"{key or 'resource'} {problem}" for key, problem in problems)
            raise InvalidInput(f"the account {account!r} cannot stand in for a cloud of type {type!r}: {said}")
        return options

    def check_of_stand_in(self, account: str) -> tuple[str, ...]:
        """The command that says whether a server on ``account`` is well, in place of a described health check that its
        cloud cannot answer; empty: the described one is made. Raises NotFound."""
        plugin = self.account(account).plugin
        return tuple(plugin.stand_in_check) if isinstance(plugin, StandIn) else ()

    # -- changes ---------------------------------------------------------------------------------------------------

    def follow(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have ``changed`` called whenever accounts came, went or were replaced; returns what ends that. Who follows
        takes the :meth:`retired` ones to their end."""
        self._followers.append(changed)

        def leave() -> None:
            if changed in self._followers:
                self._followers.remove(changed)

        return leave

    def reload(
        self, accounts: Sequence[AccountConfig], *, simulated: bool = False, auth: AuthFile | None = None
    ) -> PoolChange:
        """Be another configuration from now on. Accounts that are as before keep their drivers; those that are not are
        retired. Descriptions' own accounts stay, and find the new authentication file when they are opened anew.

        Raises InvalidInput or what loading a changed account's driver raises, and is as before."""
        configs = {config.name: config for config in _complete(accounts, simulated)}
        fresh: dict[str, Account] = {}
        kept: list[str] = []
        added: list[str] = []
        changed: list[str] = []
        for name, config in configs.items():
            known = self._accounts.get(name)
            if known is not None and not known.described and known.config == config:
                fresh[name] = known
                kept.append(name)
                continue
            fresh[name] = self._account(config)
            (added if known is None else changed).append(name)
        described = {name: self._accounts[name] for name in self._described if name not in configs}
        if auth is not None:
            auth.entries()
        gone = [account for name, account in self._accounts.items() if account not in (fresh | described).values()]
        self._auth = auth
        self._accounts = fresh | described
        self._described = {name: self._described[name] for name in described}
        self._retired += gone
        self._tell()
        return PoolChange(
            added=tuple(added),
            changed=tuple(changed),
            removed=tuple(account.name for account in gone if account.name not in self._accounts),
            kept=(*kept, *described),
        )

    def renew(self, name: str) -> None:
        """Open an account anew: the driver there is retired, and the next one reads its secrets again. Raises
        NotFound."""
        account = self.account(name)
        described = self._described.get(name)
        fresh = self._account(account.config) if described is None else self._opened_by(described)
        self._accounts = {**self._accounts, name: fresh}
        self._retired.append(account)
        self._tell()

    async def renew_outdated(self) -> tuple[str, ...]:
        """Open those accounts anew whose secrets were rotated; their names. One whose secrets cannot be read stays as
        it is: the old ones may still do."""
        outdated: list[str] = []
        for account in self.accounts():
            try:
                if await account.outdated() and self._accounts.get(account.name) is account:
                    outdated.append(account.name)
            except PelagosError:
                continue  # `pelagos cloud check` says why
        for name in outdated:
            self.renew(name)
        return tuple(outdated)

    def retired(self) -> list[Account]:
        """Accounts that are the pool's no more, and whose drivers may be open still."""
        return list(self._retired)

    async def retire(self, account: Account) -> None:
        """Close a retired account's driver; nobody calls it any more."""
        if account in self._retired:
            self._retired.remove(account)
        await account.close()

    async def close(self) -> None:
        """Close all drivers, the last account first; goes on after a failure and raises them together."""
        failures: list[Exception] = []
        for account in reversed([*self._retired, *self._accounts.values()]):
            try:
                await account.close()
            except Exception as error:  # noqa: BLE001 - forwarded below; the other drivers must be closed all the same
                failures.append(error)
        if failures:
            raise ExceptionGroup("closing the drivers of the pool", failures)

    def snapshot(self) -> dict[str, Any]:
        """Facts for people, an entry an account; no secrets."""
        return {name: account.snapshot() for name, account in self._accounts.items()}

    # -- inside -----------------------------------------------------------------------------------------------------

    def _account(self, config: AccountConfig) -> Account:
        return Account(config, self._plugins, self._world, self._home)

    def _opened_by(self, described: DescribedAccount) -> Account:
        config = AccountConfig(
            name=described.name,
            driver=described.type,
            endpoint="",
            provenance=Provenance(
                "a description" + (" and the authentication file" if described.entry is not None else "")
            ),
        )
        return Account(
            config,
            self._plugins,
            self._world,
            self._home,
            given=lambda: described.options(self._plugins.get(described.type), self._auth),
            endpoint=described.endpoint,
            place=None if described.entry is None else partial(self._place_of, described),
        )

    def _place_of(self, described: DescribedAccount) -> str:
        """Where the credentials of an account stand that a description means; empty if nowhere."""
        entries = () if self._auth is None else self._auth.entries()
        return next((str(one.position) for one in entries if one.filter == described.entry and one.position), "")

    def _know(self, described: DescribedAccount) -> None:
        if described.name not in self._accounts:
            # Another mapping each time: whoever checks descriptions reads the old one in a thread of its own.
            self._accounts = {**self._accounts, described.name: self._opened_by(described)}
            self._described[described.name] = described
            self._tell()

    def _tell(self) -> None:
        self.generation += 1
        for changed in list(self._followers):
            changed()

    def _stands_in(self, account: Account) -> bool:
        try:
            return isinstance(account.plugin, StandIn)
        except PelagosError:
            return False

    def _choose(
        self, type: str, label: str | None, endpoint: str, section: Mapping[str, Any]
    ) -> str | DescribedAccount:
        fitting = self._fitting(type)
        named = _named(fitting, label)
        if named:
            return named[0].name
        said = "" if _TEMPLATE in endpoint else endpoint
        if said:
            there = [config for config in fitting if same_endpoint(config.told_endpoint, said)]
            if there:
                return self._one_of(there, type)
            described = self._describe(type, said, section)
            if described is not None:
                return described
        anywhere = [config for config in fitting if not config.told_endpoint] if said else fitting
        if anywhere:
            return self._one_of(anywhere, type)
        described = None if said else self._describe(type, "", section)
        if described is not None:
            return described
        raise self._nowhere(type, said, fitting)

    def _fitting(self, type: str) -> list[AccountConfig]:
        return [
            a.config for a in self._accounts.values() if not a.described and self._plugins.same(a.config.driver, type)
        ]

    def _one_of(self, configs: Sequence[AccountConfig], type: str) -> str:
        if len(configs) == 1:
            return configs[0].name
        for config in configs:
            if config.default:
                return config.name
        names = [config.name for config in configs]
        raise Ambiguous(
            f"the pool has {len(names)} accounts of type {type!r}, and the resource names none of them",
            advice=f"Give the resource `name:` with one of {', '.join(names)}, or make one the default.",
            details={"ids": names, "type": type},
        )

    def _describe(self, type: str, endpoint: str, section: Mapping[str, Any]) -> DescribedAccount | None:
        """The account that a section describes; None if it cannot, or if there are no credentials for it."""
        try:
            plugin = self._plugins.get(type)
        except NotFound:
            return None
        keys, names = section_keys(plugin), option_names(plugin)
        if endpoint and "endpoint" not in keys:
            return None
        whole = {**section, "type": type, **({"endpoint": endpoint} if endpoint else {})}
        entry = self._auth.find(whole) if self._auth is not None else None
        meant = {
            key: value
            for key, value in whole.items()
            if key in keys and not (isinstance(value, str) and _TEMPLATE in value)
        }
        found = DescribedAccount(type, meant, None if entry is None else entry.filter)
        given = {names[key]: value for key, value in meant.items()}
        if entry is not None:
            return found
        return found if endpoint and not check_keys(plugin.account_options, given)[1] else None

    def _nowhere(self, type: str, endpoint: str, fitting: Sequence[AccountConfig]) -> PelagosError:
        if not fitting and type not in self._plugins.names():
            self._plugins.get(type)  # raises, and says what there is
        at = f" at {endpoint}" if endpoint else ""
        others = ", ".join(f"{a.name} ({a.config.driver})" for a in self._accounts.values())
        entered = (
            "give the authentication file an entry that fits the resource, or add" if self._auth is not None else "add"
        )
        shape = f"{{name: {type}, driver: {type}{f', endpoint: {endpoint!r}' if endpoint else ''}}}"
        return NotFound(
            f"the pool has no account of type {type!r}{at}",
            advice=f"{entered[:1].upper()}{entered[1:]} one to the pool in the configuration, such as {shape}; "
            f"there are: {others}.",
            details={"type": type, "accounts": list(self._accounts)},
        )


def _named(fitting: Sequence[AccountConfig], label: str | None) -> list[AccountConfig]:
    return [config for config in fitting if label and config.name in (label, account_name(label))]


def _complete(accounts: Sequence[AccountConfig], simulated: bool) -> list[AccountConfig]:
    """With the implicit ones. Raises InvalidInput."""
    configs = list(accounts)
    for implicit in ("local", "simulated") if simulated else ("local",):
        if not any(implicit in (config.name, config.driver) for config in configs):
            configs.append(AccountConfig(name=implicit, driver=implicit, provenance=Provenance("Pelagos itself")))
    mistakes = account_mistakes(configs)
    if mistakes:
        problems = [mistake.text for mistake in mistakes]
        raise InvalidInput("the pool's configuration is wrong: " + "; ".join(problems), details={"problems": problems})
    return configs
