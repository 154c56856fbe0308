"""One thread's Libcloud driver, and what it takes to say a server in its words: sizes, images, locations, arguments."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pelagos.clouds.errors import CloudBusy, CloudRejected, ServerNotFound
from pelagos.clouds.libcloud.abilities import Abilities, abilities_of
from pelagos.clouds.libcloud.nodes import TOKEN_KEY, named, server
from pelagos.clouds.libcloud.options import LibcloudResource
from pelagos.clouds.values import CloudFlavor, CloudImage, CloudServer, ServerSpec
from pelagos.model.states import ServerState

__all__ = ["Library"]

_KEEP = 600.0
"""Seconds that lists of sizes, images and locations are kept: they change seldom, and every create needs them."""


class Library:
    """Belongs to one thread. ``by_name``: servers carry their token in the name, not in metadata."""

    def __init__(self, driver: Any, monotonic: Callable[[], float], *, by_name: bool | None, name_limit: int) -> None:
        self.driver = driver
        self.abilities: Abilities = abilities_of(driver.__class__)
        self.by_name = not self.abilities.metadata if by_name is None else by_name
        self._name_limit = name_limit
        self._monotonic = monotonic
        self._kept: dict[str, tuple[float, list[Any]]] = {}

    # -- reads -----------------------------------------------------------------------------------------------------

    def servers(self) -> list[CloudServer]:
        """All servers of the account, ours and others', but those that are gone."""
        shown = [server(node, by_name=self.by_name) for node in list(self.driver.list_nodes())]
        return [one for one in shown if one.state is not ServerState.DELETED]

    def node(self, provider_id: str) -> Any:
        """The library's object. Raises ServerNotFound."""
        for node in list(self.driver.list_nodes()):
            if str(node.id) == provider_id and self.shown(node).state is not ServerState.DELETED:
                return node
        raise ServerNotFound(f"there is no server {provider_id}")

    def shown(self, node: Any) -> CloudServer:
        return server(node, by_name=self.by_name)

    def console(self, provider_id: str, max_bytes: int) -> str:
        """The end of a server's console output."""
        answer = getattr(self.driver, self.abilities.console)(self.node(provider_id))
        text = answer.get("output", "") if isinstance(answer, Mapping) else answer
        whole = str(text or "").encode()
        return whole[max(0, len(whole) - max_bytes) :].decode(errors="ignore")

    def images(self) -> list[CloudImage]:
        return [CloudImage(id=str(one.id), name=str(one.name or one.id)) for one in self._list("list_images")]

    def flavors(self) -> list[CloudFlavor]:
        return [_flavor(one) for one in self._list("list_sizes")]

    # -- writes ----------------------------------------------------------------------------------------------------

    def create(self, spec: ServerSpec, resource: LibcloudResource, token: str) -> CloudServer:
        """Make a server that carries the token from its first moment on."""
        arguments = self.arguments(spec, resource, token)
        made = self.driver.create_node(**arguments)
        node = made[0] if isinstance(made, (list, tuple)) else made
        shown = self.shown(node)
        # What a create returns is often less than what a listing shows.
        name = shown.name or spec.name
        return CloudServer(
            provider_id=shown.provider_id,
            name=name,
            state=shown.state if shown.state is not ServerState.UNKNOWN else ServerState.BUILD,
            token=token,
            addresses=shown.addresses,
            private_addresses=shown.private_addresses,
            created_at=shown.created_at,
            flavor=shown.flavor or resource.size,
            image=shown.image or resource.image,
        )

    def arguments(self, spec: ServerSpec, resource: LibcloudResource, token: str) -> dict[str, Any]:
        """The keyword arguments of the create call. Raises CloudRejected for what the provider never takes."""
        able = self.abilities
        given: dict[str, Any] = {
            "name": named(spec.name, token, self._name_limit) if self.by_name else spec.name,
            "size": self._choose("list_sizes", "size", resource.size),
            "image": self._image(resource.image),
        }
        if resource.location:
            _need(able.location, "location")
            given["location"] = self._choose("list_locations", "location", resource.location)
        if resource.key_name:
            _need(bool(able.key_name), "key_name")
            given[able.key_name] = resource.key_name
        if resource.ssh_key or resource.password:
            _need(able.auth, "ssh_key" if resource.ssh_key else "password")
            given["auth"] = _auth(resource)
        metadata = dict(resource.metadata)
        if not self.by_name:
            metadata[TOKEN_KEY] = token
        if metadata:
            _need(bool(able.metadata), "metadata")
            given[able.metadata] = metadata
        if spec.user_data:
            if not able.user_data:
                raise CloudRejected(
                    "the provider's driver takes no user data",
                    advice="Use an image that needs no context, or another cloud for this node.",
                )
            given[able.user_data] = spec.user_data
        if able.client_token:
            given[able.client_token] = token
        if not able.takes_any:
            unknown = [name for name in resource.extra if name not in able.arguments]
            _reject_unknown("the provider's create call knows no", unknown, sorted(able.arguments))
        doubled = sorted(name for name in resource.extra if name in given)
        if doubled:
            raise CloudRejected(f"`extra` holds what other keys are for: {', '.join(doubled)}")
        given.update(resource.extra)
        missing = sorted(name for name in able.required if name not in given)
        if missing:
            raise CloudRejected(
                f"the provider's create call needs {', '.join(missing)}",
                advice="Give `location` as a key of its own, the others in `extra`.",
            )
        return given

    def destroy(self, provider_id: str) -> None:
        """Destroy a server; what is gone is no error."""
        try:
            node = self.node(provider_id)
        except ServerNotFound:
            return
        self.driver.destroy_node(node)

    def start(self, provider_id: str) -> None:
        self._power(provider_id, self.abilities.start, ServerState.ACTIVE)

    def stop(self, provider_id: str) -> None:
        self._power(provider_id, self.abilities.stop, ServerState.STOPPED)

    def reboot(self, provider_id: str) -> None:
        self._power(provider_id, self.abilities.reboot, None)

    def _power(self, provider_id: str, method: str, wanted: ServerState | None) -> None:
        node = self.node(provider_id)
        state = self.shown(node).state
        if state is ServerState.BUILD:
            raise CloudBusy(f"the server {provider_id} is being built")
        if state is not wanted:
            getattr(self.driver, method)(node)

    # -- sizes, images, locations ----------------------------------------------------------------------------------

    def _image(self, wanted: str) -> Any:
        if self.abilities.images:
            return self._choose("list_images", "image", wanted)
        if self.abilities.get_image:
            return self.driver.get_image(wanted)
        raise CloudRejected("the provider's driver knows no images")

    def _choose(self, method: str, what: str, wanted: str) -> Any:
        """By id, else by name, if only one is called so."""
        known = self._list(method)
        for one in known:
            if str(one.id) == wanted:
                return one
        called = [one for one in known if one.name == wanted]
        if len(called) == 1:
            return called[0]
        if called:
            ids = ", ".join(str(one.id) for one in called[:10])
            raise CloudRejected(f"{len(called)} are called {wanted!r}", advice=f"Give {what} by its id: {ids}.")
        raise CloudRejected(f"the provider has no {what} {wanted!r}", advice=_near(wanted, known))

    def _list(self, method: str) -> list[Any]:
        until, kept = self._kept.get(method, (0.0, []))
        if not kept or until < self._monotonic():
            kept = list(getattr(self.driver, method)())
            self._kept[method] = (self._monotonic() + _KEEP, kept)
        return kept


def _near(wanted: str, known: Sequence[Any]) -> str:
    names = [str(one.id) for one in known] + [str(one.name) for one in known if one.name]
    close = difflib.get_close_matches(wanted, names, 3)
    if close:
        return f"Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?"
    return f"There are: {', '.join(str(one.id) for one in known[:20]) or 'none'}{', ...' if len(known) > 20 else ''}."


def _need(there: bool, key: str) -> None:
    if not there:
        raise CloudRejected(f"the provider's driver takes no `{key}`", advice=f"Leave `{key}` out of the resource.")


def _auth(resource: LibcloudResource) -> Any:
    from libcloud.compute.base import NodeAuthPassword, NodeAuthSSHKey

    return NodeAuthSSHKey(resource.ssh_key) if resource.ssh_key else NodeAuthPassword(resource.password)


def _flavor(size: Any) -> CloudFlavor:
    extra = getattr(size, "extra", None) or {}
    cpus = next((extra[key] for key in ("vcpus", "cpu", "cpus", "guestCpus") if extra.get(key)), None)
    cpus = getattr(size, "vcpus", None) or getattr(size, "cpu", None) or cpus
    price = getattr(size, "price", None)
    return CloudFlavor(
        id=str(size.id),
        name=str(size.name or size.id),
        vcpus=_number(cpus),
        ram_mb=None if _number(size.ram) is None else int(size.ram),
        disk_gb=_number(size.disk),
        price_per_hour=_number(price) or None,
        currency="USD" if _number(price) else "",
    )


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _reject_unknown(what: str, unknown: list[str], known: list[str]) -> None:
    """Raises CloudRejected if there is anything unknown, with what is known."""
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise CloudRejected(
            f"{what} {', '.join(map(repr, sorted(unknown)))}", advice=f"{hint}It takes: {', '.join(known) or 'none'}."
        )
