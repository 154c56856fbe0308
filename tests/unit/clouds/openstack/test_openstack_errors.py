"""What the services say, as the closed family. The bodies are those of a real cloud."""

from __future__ import annotations

import json

import keystoneauth1.exceptions as identity
import openstack.exceptions as sdk
import pytest
import requests
import urllib3.exceptions

from pelagos.clouds.errors import (
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
from pelagos.clouds.openstack.errors import gone_is_fine, retry_after_of, translate
from pelagos.clouds.openstack.exchange import DeadlinePassed, Exchange
from pelagos.model.errors import PelagosError, Retry, Unsupported

WHAT = "create server web-1"


def exchange(*, effect: bool = True, sent: bool = False) -> Exchange:
    made = Exchange(lambda: 0.0, 10.0, 5.0, effect=effect)
    if sent:
        made.sending("POST", "http://nova/servers")
    return made


def answer(status: int, message: str = "", **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({"Content-Type": "application/json", "x-openstack-request-id": "req-1", **headers})
    response._content = json.dumps({"anything": {"code": status, "message": message}}).encode()
    return response


def said(status: int, message: str = "", *, effect: bool = True, about_server: bool = False) -> PelagosError:
    """What the SDK raises for this answer to a request with an effect, translated."""
    watched = exchange(effect=effect, sent=True)
    response = answer(status, message)
    watched.answered(status)
    with pytest.raises(sdk.HttpException) as caught:
        sdk.raise_from_response(response)
    return translate(caught.value, watched, WHAT, about_server=about_server)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Can not find requested image", CloudRejected),
        (400, "Flavor's disk is too small for requested image.", CloudRejected),
        (400, "Invalid volume: Volume status must be available or error or error_restoring", CloudBusy),
        (401, "The request you have made requires authentication.", CloudAuthFailed),
        (403, "Quota exceeded for cores: Requested 1, but already used 20 of 20 cores", CloudCapacity),
        (403, "Policy doesn't allow os_compute_api:servers:create:forced_host to be performed.", CloudRejected),
        (404, "Image not found.", CloudRejected),
        (405, "Not allowed", Unsupported),
        (409, "Cannot 'stop' instance 1 while it is in task_state powering-off", CloudBusy),
        (409, "Multiple possible networks found, use a Network ID to be more specific.", CloudRejected),
        (409, "Quota exceeded for resources: ['floatingip'].", CloudCapacity),
        (409, "No more IP addresses available on network 7d7a.", CloudCapacity),
        (
            413,
            "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'.",
            CloudCapacity,
        ),
        (413, "Request is too large.", CloudRejected),
        (413, "This request was rate-limited.", CloudRateLimited),
        (429, "Too Many Requests", CloudRateLimited),
        (500, "Unexpected API Error.", CloudUncertain),
        (501, "Not implemented", Unsupported),
        (502, "Bad gateway", CloudUncertain),
        (503, "Service unavailable", CloudUnreachable),
        (504, "Gateway time-out", CloudUncertain),
        (599, "?", CloudUncertain),
    ],
)
def test_statuses(status: int, message: str, expected: type[PelagosError]) -> None:
    error = said(status, message)
    assert type(error) is expected
    assert WHAT in error.message and error.details["status"] == status
    assert error.details["request_id"] == "req-1"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_faults_of_the_cloud_in_a_call_that_only_reads(status: int) -> None:
    assert type(said(status, effect=False)) is CloudUnreachable


def test_404_of_a_server() -> None:
    assert type(said(404, "Instance 1 could not be found.", about_server=True)) is ServerNotFound


def test_404_of_a_front_end_or_the_identity_service_says_nothing_of_a_server() -> None:
    page = answer(404)
    page.headers["Content-Type"] = "text/html"
    page._content = b"<html>404 Not Found</html>"
    with pytest.raises(sdk.NotFoundException) as caught:
        sdk.raise_from_response(page)
    assert type(translate(caught.value, exchange(), WHAT, about_server=True)) is CloudUnreachable
    with pytest.raises(sdk.NotFoundException), gone_is_fine():
        raise caught.value
    absent = identity.NotFound("no such path", response=answer(404))
    assert type(translate(absent, exchange(), WHAT, about_server=True)) is CloudRejected


def test_what_the_cloud_asks_to_wait() -> None:
    response = answer(429, "slow down", **{"Retry-After": "7"})
    with pytest.raises(sdk.HttpException) as caught:
        sdk.raise_from_response(response)
    error = translate(caught.value, exchange(), WHAT)
    assert (type(error), error.retry_after) == (CloudRateLimited, 7.0)
    assert retry_after_of({}, 3.0) == 3.0
    assert retry_after_of({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 3.0) == 3.0
    assert retry_after_of({"Retry-After": "-1"}, 3.0) == 3.0


def test_keystone_says_no() -> None:
    error = identity.Unauthorized("The request you have made requires authentication.", response=answer(401))
    assert type(translate(error, exchange(), WHAT)) is CloudAuthFailed
    assert type(translate(identity.MissingAuthPlugin("none"), exchange(), WHAT)) is CloudAuthFailed


def test_no_answer_is_uncertain_only_after_sending() -> None:
    broken = identity.ConnectFailure("Unable to establish connection")
    assert type(translate(broken, exchange(), WHAT)) is CloudUnreachable
    assert type(translate(broken, exchange(sent=True), WHAT)) is CloudUncertain
    assert type(translate(broken, exchange(sent=True, effect=False), WHAT)) is CloudUnreachable
    assert type(translate(DeadlinePassed(), exchange(), WHAT)) is CloudUnreachable
    assert type(translate(DeadlinePassed(), exchange(sent=True), WHAT)) is CloudUncertain
    assert type(translate(identity.SSLError("self-signed"), exchange(), WHAT)) is CloudUnreachable


def test_a_service_that_is_not_there_or_cannot_be_asked() -> None:
    absent = identity.EndpointNotFound("no endpoint for volumev3")
    assert type(translate(absent, exchange(), WHAT)) is Unsupported
    down = exchange()
    down.broken(requests.exceptions.ConnectionError("reset"))
    assert type(translate(absent, down, WHAT)) is CloudUnreachable


def test_what_the_sdk_itself_refuses_is_final_unless_something_was_sent() -> None:
    error = translate(sdk.InvalidRequest("no such attribute"), exchange(), WHAT)
    assert (type(error), error.retry) == (CloudError, Retry.NEVER)
    assert type(translate(sdk.InvalidRequest("?"), exchange(sent=True), WHAT)) is CloudUncertain


def test_a_success_whose_answer_is_of_no_use_is_uncertain() -> None:
    watched = exchange(sent=True)
    watched.answered(202)
    assert type(translate(requests.exceptions.JSONDecodeError("?", "<html>", 0), watched, WHAT)) is CloudUncertain


def test_errors_of_the_family_pass() -> None:
    error = CloudBusy("later")
    assert translate(error, exchange(), WHAT) is error


def test_long_messages_are_cut() -> None:
    assert len(said(400, "x" * 10_000).message) < 1_000


# -- the exchange --------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_gets_what_is_left_of_the_time_and_none_is_sent_after_it() -> None:
    clock = Clock()
    watched = Exchange(clock, 10.0, 4.0, effect=True)
    assert watched.sending("GET", "http://nova/servers") == 4.0
    clock.now = 8.0
    assert 1.9 < watched.sending("GET", "http://nova/servers") < 2.0
    clock.now = 10.0
    with pytest.raises(DeadlinePassed):
        watched.sending("POST", "http://nova/servers")
    assert not watched.uncertain and watched.requests == 2


def test_only_a_request_with_an_effect_makes_uncertain() -> None:
    watched = exchange()
    watched.sending("GET", "http://nova/servers")
    watched.sending("POST", "http://keystone/v3/auth/tokens")
    assert not watched.uncertain
    watched.sending("POST", "http://nova/servers")
    assert watched.uncertain
    watched.answered(202)
    assert not watched.uncertain


@pytest.mark.parametrize("status", [202, 401, 403, 409, 429, 503])
def test_answers_that_leave_nothing_open(status: int) -> None:
    watched = exchange(sent=True)
    watched.answered(status)
    assert not watched.uncertain


@pytest.mark.parametrize("status", [500, 502, 504])
def test_answers_that_say_nothing_of_the_effect(status: int) -> None:
    watched = exchange(sent=True)
    watched.answered(status)
    assert watched.uncertain and watched.failed


@pytest.mark.parametrize(
    ("error", "open_question"),
    [
        (requests.exceptions.ConnectTimeout("nobody"), False),
        (requests.exceptions.ReadTimeout("silence"), True),
        (requests.exceptions.ChunkedEncodingError("cut"), True),
        (requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("reset", ConnectionResetError())), True),
        (
            requests.exceptions.ConnectionError(
                urllib3.exceptions.MaxRetryError(
                    urllib3.HTTPConnectionPool("nova"),
                    "/servers",
                    urllib3.exceptions.NewConnectionError(urllib3.connection.HTTPConnection("nova"), "refused"),
                )
            ),
            False,
        ),
    ],
)
def test_broken_connections(error: requests.RequestException, open_question: bool) -> None:
    watched = exchange(sent=True)
    watched.broken(error)
    assert watched.uncertain is open_question and watched.failed
