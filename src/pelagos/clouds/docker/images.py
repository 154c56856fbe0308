"""Images: where each comes from, and how it gets to the engine once, however many creates wait for it.

A create does not ask whether its image is there: the engine says so if it is not, and has made nothing then. Only an
imported image is asked for, because a name alone does not say which tarball it was made of: a label does.

A pull may take much longer than a create. So it goes on in a thread of its own with a time-out of its own; each create
waits for it a while and then says CloudBusy, having certainly made nothing, and is sent again later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import docker.errors
import msgspec

from pelagos.clouds.docker.containers import NAMESPACE, is_below
from pelagos.clouds.docker.engine import Call, Client, Engine
from pelagos.clouds.docker.errors import said_by, translate
from pelagos.clouds.docker.options import DockerAccount, DockerResource
from pelagos.clouds.errors import CloudBusy, CloudCapacity, CloudRejected, CloudUnreachable
from pelagos.model.errors import PelagosError
from pelagos.model.workers import Job

__all__ = ["ImageSource", "Images", "image_source"]

ORIGIN = f"{NAMESPACE}.origin"
HUB = "docker.io"

_UNREACHABLE = ("dial tcp", "connection refused", "connection reset", "no such host", "timeout", "deadline", "tls: ")
_NEVER = (
    "access to the resource is denied",
    "denied",
    "invalid reference",
    "manifest unknown",
    "manifest invalid",
    "name unknown",
    "no matching manifest",
    "no such image",
    "not found",
    "unauthorized",
)


class ImageSource(msgspec.Struct, frozen=True, kw_only=True):
    """An image and where it comes from."""

    reference: str
    """What a container is made from: ``docker.io/library/nginx:1.27``, ``localhost/imported:latest``, ..."""
    registry: str = ""
    """Pulled from there."""
    tarball: str = ""
    """Imported: a URL that the engine fetches, or ``file://`` and a path that is read here."""


def image_source(resource: DockerResource, account: DockerAccount) -> ImageSource:
    """Where the image of a resource comes from. Raises CloudRejected for a tarball that may not be read. Pure."""
    origin, image = resource.origin, f"{resource.image}:{resource.tag}"
    if origin == "local":
        return ImageSource(reference=image)
    if origin in ("dockerhub", ""):
        library = "" if "/" in image else "library/"
        return ImageSource(reference=f"{HUB}/{library}{image}", registry=HUB)
    if origin.startswith(("http://", "https://")):
        return ImageSource(reference=f"localhost/{image}", tarball=origin)
    if origin.startswith("file://"):
        path = unquote(urlsplit(origin).path)
        if not is_below(path, account.tarballs):
            raise CloudRejected(
                f"the tarball {path} of this machine may not be imported",
                advice="Add its directory to `tarballs` in the options of the account.",
            )
        return ImageSource(reference=f"localhost/{image}", tarball=f"file://{path}")
    if "://" in origin:
        raise CloudRejected(
            f"images cannot come from {origin!r}",
            advice="An `origin` is dockerhub, local, a registry's name, or the URL (http, https, file) of a tarball.",
        )
    prefix = origin.strip("/")
    return ImageSource(reference=f"{prefix}/{image}", registry=prefix.partition("/")[0])


class Images:
    """The images of one engine."""

    def __init__(self, engine: Engine, account: DockerAccount) -> None:
        self._engine = engine
        self._account = account
        self._under_way: dict[str, Job[PelagosError | None]] = {}

    async def imported(self, source: ImageSource, *, timeout: float) -> bool:
        """Whether the image of that name is the one that was imported from this tarball."""
        origin = await self._engine.read("inspect", lambda _: _identity(source), timeout)

        def look(client: Client) -> bool:
            try:
                image = client.inspect_image(source.reference)  # type: ignore[no-untyped-call]
            except docker.errors.NotFound:
                return False
            labels = (image.get("Config") or {}).get("Labels") or {}
            return bool(labels.get(ORIGIN) == origin)

        return await self._engine.read("inspect", look, timeout)

    async def fetch(self, source: ImageSource, *, within: float) -> None:
        """Pull or import the image, or join whoever does, for at most ``within`` seconds.

        Raises CloudBusy if it takes longer (and goes on), CloudRejected if there is no such image or it is not there
        and comes from nowhere, CloudUnreachable if the registry cannot be reached. No container was made."""
        if not source.registry and not source.tarball:
            raise CloudRejected(
                f"the engine has no image {source.reference}",
                advice="Make it there, or say in `origin` where it comes from: dockerhub, a registry, a tarball.",
            )
        job = self._under_way.get(source.reference)
        if job is None:
            job = self._engine.fetch(lambda call: self._bring(call, source), self._account.pull_timeout)
            self._under_way[source.reference] = job
            job.future.add_done_callback(lambda _: self._under_way.pop(source.reference, None))
        try:
            async with asyncio.timeout(within):
                failed = await asyncio.shield(job.future)
        except TimeoutError as error:
            raise CloudBusy(f"the image {source.reference} is still on its way to the engine") from error
        if failed is not None:
            raise type(failed)(failed.message, advice=failed.advice, retry_after=failed.retry_after)

    def snapshot(self) -> list[str]:
        """The images that are on their way."""
        return sorted(self._under_way)

    def _bring(self, call: Call, source: ImageSource) -> PelagosError | None:
        """Pull or import; blocks. Why it failed, or None."""
        what = f"{'pull' if source.registry else 'import'} {source.reference}"
        try:
            with self._engine.client(call) as client:
                if source.registry:
                    _pull(client, source, self._account)
                else:
                    _import(client, source)
        except PelagosError as error:
            return error
        except _Told as error:
            return _judge(what, str(error), imported=bool(source.tarball))
        except docker.errors.APIError as error:
            if error.status_code in (401, 403, 404, 500):
                return _judge(what, said_by(error), imported=bool(source.tarball))
            return translate(error, what, reads=True)
        except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must be told
            return translate(error, what, reads=True)
        return None


class _Told(Exception):
    """The engine said in the stream of its answer what went wrong."""


def _pull(client: Client, source: ImageSource, account: DockerAccount) -> None:
    repository, _, tag = source.reference.rpartition(":")
    login = account.registries.get(source.registry)
    credentials = {} if login is None else {"username": login.username, "password": login.password}
    # An empty mapping keeps the SDK from asking this user's own configuration of Docker.
    for line in client.pull(repository, tag=tag, stream=True, decode=True, auth_config=credentials):
        _check([line])


def _import(client: Client, source: ImageSource) -> None:
    changes = [f"LABEL {ORIGIN}={json.dumps(_identity(source))}"]
    if source.tarball.startswith("file://"):
        path = source.tarball.removeprefix("file://")
        said = client.import_image_from_file(path, repository=source.reference, changes=changes)
    else:
        said = client.import_image_from_url(source.tarball, repository=source.reference, changes=changes)
    _check(json.loads(line) for line in said.splitlines() if line.strip())


def _identity(source: ImageSource) -> str:
    """What the label of an imported image says: the tarball's address and, where we can see it, its state.

    Raises CloudRejected if it is a file of this machine that cannot be read."""
    if not source.tarball.startswith("file://"):
        return source.tarball
    path = Path(source.tarball.removeprefix("file://"))
    try:
        facts = path.stat()
    except OSError as error:
        raise CloudRejected(
            f"the tarball {path} cannot be read: {error.strerror}", advice="Check `origin` in the node's resource."
        ) from error
    return f"{source.tarball}#{facts.st_size}-{facts.st_mtime_ns}"


def _check(lines: Iterable[Any]) -> None:
    for line in lines:
        if isinstance(line, dict) and line.get("error"):
            raise _Told(str(line["error"]))


def _judge(what: str, words: str, *, imported: bool) -> PelagosError:
    """Why there is no image. Engines pass on the registry's words, with a status of their own that says little."""
    lower, message = words.lower(), f"{what}: {words}"
    if "no space left" in lower:
        return CloudCapacity(message)
    if any(known in lower for known in _UNREACHABLE):
        return CloudUnreachable(message)
    if "toomanyrequests" in lower or "rate limit" in lower:
        return CloudBusy(message, advice="Log in to the registry (`registries` in the account's options).")
    if "unauthorized" in lower or "denied" in lower:
        return CloudRejected(message, advice="Check the image's name, and `registries` in the account's options.")
    if imported or any(known in lower for known in _NEVER):
        return CloudRejected(message, advice="Check `origin`, `image` and `tag` in the node's resource.")
    return CloudUnreachable(message)
