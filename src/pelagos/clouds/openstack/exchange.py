"""What one call said to the cloud, watched where the SDK speaks HTTP: so one knows whether an effect is possible.

openstacksdk and keystoneauth put identity, discovery, pagination and a renewed token around each call, and turn all
that goes wrong into a few exceptions. Whether a create may have happened can only be told below them: it may, from the
moment its request goes out until an answer says otherwise. Here too each request gets its time-out, so that no socket
waits longer than the call may, and none is sent after the deadline.

Mapping the SDK's exceptions alone was not chosen: a refused connection and a reset in the middle of a create are both
``ConnectFailure`` there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions

__all__ = ["DeadlinePassed", "Exchange", "WatchedSession"]

_MARGIN = 0.05
_READS = ("GET", "HEAD", "OPTIONS")


class DeadlinePassed(Exception):
    """The call's time was over before this request: it was not sent."""


class Exchange:
    """One call's requests. ``deadline`` is on ``clock``; ``effect``: the call is one that changes something."""

    def __init__(self, clock: Callable[[], float], deadline: float, socket_timeout: float, *, effect: bool) -> None:
        self.effect = effect
        self.begun = False
        """A thread has taken it up."""
        self.uncertain = False
        """A request that changes something went out, and no answer said that it changed nothing."""
        self.happened = False
        """Such a request was answered by a success, whatever becomes of that answer."""
        self.failed = False
        """Some request got no answer, or one that speaks of a fault of the cloud."""
        self.requests = 0
        self._clock = clock
        self._deadline = deadline
        self._socket_timeout = socket_timeout

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._clock()

    def sending(self, method: str, url: str) -> float:
        """Note that a request goes out; how long it may wait. Raises DeadlinePassed."""
        left = self.left
        if left <= 0:
            raise DeadlinePassed
        self.requests += 1
        if self.effect and method.upper() not in _READS and not url.rstrip("/").endswith("/auth/tokens"):
            self.uncertain = True
        return min(self._socket_timeout, max(left - _MARGIN, left / 2))

    def answered(self, status: int) -> None:
        """Note the answer. 503 comes from a front end that reached nobody; other 5xx say nothing of the effect."""
        self.failed = self.failed or status >= 500
        self.happened = self.happened or (self.uncertain and status < 300)
        if status < 500 or status == 503:
            self.uncertain = False

    def broken(self, error: requests.RequestException) -> None:
        """Note that no answer came."""
        self.failed = True
        if _never_sent(error):
            self.uncertain = False


class WatchedSession(requests.Session):
    """The HTTP session of an account; each thread says which exchange its requests belong to."""

    def __init__(self, connections: int) -> None:
        super().__init__()
        self._local = threading.local()
        adapter = requests.adapters.HTTPAdapter(pool_connections=16, pool_maxsize=connections, max_retries=0)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    @contextlib.contextmanager
    def during(self, exchange: Exchange) -> Iterator[None]:
        """What this thread asks until the end of the block belongs to ``exchange``."""
        self._local.exchange = exchange
        try:
            yield
        finally:
            self._local.exchange = None

    @property
    def exchange(self) -> Exchange:
        """This thread's. Raises RuntimeError outside of a call: nobody may ask a cloud without a deadline."""
        exchange: Exchange | None = getattr(self._local, "exchange", None)
        if exchange is None:
            raise RuntimeError("a request to the cloud outside of a call")
        return exchange

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        """As in requests, within the thread's exchange."""
        exchange = self.exchange
        options["timeout"] = exchange.sending(str(method), str(url))
        try:
            response = super().request(method, url, *args, **options)
        except requests.RequestException as error:
            exchange.broken(error)
            raise
        exchange.answered(response.status_code)
        return response


def _never_sent(error: requests.RequestException) -> bool:
    """Whether the connection was never made."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    reason = error.args[0] if error.args else None
    if isinstance(reason, urllib3.exceptions.MaxRetryError):
        reason = reason.reason
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
