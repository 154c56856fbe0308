"""What the keys of a CloudBroker account and of its resource sections may be."""

from __future__ import annotations

from typing import Any

import pytest

from pelagos.clouds.cloudbroker import CloudBrokerAccount, CloudBrokerResource
from pelagos.clouds.keys import check_keys

GOOD = {"deployment_id": "d", "instance_type_id": "t"}
ACCOUNT = {"endpoint": "https://platform.example.org", "email": "me@example.org", "password": "secret-word"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, [("description", "is missing")]),
        ({"description": {"deployment_id": "d"}}, ["lacks instance_type_id"]),
        ({"description": {**GOOD, "cloud-init": "x"}}, ["not for users: cloud-init"]),
        ({"description": {**GOOD, "ports": [80]}}, ["cannot say: ports"]),
        ({"description": {**GOOD, "a": {"b c": 1}}}, ["cannot say: a.b c"]),
        ({"description": GOOD, "start_in_vpc": "perhaps"}, ["must be true or false"]),
        ({"description": GOOD, "instance_type": "x"}, ["is not known"]),
    ],
)
def test_wrong_resource_sections(keys: dict[str, Any], said: list[Any]) -> None:
    _, problems = check_keys(CloudBrokerResource, keys)
    assert len(problems) == len(said)
    for problem, wanted in zip(problems, said, strict=True):
        assert problem == wanted if isinstance(wanted, tuple) else wanted in problem[1]


@pytest.mark.parametrize("endpoint", ["http://platform.example.org", "platform", "https://", "ftp://127.0.0.1"])
def test_an_endpoint_that_would_tell_the_password(endpoint: str) -> None:
    _, problems = check_keys(CloudBrokerAccount, {**ACCOUNT, "endpoint": endpoint})
    assert [key for key, _ in problems] == [None]


def test_an_account_does_not_show_its_secrets() -> None:
    shown = repr(CloudBrokerAccount(**ACCOUNT))
    assert "platform.example.org" in shown
    assert "secret-word" not in shown
