"""The generic driver: any compute provider of Libcloud's, with the abilities that its class shows.

A server carries its token in the metadata that the create call takes, or else in its name, so every look-up is a
listing. A listing is all that many providers have; a deleted server is one that it does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pelagos.clouds.errors import CloudRejected, ServerNotFound
from pelagos.clouds.libcloud.abilities import Abilities
from pelagos.clouds.libcloud.calls import LibraryCalls
from pelagos.clouds.libcloud.failures import scrubber, translate
from pelagos.clouds.libcloud.late import LateServers
from pelagos.clouds.libcloud.library import Library
from pelagos.clouds.libcloud.options import LibcloudAccount, LibcloudResource
from pelagos.clouds.libcloud.providers import make_driver
from pelagos.clouds.libcloud.wire import Ledger
from pelagos.clouds.port import DriverContext
from pelagos.clouds.values import (
    Capabilities,
    CloudFlavor,
    CloudImage,
    CloudServer,
    CommandResult,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import PelagosError, Unsupported

__all__ = ["LibcloudDriver", "resource_of"]

T = TypeVar("T")


def resource_of(options: Mapping[str, Any]) -> LibcloudResource:
    """The resource keys of ``type: libcloud``."""
    return msgspec.convert(dict(options), LibcloudResource, strict=False)


class LibcloudDriver:
    """Opened for one account. ``make`` builds a driver object of the library for a thread; ``resource`` says the keys
    of a resource section in those of ``type: libcloud``, and raises msgspec.ValidationError for wrong ones."""

    def __init__(
        self,
        context: DriverContext,
        account: LibcloudAccount,
        *,
        make: Callable[[LibcloudAccount], Any] = make_driver,
        resource: Callable[[Mapping[str, Any]], LibcloudResource] = resource_of,
    ) -> None:
        self._resource_of = resource
        self._name = context.account
        self._account = account
        by_name = None if account.token == "auto" else account.token == "name"  # noqa: S105 - no secret
        secrets = [account.key, account.secret, *(str(value) for value in account.arguments.values())]
        scrub = scrubber(secrets)

        def judge(error: Exception, ledger: Ledger, effect: bool, what: str) -> PelagosError:
            return translate(error, ledger, effect, what, scrub)

        self._calls: LibraryCalls[Library] = LibraryCalls(
            context.world,
            context.account,
            lambda: Library(make(account), context.world.monotonic, by_name=by_name, name_limit=account.name_limit),
            judge,
            threads=account.threads,
            stuck_limit=account.stuck_limit,
        )
        self._late = LateServers(context.world, account.settle)
        self._abilities: Abilities | None = None
        self._by_name = True

    async def begin(self) -> None:
        """Make the first driver object, to see what it can do; some log in then. Raises what ``open`` may."""
        library = await self._calls.read(lambda library: library, timeout=self._account.call_timeout, what="open")
        if self._account.token == "metadata" and not library.abilities.metadata:  # noqa: S105 - no secret
            raise Unsupported(
                f"the provider {self._account.provider!r} takes no metadata with a create",
                advice="Leave out `token`, or set it to `name`.",
            )
        self._abilities = library.abilities
        self._by_name = library.by_name

    @property
    def capabilities(self) -> Capabilities:
        able, account = self.abilities, self._account
        return Capabilities(
            token_lookup=TokenLookup.NAME if self._by_name else TokenLookup.TAG,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=account.threads,
            power=able.power,
            console=bool(able.console),
            user_data_limit=None if able.user_data else 0,
        )

    @property
    def abilities(self) -> Abilities:
        """What the provider's class shows."""
        assert self._abilities is not None, "begin() comes first"
        return self._abilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        found = await self._read("list_nodes", timeout, lambda library: library.servers())
        return self._late.merge([one for one in found if one.token])

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return await self._read("list_nodes", timeout, lambda library: library.shown(library.node(provider_id)))

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        found = await self._read("list_nodes", timeout, lambda library: library.servers())
        carrying = [one for one in found if one.token == token]
        oldest = min(carrying, key=lambda one: (one.created_at or 0.0, one.provider_id), default=None)
        return oldest or self._late.get(token)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        self._need(bool(self.abilities.console), "console")
        return await self._read("console", timeout, lambda library: library.console(provider_id, max_bytes))

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        found = await self._read("list_nodes", timeout, lambda library: library.servers())
        return [one for one in found if not one.token]

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        self._need(self.abilities.images, "list images")
        return await self._read("list_images", timeout, lambda library: library.images())

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        self._need(self.abilities.sizes, "list sizes")
        return await self._read("list_sizes", timeout, lambda library: library.flavors())

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        resource = self._resource(spec)
        return await self._write(
            "create_node",
            timeout,
            lambda library: library.create(spec, resource, token),
            late=self._late.arrived,
        )

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        try:
            await self._write("destroy_node", timeout, lambda library: library.destroy(provider_id))
        except ServerNotFound:
            pass  # somebody else was quicker
        self._late.forget(provider_id)

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        self._need(self.capabilities.power, "start")
        await self._write("start_node", timeout, lambda library: library.start(provider_id))

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        self._need(self.capabilities.power, "stop")
        await self._write("stop_node", timeout, lambda library: library.stop(provider_id))

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        self._need(self.capabilities.power, "reboot")
        await self._write("reboot_node", timeout, lambda library: library.reboot(provider_id))

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise self._cannot("execute")

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        self._calls.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no keys."""
        able = self._abilities
        return {
            "provider": self._account.provider,
            "token": "name" if self._by_name else "metadata",
            "create_arguments": sorted(able.arguments) if able is not None else [],
            "late_servers": len(self._late),
            **self._calls.snapshot(),
        }

    # -- one call --------------------------------------------------------------------------------------------------

    def _resource(self, spec: ServerSpec) -> LibcloudResource:
        try:
            return self._resource_of(spec.options)
        except msgspec.ValidationError as error:
            raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of its type.") from error

    def _need(self, there: bool, what: str) -> None:
        if not there:
            raise self._cannot(what)

    def _cannot(self, what: str) -> Unsupported:
        return Unsupported(
            f"the account {self._name} cannot {what}",
            advice=f"Libcloud's driver of the provider {self._account.provider!r} has no such call.",
        )

    async def _read(self, what: str, timeout: float, function: Callable[[Library], T]) -> T:
        return await self._calls.read(function, timeout=timeout, what=what)

    async def _write(
        self, what: str, timeout: float, function: Callable[[Library], T], *, late: Callable[[T], None] | None = None
    ) -> T:
        return await self._calls.write(function, timeout=timeout, what=what, late=late)
