"""The SDK's connection to one account, as the driver uses it from its threads.

Retries of the SDK are off: operations repeats what may be repeated. A service is used only when its discovery worked in
full. A half-failed one (the SDK then guesses an endpoint and forgets microversions) would make a wrong request out of a
short outage, and the cloud's refusal of that would be final.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import keystoneauth1.exceptions
import keystoneauth1.identity.base
import keystoneauth1.session
import openstack.config
import openstack.connection
import openstack.exceptions
import openstack.proxy
from openstack.block_storage.v3._proxy import Proxy as BlockStorage
from openstack.compute.v2._proxy import Proxy as Compute
from openstack.image.v2._proxy import Proxy as Image
from openstack.network.v2._proxy import Proxy as Network

from pelagos.clouds.errors import CloudAuthFailed, CloudRejected, CloudUnreachable
from pelagos.clouds.openstack.errors import NO_SERVICE, translate
from pelagos.clouds.openstack.exchange import DeadlinePassed, Exchange, WatchedSession
from pelagos.clouds.openstack.options import OpenStackAccount
from pelagos.model.errors import InvalidInput, Unsupported

__all__ = ["BlockStorage", "Client", "Compute", "Image", "Network", "check_scope", "connect"]

P = TypeVar("P", bound=openstack.proxy.Proxy)

_SERVICES = ("compute", "network", "block_storage", "image")


class Client:
    """One account's services, for calls in threads; each only within :meth:`during`.

    ``connect`` makes the SDK's connection, for a project if one is given; it is called at once, so raises what it
    raises."""

    def __init__(
        self, connect: Callable[[str | None], openstack.connection.Connection], session: WatchedSession
    ) -> None:
        self._connect = connect
        self._connection = connect(None)
        self._session = session
        self._lock = threading.Lock()
        self._project = ""

    @contextlib.contextmanager
    def during(self, exchange: Exchange) -> Iterator[None]:
        """The requests of this thread belong to ``exchange``."""
        exchange.begun = True
        with self._session.during(exchange):
            yield

    def compute(self) -> Compute:
        """Nova. The others alike: all raise CloudAuthFailed, CloudUnreachable, Unsupported and what the SDK raises."""
        return self._service("compute", Compute)

    def network(self) -> Network:
        """Neutron."""
        return self._service("network", Network)

    def block_storage(self) -> BlockStorage:
        """Cinder."""
        return self._service("block_storage", BlockStorage)

    def image(self) -> Image:
        """Glance."""
        return self._service("image", Image)

    def optional(self, service: Callable[[], P]) -> P | None:
        """What ``service`` (one of the methods above) gives, or None if the catalogue has no such service."""
        try:
            return service()
        except Unsupported:
            return None

    @property
    def project(self) -> str:
        """Id of the project that the account works in."""
        self._ready()
        return self._project

    @property
    def region(self) -> str:
        """Name of the region; empty if the account names none."""
        return self._connection.config.get_region_name() or ""

    def close(self) -> None:
        """Let the connections go."""
        self._session.close()

    def _ready(self) -> None:
        """Log in, once; later the SDK does it again by itself when the token is old."""
        with self._turn():
            if not self._project:
                self._project = self._connection.session.get_project_id() or self._only_project()

    def _only_project(self) -> str:
        """The account names no project and its user has no default one: the only one, then."""
        session = self._connection.session
        auth_url = str(self._connection.config.config["auth"]["auth_url"]).rstrip("/")
        answer = session.get(f"{auth_url}/auth/projects").json()
        projects = {str(one["id"]): str(one["name"]) for one in answer["projects"] if one.get("enabled", True)}
        if len(projects) != 1:
            listed = ", ".join(f"{key} ({name})" for key, name in sorted(projects.items()))
            raise CloudAuthFailed(
                f"the account names no project, and its user has {len(projects)}",
                advice=f"Give the account `project_id`: {listed}." if projects else "Ask for a role in a project.",
                details={"projects": projects},
            )
        project = next(iter(projects))
        self._connection = self._connect(project)
        return project

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One thread at a time, none longer than its call may take."""
        if not self._lock.acquire(timeout=max(0.0, self._session.exchange.left)):
            raise DeadlinePassed
        try:
            yield
        finally:
            self._lock.release()

    def _service(self, name: str, kind: type[P]) -> P:
        self._ready()
        exchange = self._session.exchange
        with self._turn():
            try:
                proxy = getattr(self._connection, name)
                data = proxy.get_endpoint_data()
            except NO_SERVICE as error:
                raise translate(error, exchange, f"use the service {name}") from error
            if exchange.failed:
                self._connection._proxies.pop(str(proxy.service_type), None)
                raise CloudUnreachable(f"the service {name} does not answer")
        if not isinstance(proxy, kind) or data is None:
            raise Unsupported(
                f"the cloud has no {name} service of a version that openstacksdk knows",
                advice="Check `region_name`, `interface` and `endpoints` of the account.",
            )
        return proxy


def connect(
    account: OpenStackAccount, session: WatchedSession, environ: Mapping[str, str], project_id: str | None = None
) -> openstack.connection.Connection:
    """The SDK's connection for an account, in ``project_id`` if given; reads files, and asks nothing of the cloud.

    Raises InvalidInput for a cloud that the file lacks or a file that cannot be read."""
    construct: Callable[..., Any] = functools.partial(keystoneauth1.session.Session, session=session)
    files: list[str] | None = None
    if account.clouds_file or environ.get("OS_CLIENT_CONFIG_FILE"):
        path = Path(account.clouds_file or environ["OS_CLIENT_CONFIG_FILE"]).expanduser()
        if account.cloud and not path.is_file():
            raise InvalidInput(f"there is no file {path}", advice="Name it in `clouds_file` of the account.")
        files = [str(path)]
    given: dict[str, Any] = {
        "auth": {**account.auth(), **({"project_id": project_id} if project_id else {})},
        "region_name": account.region or account.region_name or None,
        "interface": account.interface or None,
        "cacert": account.cacert or None,
        **({} if account.verify else {"verify": False}),
        **{f"{service}_endpoint_override": url for service, url in account.endpoints.items()},
        **{f"{service}_{kind}_retries": 0 for service in _SERVICES for kind in ("connect", "status_code")},
    }
    if account.application_credential is not None:
        given["auth_type"] = "v3applicationcredential"
    elif not account.cloud:
        given["auth_type"] = "v3password"
    try:
        loader = openstack.config.OpenStackConfig(
            config_files=files,
            secure_files=None if files is None else [str(Path(files[0]).with_name("secure.yaml"))],
            load_yaml_config=bool(account.cloud),
            load_envvars=False,
            session_constructor=construct,  # type: ignore[arg-type]  # called, never inspected
            app_name="pelagos",
        )
        region = loader.get_one(cloud=account.cloud or None, **{k: v for k, v in given.items() if v is not None})
        connection = openstack.connection.Connection(config=region, strict_proxies=True)
    except (openstack.exceptions.SDKException, OSError) as error:
        raise InvalidInput(
            f"the account's cloud {account.cloud or account.identity!r} cannot be used: {error}",
            advice="See `cloud`, `clouds_file` and the credentials of the account.",
        ) from error
    login = connection.session.auth
    if isinstance(login, keystoneauth1.identity.base.BaseIdentityPlugin):
        login._lock = _LoginLock(session)  # type: ignore[assignment]
    return connection


class _LoginLock:
    """In place of the lock that the SDK's login plug-in holds while it logs in.

    That one has no time-out; and if an identity service wants a token before it says which versions it has, the plug-in
    waits for itself, for ever, and the thread with it."""

    def __init__(self, session: WatchedSession) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._session = session

    def __enter__(self) -> None:
        if self._holder == threading.get_ident():
            raise keystoneauth1.exceptions.Unauthorized("the identity service wants a token before it gives one")
        if not self._lock.acquire(timeout=max(0.0, self._session.exchange.left)):
            raise DeadlinePassed
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = None
        self._lock.release()


def check_scope(client: Client, project_id: str, region_name: str) -> None:
    """Raise CloudRejected if a resource names another project or region than the account's."""
    for word, wanted, actual in (("project", project_id, client.project), ("region", region_name, client.region)):
        if wanted and actual and wanted != actual:
            raise CloudRejected(
                f"the resource is for the {word} {wanted!r}, and the account works in {actual!r}",
                advice=f"Add an account for that {word} to the pool, and name it in the resource's `name`.",
            )
