"""Keys of EC2 accounts and resources: those of the reference, those of ours, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pelagos.clouds.ec2 import Ec2Account, Ec2Resource
from pelagos.clouds.ec2.eucalyptus import EucalyptusAccount, EucalyptusResource
from pelagos.clouds.ec2.options import Ec2Rule, plain_tags, region_of
from pelagos.clouds.keys import check_keys

NEEDED: dict[str, Any] = {"regionname": "eu-west-1", "image_id": "ami-1", "instance_type": "t3.small"}
ACCOUNT: dict[str, Any] = {"access_key": "AK", "secret_key": "SK"}


def problems(struct: type[msgspec.Struct], keys: dict[str, Any]) -> str:
    return "; ".join(f"{key} {message}" for key, message in check_keys(struct, keys)[1])


def test_the_keys_of_the_reference_are_taken() -> None:
    given = {
        **NEEDED,
        "key_name": "k",
        "subnet_id": "subnet-1",
        "security_group_ids": ["sg-1", "sg-2"],
        "tags": {"a": 1, "b": True, "c": "x"},
    }
    options, wrong = check_keys(Ec2Resource, given)
    assert wrong == []
    resource = msgspec.convert(options, Ec2Resource)
    assert plain_tags(resource.tags) == {"a": "1", "b": "true", "c": "x"}
    assert plain_tags(({"a": 1}, {"b": "2"})) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "regionname is missing; image_id is missing; instance_type is missing"),
        ({**NEEDED, "image": "ami-1"}, "image is not known; did you mean 'image_id'?"),
        ({**NEEDED, "security_group_ids": "sg-1"}, "security_group_ids must be a list"),
        ({**NEEDED, "key_name": "k", "key_pair": {"name": "k", "public_key": "p"}}, "`key_name` and `key_pair`"),
        ({**NEEDED, "security_groups": ["web"], "subnet_id": "subnet-1"}, "`security_groups`"),
        ({**NEEDED, "volumes": [{"type": "gp3"}]}, "a volume needs `size`"),
        ({**NEEDED, "extra": {"ClientToken": "x"}}, "`extra` holds what other keys are for: ClientToken"),
        ({**NEEDED, "extra": {"TagSpecification.1.Tag.1.Key": "x"}}, "`extra` holds"),
        ({**NEEDED, "tags": {"aws:x": "1"}}, "prefix that is not for users"),
        ({**NEEDED, "tags": {"pelagos:token": "1"}}, "prefix that is not for users"),
        ({**NEEDED, "tags": {"k": "v" * 257}}, "too long"),
        ({**NEEDED, "security_group": {"ingress": [{"ports": "80-"}]}}, "`ports`"),
        ({**NEEDED, "security_group": {"ingress": [{"protocol": "sctp"}]}}, "protocol"),
    ],
)
def test_mistakes_in_a_resource(keys: dict[str, Any], said: str) -> None:
    assert said in problems(Ec2Resource, keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "access_key is missing; secret_key is missing"),
        ({**ACCOUNT, "endpoint": "ec2.example"}, "URL"),
        ({**ACCOUNT, "signature_version": "3"}, "must be one of"),
        ({**ACCOUNT, "threads": 0}, "threads"),
        ({**ACCOUNT, "create_timeout": 1000}, "above `build_timeout`"),
    ],
)
def test_mistakes_in_an_account(keys: dict[str, Any], said: str) -> None:
    assert said in problems(Ec2Account, keys)


def test_the_version_of_signatures_decides_on_tags_unless_it_is_said() -> None:
    for version, tagged in (("4", True), (4, True), ("2", False), (2, False)):
        account = msgspec.convert({**ACCOUNT, "signature_version": version}, Ec2Account)
        assert account.tagged is tagged
    assert msgspec.convert({**ACCOUNT, "signature_version": 2, "tags_at_creation": True}, Ec2Account).tagged


def test_eucalyptus_has_its_defaults() -> None:
    assert "endpoint is missing" in problems(EucalyptusAccount, ACCOUNT)
    account = msgspec.convert({**ACCOUNT, "endpoint": "https://cloud.example:8773/services/compute"}, EucalyptusAccount)
    assert (account.signature_version, account.tagged) == ("2", False)
    assert problems(EucalyptusResource, {"image_id": "emi-1", "instance_type": "m1.small"}) == ""


@pytest.mark.parametrize(
    ("endpoint", "named", "region"),
    [
        ("", "", "us-east-1"),
        ("", "eu-west-1", "eu-west-1"),
        ("https://ec2.eu-central-1.amazonaws.com", "", "eu-central-1"),
        ("https://ec2.cn-north-1.amazonaws.com.cn", "", "cn-north-1"),
        ("https://ec2.amazonaws.com", "", "us-east-1"),
        ("http://127.0.0.1:5000", "", "us-east-1"),
        ("http://127.0.0.1:5000", "lab", "lab"),
    ],
)
def test_the_region_of_an_account(endpoint: str, named: str, region: str) -> None:
    assert region_of(endpoint, named) == region


def test_ranges_of_ports() -> None:
    assert Ec2Rule(ports=80).range() == (80, 80)
    assert Ec2Rule(ports="8000-8010").range() == (8000, 8010)
    assert Ec2Rule().range() == (0, 65535)
    assert Ec2Rule(protocol="icmp").range() == (-1, -1)


def test_secrets_are_not_shown() -> None:
    account = Ec2Account(access_key="AK-sesame", secret_key="SK-sesame", session_token="ST-sesame")
    assert "sesame" not in repr(account)
