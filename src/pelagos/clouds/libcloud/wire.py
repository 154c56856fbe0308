"""What a call sends over Libcloud's connections: time-outs from its deadline, and a ledger of what was sent.

Libcloud gives one time-out to a connection for its whole life, and an exception does not tell whether an earlier
request of the same verb has had its effect. So the connections of an account are watched: each request gets what is
left of the call's deadline as its socket time-out, none is sent after it, and the ledger notes what was answered.
Libcloud's own repeating of failed requests, which does not look at the verb, is taken out, whatever the environment
says of it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Expired", "Ledger", "may_change", "noting", "watch", "watch_connection"]

_SHARE = 0.9
"""Of what is left until the deadline, for one request's socket."""
_LEAST = 0.05
_LOG_IN = ("/tokens", "/token", "/login", "/auth")
_READING = ("Describe", "Get", "List", "list", "get", "query")

_current = threading.local()


class Expired(Exception):
    """The deadline passed before the request was sent; it was not."""


class Ledger:
    """What one call has sent so far."""

    def __init__(self, deadline: float, monotonic: Callable[[], float]) -> None:
        self._deadline = deadline
        self._monotonic = monotonic
        self.requests = 0
        self.status = 0
        """Of the last answer."""
        self.headers: Mapping[str, str] = {}
        self.effects = 0
        """Requests that may change something and were answered by success."""
        self.unanswered = False
        """Whether the last request has no answer."""
        self.unanswered_effect = False
        """Whether it may have changed something."""

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._monotonic()

    def admit(self) -> None:
        """Raises :class:`Expired` once the deadline has passed."""
        if self.left <= 0:
            raise Expired

    @property
    def socket_timeout(self) -> float:
        """Shorter than the deadline, so that the thread is back before the caller goes."""
        return max(_LEAST, self.left * _SHARE)

    def sending(self, method: str, url: str) -> None:
        """A request goes out."""
        self.admit()
        self.requests += 1
        self.status, self.headers = 0, {}
        self.unanswered = True
        self.unanswered_effect = may_change(method, url)

    def answered(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """It was answered."""
        self.status, self.headers = status, headers or {}
        if self.unanswered_effect and status < 400:
            self.effects += 1
        self.unanswered = self.unanswered_effect = False

    def forget(self) -> None:
        """What was sent so far was no part of the verb (a log-in)."""
        self.requests = self.effects = 0
        self.unanswered = self.unanswered_effect = False


def may_change(method: str, url: str) -> bool:
    """Whether a request may have an effect: by its method, or by the action that query APIs name in the URL.

    A log-in has none that matters."""
    parts = urlsplit(url)
    if method.upper() in ("HEAD", "OPTIONS") or parts.path.rstrip("/").endswith(_LOG_IN):
        return False
    query = parse_qs(parts.query)
    action = (query.get("Action") or query.get("command") or [""])[0]
    if action:
        return not action.startswith(_READING)
    return method.upper() != "GET"


@contextlib.contextmanager
def noting(ledger: Ledger) -> Iterator[None]:
    """What this thread sends goes into ``ledger``."""
    _current.ledger = ledger
    try:
        yield
    finally:
        _current.ledger = None


def watch(driver: Any) -> Any:
    """Have the driver's own connection watched; returns the driver. Drivers without one are left alone."""
    from libcloud.common.base import Connection

    connection = getattr(driver, "connection", None)
    if isinstance(connection, Connection):
        watch_connection(connection)
    return driver


def watch_connection(connection: Any) -> None:
    """As :func:`watch`, for one connection."""
    connection.conn_class = _watched(connection.conn_class)
    connection.retryCls = _once
    connection.connection = None  # the next request makes it anew, as a watched one


def _once(**_: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """In place of Libcloud's class that repeats."""
    return lambda function: function


@functools.cache
def _watched(conn_class: type) -> type:
    """The class of the library's HTTP connection, watched."""

    class Watched(conn_class):  # type: ignore[misc]
        def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
            ledger: Ledger | None = getattr(_current, "ledger", None)
            if ledger is None:
                return super().request(method, url, *arguments, **options)
            ledger.sending(method, url)
            self.session.timeout = ledger.socket_timeout
            result = super().request(method, url, *arguments, **options)
            ledger.answered(self.response.status_code, self.response.headers)
            return result

    return Watched
