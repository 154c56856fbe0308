"""What exceptions of Libcloud and of its HTTP library mean, with and without an effect before them."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import requests
from libcloud.common.exceptions import BaseHTTPError, RateLimitReachedError
from libcloud.common.types import InvalidCredsError, LibcloudError, MalformedResponseError, ProviderError
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, ProtocolError

from pelagos.clouds import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudError,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    CloudUnreachable,
    ServerNotFound,
)
from pelagos.clouds.libcloud.failures import scrubber, translate
from pelagos.clouds.libcloud.wire import Expired, Ledger, may_change
from pelagos.model.errors import PelagosError, Unsupported


def ledger(*, effects: int = 0, sent: bool = False) -> Ledger:
    one = Ledger(10.0, lambda: 0.0)
    for _ in range(effects):
        one.sending("POST", "/servers")
        one.answered(200)
    if sent:
        one.sending("POST", "/servers")
    return one


def refused(reason: Exception) -> requests.ConnectionError:
    return requests.ConnectionError(MaxRetryError(None, "/?Signature=abc", reason))  # type: ignore[arg-type]


def not_connected() -> Exception:
    error = NewConnectionError(None, "no")  # type: ignore[arg-type]
    error.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    return refused(error)


CASES: list[tuple[Exception, type[PelagosError], type[PelagosError]]] = [
    # exception, what it means for a read, what for a create
    (InvalidCredsError("no"), CloudAuthFailed, CloudAuthFailed),
    (BaseHTTPError(401, "no"), CloudAuthFailed, CloudAuthFailed),
    (BaseHTTPError(400, "bad"), CloudRejected, CloudRejected),
    (BaseHTTPError(404, "none"), ServerNotFound, CloudRejected),
    (BaseHTTPError(409, "busy"), CloudBusy, CloudBusy),
    (BaseHTTPError(413, "quota"), CloudCapacity, CloudCapacity),
    (BaseHTTPError(500, "oops"), CloudUnreachable, CloudUncertain),
    (BaseHTTPError(502, "oops"), CloudUnreachable, CloudUncertain),
    (BaseHTTPError(503, "later"), CloudUnreachable, CloudUnreachable),
    (BaseHTTPError(504, "slow"), CloudUnreachable, CloudUncertain),
    (ProviderError("no", 400), CloudRejected, CloudRejected),
    (RateLimitReachedError(headers={"retry-after": "7"}), CloudRateLimited, CloudRateLimited),
    (requests.ReadTimeout(), CloudUnreachable, CloudUncertain),
    (
        requests.ConnectionError(ProtocolError("aborted", ConnectionResetError(errno.ECONNRESET, "x"))),
        CloudUnreachable,
        CloudUncertain,
    ),
    (requests.exceptions.ChunkedEncodingError("cut"), CloudUnreachable, CloudUncertain),
    (not_connected(), CloudUnreachable, CloudUnreachable),
    (refused(ConnectTimeoutError()), CloudUnreachable, CloudUnreachable),
    (MalformedResponseError("odd"), CloudUnreachable, CloudUncertain),
    (Expired(), CloudUnreachable, CloudUnreachable),
    (NotImplementedError(), Unsupported, Unsupported),
    (ConnectionResetError(errno.ECONNRESET, "x"), CloudUnreachable, CloudUncertain),
]


@pytest.mark.parametrize(("error", "read", "create"), CASES, ids=lambda one: getattr(one, "__name__", str(one)[:20]))
def test_classes_and_statuses(error: Exception, read: type[PelagosError], create: type[PelagosError]) -> None:
    assert type(translate(error, ledger(), False, "list_nodes")) is read
    assert type(translate(error, ledger(sent=True), True, "create_node")) is create
    after = translate(error, ledger(effects=1), True, "create_node")
    assert type(after) is CloudUncertain, "the first step of the create had its effect"


def test_what_the_library_says_without_sending_anything_is_a_refusal() -> None:
    for error in (ValueError("bad size"), LibcloudError("bad size", None), KeyError("bad size")):
        meant = translate(error, ledger(), True, "create_node")
        assert type(meant) is CloudRejected
        assert "bad size" in str(meant)
        assert type(translate(error, ledger(sent=True), True, "create_node")) is CloudUncertain
        assert type(translate(error, ledger(), False, "list_nodes")) is CloudError


@pytest.mark.parametrize(
    ("status", "expected"), [(429, CloudRateLimited), (503, CloudUnreachable), (502, CloudUncertain)]
)
def test_an_error_page_in_place_of_a_document_is_judged_by_its_status(
    status: int, expected: type[PelagosError]
) -> None:
    one = ledger(sent=True)
    one.answered(status, {"retry-after": "9"})
    meant = translate(MalformedResponseError("<html>"), one, True, "create_node")
    assert type(meant) is expected
    assert meant.retry_after == (9.0 if status == 429 else None)


def test_a_rate_limit_says_when() -> None:
    meant = translate(RateLimitReachedError(headers={"retry-after": "7"}), ledger(), False, "x")
    assert meant.retry_after == 7.0
    assert translate(BaseHTTPError(429, "x", {"retry-after": "odd"}), ledger(), False, "x").retry_after == 5.0


def test_messages_hold_no_url_and_no_secret() -> None:
    assert "Signature" not in str(translate(not_connected(), ledger(), True, "create_node"))
    assert str(translate(not_connected(), ledger(), True, "create_node")) == "create_node: the connection was refused"
    scrub = scrubber(["top-secret", ""])
    said = translate(BaseHTTPError(400, "you sent\n top-secret " + "x" * 1000), ledger(), True, "create_node", scrub)
    assert "top-secret" not in str(said)
    assert len(str(said)) < 400


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("GET", "/servers", False),
        ("HEAD", "/servers", False),
        ("POST", "/servers", True),
        ("DELETE", "/servers/1", True),
        ("POST", "/v2.0/tokens", False),
        ("POST", "/v3/auth/tokens?nocatalog", False),
        ("GET", "/?Action=DescribeInstances", False),
        ("GET", "/?Action=RunInstances", True),
        ("GET", "/client/api?command=listVirtualMachines", False),
        ("GET", "/client/api?command=deployVirtualMachine", True),
    ],
)
def test_which_requests_may_change_something(method: str, url: str, expected: bool) -> None:
    assert may_change(method, url) is expected


def test_nothing_is_sent_after_the_deadline() -> None:
    time: list[Any] = [0.0]
    one = Ledger(10.0, lambda: time[0])
    one.sending("GET", "/")
    assert one.socket_timeout == 9.0
    time[0] = 10.0
    with pytest.raises(Expired):
        one.sending("POST", "/")
    assert (one.requests, one.effects) == (1, 0)
