"""The ``ec2`` driver: Amazon EC2, and whatever else speaks its query API.

The token is a tag in the RunInstances call itself, so an instance has it from its first moment, and every look-up goes
by it. The call's ``ClientToken`` is made of the same token: a second line, in case a create should ever be sent twice.
A service that knows no tags in the call is looked up by that client token alone, and tagged with the name afterwards.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from pelagos.clouds.ec2 import parts as ec2_parts
from pelagos.clouds.ec2.changing import change_groups, groups_of
from pelagos.clouds.ec2.client import Ec2Client, Params, filters, items, text
from pelagos.clouds.ec2.launch import USER_DATA_LIMIT, resource_of, run_instances
from pelagos.clouds.ec2.options import Ec2Account, Ec2Resource, region_of
from pelagos.clouds.ec2.prices import price_of
from pelagos.clouds.ec2.replies import KEY_PAIR_TAG, TOKEN_TAG, flavor, image, instances, server, tags_of
from pelagos.clouds.errors import CloudBusy, CloudError, CloudRejected, CloudUncertain, ServerGone, ServerNotFound
from pelagos.clouds.libcloud.calls import LibraryCalls
from pelagos.clouds.libcloud.failures import scrubber, translate
from pelagos.clouds.libcloud.late import LateServers
from pelagos.clouds.port import DriverContext
from pelagos.clouds.values import (
    Capabilities,
    CloudFlavor,
    CloudImage,
    CloudPart,
    CloudServer,
    CommandResult,
    PartSpec,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import PelagosError, Unsupported
from pelagos.model.states import ServerState

__all__ = ["Ec2Driver"]

T = TypeVar("T")
_log = structlog.get_logger("pelagos.clouds.ec2")
_THERE = ["pending", "running", "shutting-down", "stopping", "stopped"]


class Ec2Driver:
    """Opened for one account: one endpoint, one key, one region."""

    def __init__(self, context: DriverContext, account: Ec2Account) -> None:
        self._account = account
        self._name = context.account
        self._tagged = account.tagged
        self._region = region_of(account.endpoint, account.region)
        scrub = scrubber([account.secret_key, account.session_token, account.access_key])
        self._calls: LibraryCalls[Ec2Client] = LibraryCalls(
            context.world,
            context.account,
            lambda: Ec2Client(account),
            lambda error, ledger, effect, what: translate(error, ledger, effect, what, scrub),
            threads=account.threads,
            stuck_limit=account.stuck_limit,
        )
        self._late = LateServers(context.world, account.settle)
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.TAG,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=account.threads,
            power=True,
            console=True,
            updates=frozenset(account.updates),
            user_data_limit=USER_DATA_LIMIT,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        found = await self._read("DescribeInstances", timeout, lambda client: _describe(client, self._ours()))
        return self._late.merge([one for one in found if one.token])

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return await self._read("DescribeInstances", timeout, lambda client: _get(client, provider_id))

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        def find(client: Ec2Client) -> CloudServer | None:
            wanted = filters({f"tag:{TOKEN_TAG}": token}) if self._tagged else self._ours()
            found = [one for one in _describe(client, wanted) if one.token == token]
            return min(found, key=lambda one: (one.created_at or 0.0, one.provider_id), default=None)

        found = await self._read("DescribeInstances", timeout, find)
        return found or self._late.get(token)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        def output(client: Ec2Client) -> str:
            _get(client, provider_id)
            encoded = text(client.call("GetConsoleOutput", {"InstanceId": provider_id}), "output")
            try:
                whole = base64.b64decode(encoded)
            except binascii.Error:
                whole = encoded.encode()
            return whole[max(0, len(whole) - max_bytes) :].decode(errors="ignore")

        return await self._read("GetConsoleOutput", timeout, output)

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        there = filters({"instance-state-name": _THERE})
        found = await self._read("DescribeInstances", timeout, lambda client: _describe(client, there))
        return [one for one in found if not one.token]

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        owners = {f"Owner.{number}": owner for number, owner in enumerate(self._account.image_owners, 1)}

        def images(client: Ec2Client) -> list[CloudImage]:
            params = owners | filters({"state": "available", "image-type": "machine"})
            return [image(item) for root in client.pages("DescribeImages", params) for item in items(root, "imagesSet")]

        return await self._read("DescribeImages", timeout, images)

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        def flavors(client: Ec2Client) -> list[CloudFlavor]:
            return [
                flavor(item, price_of(text(item, "instanceType"), client.region))
                for root in client.pages("DescribeInstanceTypes", {})
                for item in items(root, "instanceTypeSet")
            ]

        return await self._read("DescribeInstanceTypes", timeout, flavors)

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        resource = resource_of(spec, self._region, tagged=self._tagged)
        missing = [part.key for part in ec2_parts.parts_of(spec, resource) if part.key not in spec.parts]
        if missing:
            raise CloudRejected(f"these parts of {spec.name} were not made before it: {', '.join(missing)}")

        def create(client: Ec2Client) -> CloudServer:
            params = self._prepare(client, spec, resource, token)
            root = _run(client, params, shared_key=resource.key_pair is not None)
            made = items(root, "instancesSet")
            if not made:
                raise CloudUncertain("RunInstances: the answer names no instance")
            shown = server(made[0])
            if not self._tagged:
                _name(client, shown.provider_id, spec.name)
            return msgspec.structs.replace(shown, token=token, name=spec.name)

        return await self._write("RunInstances", timeout, create, late=self._late.arrived)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        def delete(client: Ec2Client) -> None:
            known = _known(client, provider_id)
            try:
                # Also one that reads do not show yet: EC2 tells of a new instance a little later than it makes it.
                if known is None or text(known, "instanceState/name") != "terminated":
                    client.call("TerminateInstances", {"InstanceId.1": provider_id}, effect=True)
            except ServerNotFound:
                return
            key_pair = None if known is None else tags_of(known).get(KEY_PAIR_TAG)
            if key_pair:
                _release(client, key_pair, provider_id)

        await self._write("TerminateInstances", timeout, delete)
        self._late.forget(provider_id)

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        await self._power("StartInstances", provider_id, timeout)

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        await self._power("StopInstances", provider_id, timeout)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        await self._power("RebootInstances", provider_id, timeout)

    async def update_server(self, provider_id: str, values: Mapping[str, Any], *, timeout: float) -> None:
        others = sorted(values.keys() - self._capabilities.updates)
        if others:
            raise Unsupported(
                f"the account {self._name} does not change {', '.join(others)} of an instance that is there",
                advice="Name it in `updates` of the account's options, if it can be changed at all.",
            )
        wanted = groups_of(values)

        def change(client: Ec2Client) -> None:
            change_groups(client, _instance(client, provider_id), wanted)

        await self._write("ModifyInstanceAttribute", timeout, change)

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(
            f"the account {self._name} cannot execute",
            advice="EC2 has no way to run a command inside an instance; use SSH.",
        )

    async def adopt_server(self, provider_id: str, *, token: str, timeout: float) -> CloudServer:
        def adopt(client: Ec2Client) -> CloudServer:
            found = _get(client, provider_id)
            if found.token not in ("", token):
                raise CloudRejected(f"the instance {provider_id} carries another token already")
            if not found.token:
                tag = {"ResourceId.1": provider_id, "Tag.1.Key": TOKEN_TAG, "Tag.1.Value": token}
                client.call("CreateTags", tag, effect=True)
            return msgspec.structs.replace(found, token=token)

        return await self._write("CreateTags", timeout, adopt)

    # -- parts -----------------------------------------------------------------------------------------------------

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        """What cannot be read has none: the create call says what is wrong with it."""
        try:
            resource = resource_of(spec, self._region, tagged=self._tagged)
        except CloudRejected:
            return ()
        return ec2_parts.parts_of(spec, resource)

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        return await self._write(
            f"create {part.kind.value}", timeout, lambda client: ec2_parts.create_part(client, part, token)
        )

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        return await self._read("list parts", timeout, ec2_parts.list_parts)

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        await self._write(f"delete {part.kind.value}", timeout, lambda client: ec2_parts.delete_part(client, part))

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        resource = resource_of(spec, self._region, tagged=self._tagged)

        def finish(client: Ec2Client) -> CloudServer:
            _instance(client, provider_id)
            ec2_parts.finish(client, provider_id, spec, resource)
            return _get(client, provider_id)

        return await self._write("finish the server", timeout, finish)

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        self._calls.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no keys."""
        return {
            "endpoint": self._account.endpoint or "Amazon's",
            "region": self._region,
            "late_servers": len(self._late),
            **self._calls.snapshot(),
        }

    # -- one call --------------------------------------------------------------------------------------------------

    def _ours(self) -> Params:
        conditions: dict[str, str | list[str]] = {"instance-state-name": _THERE}
        if self._tagged:
            conditions["tag-key"] = TOKEN_TAG
        return filters(conditions)

    def _prepare(self, client: Ec2Client, spec: ServerSpec, resource: Ec2Resource, token: str) -> Params:
        """What RunInstances is told; what it needs and is repeatable is done on the way."""
        volumes = [id_ for key, id_ in spec.parts.items() if key.startswith(ec2_parts.VOLUME)]
        zone = "" if resource.availability_zone else ec2_parts.zone_of_volumes(client, volumes)
        root_device = ""
        if resource.root_volume_size or resource.root_volume_type:
            root_device = _root_device(client, resource.image_id)
        if resource.key_pair is not None:
            ec2_parts.ensure_key_pair(client, resource.key_pair)
        return run_instances(
            spec,
            resource,
            token,
            zone=zone,
            firewall=spec.parts.get(ec2_parts.FIREWALL, ""),
            root_device=root_device,
            tagged=self._tagged,
        )

    async def _power(self, action: str, provider_id: str, timeout: float) -> None:
        def switch(client: Ec2Client) -> None:
            _instance(client, provider_id)
            client.call(action, {"InstanceId.1": provider_id}, effect=True)

        await self._write(action, timeout, switch)

    async def _read(self, what: str, timeout: float, function: Callable[[Ec2Client], T]) -> T:
        return await self._calls.read(function, timeout=timeout, what=what)

    async def _write(
        self,
        what: str,
        timeout: float,
        function: Callable[[Ec2Client], T],
        *,
        late: Callable[[T], None] | None = None,
    ) -> T:
        return await self._calls.write(function, timeout=timeout, what=what, late=late)


def _run(client: Ec2Client, params: Params, *, shared_key: bool) -> Any:
    try:
        return client.call("RunInstances", params, effect=True)
    except CloudError as error:
        if shared_key and error.details.get("code") == "InvalidKeyPair.NotFound":
            # The last instance with this key pair was deleted since it was looked for, and the pair with it.
            raise CloudBusy(f"{error}; it is imported again with the next try") from error
        raise


def _name(client: Ec2Client, provider_id: str, name: str) -> None:
    """Tag an instance with its name, for people: a failure makes it no worse an instance."""
    try:
        client.call("CreateTags", {"ResourceId.1": provider_id, "Tag.1.Key": "Name", "Tag.1.Value": name})
    except PelagosError as error:
        _log.warning("an instance got no name", instance=provider_id, name=name, error=str(error))


def _release(client: Ec2Client, key_pair: str, provider_id: str) -> None:
    """After the instance: of two that go at once, the later one then sees that the other goes too."""
    try:
        ec2_parts.release_key_pair(client, key_pair, provider_id)
    except PelagosError as error:
        raise CloudUncertain(
            f"the instance {provider_id} was terminated, and its key pair {key_pair} may still be there: {error}"
        ) from error


def _describe(client: Ec2Client, params: Params) -> list[CloudServer]:
    """The servers of a DescribeInstances, without those that are gone."""
    found = [server(item) for root in client.pages("DescribeInstances", params) for item in instances(root)]
    return [one for one in found if one.state is not ServerState.DELETED]


def _known(client: Ec2Client, provider_id: str) -> Any:
    """The element of an instance, also of one that was terminated a while ago; None if the cloud knows of none."""
    try:
        found = instances(client.call("DescribeInstances", {"InstanceId.1": provider_id}))
    except ServerNotFound:
        return None
    return found[0] if found else None


def _instance(client: Ec2Client, provider_id: str) -> Any:
    """The element of an instance that is not gone. Raises ServerNotFound, of a terminated one ServerGone."""
    known = _known(client, provider_id)
    if known is None:
        raise ServerNotFound(f"there is no instance {provider_id}")
    if text(known, "instanceState/name") == "terminated":
        raise ServerGone(f"the instance {provider_id} was terminated")
    return known


def _get(client: Ec2Client, provider_id: str) -> CloudServer:
    return server(_instance(client, provider_id))


def _root_device(client: Ec2Client, image_id: str) -> str:
    found = items(client.call("DescribeImages", {"ImageId.1": image_id}), "imagesSet")
    device = text(found[0], "rootDeviceName") if found else ""
    if not device:
        raise CloudRejected(f"the image {image_id} names no root device, so its size cannot be set")
    return device
