"""An engine by the SDK: blocking calls in a bounded number of threads, each with a deadline and an honest end.

The SDK knows one time-out for all its calls and none for some. So :class:`Client` puts each request's own into it:
what is left of the call that its thread works on. It also says when a request with an effect leaves, and that decides
what a call is whose time is over: nothing left, so nothing was done and nothing will be (the thread is told); or
something did, and nobody can know.

A call that nobody waits for any more, because its deadline passed or it was cancelled, goes on in its thread until its
sockets give up, and its place among the threads is free only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import docker
import docker.constants
import docker.errors
import docker.tls
import requests
from docker.transport import unixconn

from pelagos.clouds.docker.errors import SDK_ERRORS, NotSent, translate
from pelagos.clouds.docker.options import DockerAccount
from pelagos.clouds.errors import CloudUncertain, CloudUnreachable
from pelagos.model.workers import Job
from pelagos.model.world import World

__all__ = ["Call", "Client", "Engine"]

T = TypeVar("T")

_NO_PING = (400, 404, 405, 410, 501)
"""What answers these to a ping knows none, and is something else. It is no refusal, which would count as an answer."""


class Call:
    """One call: its deadline, and how far it got. Shared by the coroutine that waits and the thread that works."""

    def __init__(self, clock: Callable[[], float], timeout: float) -> None:
        self._clock = clock
        self._deadline = clock() + timeout
        # Its own answer must be there before whoever waits gives up.
        self._margin = min(0.5, timeout / 10)
        self._lock = threading.Lock()
        self._given_up = False
        self._sent = False

    def left(self) -> float:
        """Seconds that the thread has, 0 or less: none."""
        return self._deadline - self._margin - self._clock()

    def sending(self) -> None:
        """A request with an effect leaves now. Raises NotSent if it must not."""
        with self._lock:
            if self._given_up or self.left() <= 0:
                raise NotSent
            self._sent = True

    def give_up(self) -> bool:
        """Nobody waits any more: nothing with an effect leaves from now on. Whether nothing had."""
        with self._lock:
            self._given_up = True
            return not self._sent


class Client(docker.APIClient):
    """The SDK's client, whose requests take their time-out from the call that their thread works on."""

    def __init__(self, account: DockerAccount, version: str) -> None:
        self._calls = threading.local()
        tls: bool | docker.tls.TLSConfig = False
        if account.tls is not None:
            cert, key = account.tls.cert, account.tls.key
            pair = (cert, key) if cert is not None and key is not None else None
            tls = docker.tls.TLSConfig(client_cert=pair, ca_cert=account.tls.ca, verify=account.tls.verify)
        super().__init__(
            base_url=account.endpoint, version=version, tls=tls, max_pool_size=Engine.THREADS + Engine.FETCHES
        )
        self.trust_env = False
        if account.endpoint.startswith("unix://"):
            self.mount("http+docker://", _UnixAdapter(account.endpoint))

    @contextlib.contextmanager
    def during(self, call: Call) -> Iterator[None]:
        """This thread's requests are the call's."""
        self._calls.current = call
        try:
            yield
        finally:
            self._calls.current = None

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        """As in the SDK. Raises NotSent when the call's time is over."""
        call: Call = self._calls.current
        if method not in ("GET", "HEAD"):
            call.sending()
        left = call.left()
        if left <= 0:
            raise NotSent
        options["timeout"] = left
        return super().request(method, url, *args, **options)

    def check(self, reply: requests.Response) -> None:
        """Raise the SDK's error if the reply says that the request failed."""
        try:
            reply.raise_for_status()
        except requests.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)

    def go_on(self) -> None:
        """Between two pieces of a long reply: raises requests.Timeout when the call's time is over."""
        call: Call = self._calls.current
        if call.left() <= 0:
            raise requests.Timeout("the answer goes on, and its time is over")

    def address_of(self, path: str) -> str:
        """The URL of an endpoint, ``/exec/...``, for requests that the SDK has no verb for."""
        return f"{self.base_url}/v{self.api_version}{path}"


class _UnixConnection(unixconn.UnixHTTPConnection):
    """The SDK's, but for the socket that it leaves open where nobody listens."""

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _UnixPool(unixconn.UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        return _UnixConnection(self.base_url, self.socket_path, cast(int, self.timeout))


class _UnixAdapter(unixconn.UnixHTTPAdapter):
    """One pool, for there is one engine."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint.replace("unix://", "http+unix://", 1))
        places = Engine.THREADS + Engine.FETCHES
        self._pool = _UnixPool("http+docker://localhost", self.socket_path, self.timeout, maxsize=places)

    def get_connection(self, url: str | bytes, proxies: object = None) -> _UnixPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


class Engine:
    """The engine of one account."""

    THREADS = 8
    """Calls at once."""
    FETCHES = 2
    """Pulls and imports of images at once, besides."""

    def __init__(self, account: DockerAccount, world: World) -> None:
        self._account = account
        self._world = world
        self._client: Client | None = None
        self.podman = False
        """Whether it is podman's, as it said at the first call."""
        self._connecting = threading.Lock()
        self._threads = world.workers("docker", self.THREADS)
        self._fetches = world.workers("docker-images", self.FETCHES)
        self.calls: Counter[str] = Counter()

    async def read(self, what: str, function: Callable[[Client], T], timeout: float) -> T:
        """What ``function`` says, which only reads. Raises CloudUnreachable and what :func:`translate` gives."""
        self.calls[what.partition(" ")[0]] += 1
        call = Call(self._world.monotonic, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await self._run(function, call)
        except TimeoutError as error:
            raise CloudUnreachable(f"{what}: no answer within {timeout:g} s") from error
        except (*SDK_ERRORS, NotSent, ValueError) as error:
            raise translate(error, what, reads=True) from error

    async def write(self, what: str, function: Callable[[Client], T], timeout: float, *, makes: bool = False) -> T:
        """What ``function`` says, which has an effect. Raises CloudUncertain and what :func:`translate` gives."""
        self.calls[what.partition(" ")[0]] += 1
        call = Call(self._world.monotonic, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await self._run(function, call)
        except TimeoutError as error:
            if call.give_up():
                raise CloudUnreachable(f"{what}: it could not be sent within {timeout:g} s") from error
            raise CloudUncertain(f"{what}: no answer within {timeout:g} s; it may have been done") from error
        except (*SDK_ERRORS, NotSent, ValueError) as error:
            # What failed before anything with an effect was sent only read until then.
            raise translate(error, what, reads=call.give_up(), makes=makes) from error

    def fetch(self, work: Callable[[Call], T], timeout: float) -> Job[T]:
        """Have a pull or an import done, which uses :meth:`client`, in one of the threads that are kept for them.

        It goes on whoever waits; ``timeout`` counts from its beginning. Only inside a running loop."""
        return self._fetches.submit(lambda: work(Call(self._world.monotonic, timeout)))

    @contextlib.contextmanager
    def client(self, call: Call) -> Iterator[Client]:
        """The SDK's client for the call that this thread works on; connects first where nobody has."""
        with self._connecting:
            client = self._client or self._connect(call)
            self._client = client
        with client.during(call):
            yield client

    def close(self) -> None:
        """Let go of the threads, and of the connections that are not in use."""
        self._threads.close()
        self._fetches.close()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def version(self) -> str:
        """Of the API, as negotiated; empty before the first call."""
        return self._client.api_version if self._client is not None else ""

    def _connect(self, call: Call) -> Client:
        """Ask for the version of the API by ping: the SDK's own question costs podman a second of work."""
        with Client(self._account, docker.constants.MINIMUM_DOCKER_API_VERSION) as probe, probe.during(call):
            reply = probe.get(f"{probe.base_url}/_ping")
            if reply.status_code not in _NO_PING:
                probe.check(reply)
        version = reply.headers.get("Api-Version")
        if not version or reply.status_code in _NO_PING:
            said = "" if reply.ok else f": it answers {reply.status_code} to a ping"
            raise CloudUnreachable(
                f"what answers at {self._account.endpoint} is no Docker engine{said}",
                advice="Check `endpoint` in the options of the account.",
            )
        self.podman = "Libpod-API-Version" in reply.headers
        return Client(self._account, version)

    async def _run(self, function: Callable[[Client], T], call: Call) -> T:
        def work() -> T:
            with self.client(call) as client:
                return function(client)

        job = self._threads.submit(work)
        try:
            return await job.future
        finally:
            job.withdraw()
