"""Keys of resources in both dialects, and options of accounts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pelagos.clouds.keys import check_keys
from pelagos.clouds.openstack import DRIVER, NOVA
from pelagos.clouds.openstack.options import Network, NovaResource, OpenStackAccount, OpenStackResource, Wanted

NEEDED = {"project_id": "p", "image_id": "i", "flavor_name": "f"}
USER = {"username": "ann", "password": "correct horse"}


def nova(**keys: Any) -> Wanted:
    options, problems = check_keys(NovaResource, {**NEEDED, **keys})
    assert problems == []
    return msgspec.convert(options, NovaResource).wanted()


def problems(struct: type[msgspec.Struct], keys: dict[str, Any]) -> list[tuple[str | None, str]]:
    return check_keys(struct, keys)[1]


def test_nova_takes_the_keys_of_the_ancestor_and_no_other() -> None:
    every = {
        **NEEDED,
        "user_domain_name": "Default",
        "region_name": "r",
        "network_id": "n",
        "key_name": "k",
        "security_groups": ["a", "b"],
        "server_name": "s",
        "floating_ip": "yes",
        "floating_ip_pool": "public",
        "volume_size": 10,
        "volume_persist": True,
        "tenant_name": "t",
    }
    assert problems(NovaResource, every) == []
    assert set(every) == {field.encode_name for field in msgspec.structs.fields(NovaResource)}
    assert nova(**{key: value for key, value in every.items() if key not in NEEDED}) == Wanted(
        image="i",
        flavor="f",
        networks=(Network(network="n"),),
        key_name="k",
        security_groups=("a", "b"),
        server_name="s",
        address=True,
        address_network="public",
        volume_size=10,
        volume_persist=True,
        project_id="p",
        region_name="r",
    )


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(NovaResource, {"image_id": "i", "imageid": "j", "volume_size": -1, "security_groups": "web"})
    assert {key for key, _ in found} == {"imageid", "volume_size", "security_groups", "project_id", "flavor_name"}
    assert ("imageid", "is not known; did you mean 'image_id'?") in found


@pytest.mark.parametrize("size", ["ten", "-1", -1, 1.5])
def test_a_volume_size_is_a_whole_number_of_0_or_more(size: object) -> None:
    assert [key for key, _ in problems(NovaResource, {**NEEDED, "volume_size": size})] == ["volume_size"]


def test_a_volume_size_may_be_a_template_or_what_it_renders_to() -> None:
    assert check_keys(NovaResource, {**NEEDED, "volume_size": "{{ size }}"}, unrendered=["volume_size"])[1] == []
    assert nova(volume_size="10").volume_size == 10
    assert nova().volume_size is None


@pytest.mark.parametrize("value", ["yes", "add_yes_if_you_need_floating_ip_or_remove", True, 1, None, ""])
def test_a_floating_ip_of_any_value_asks_for_one(value: object) -> None:
    assert nova(floating_ip=value).address


def test_a_pool_asks_for_a_floating_ip_and_false_for_none() -> None:
    assert nova(floating_ip_pool="public").address
    assert not nova(floating_ip=False).address
    assert not nova().address


def test_networks_by_name_and_as_mappings() -> None:
    keys = {"image": "i", "flavor": "f", "networks": ["a", {"network": "b", "fixed_ip": "10.0.0.7"}]}
    options, found = check_keys(OpenStackResource, keys)
    assert found == []
    wanted = msgspec.convert(options, OpenStackResource).wanted()
    assert wanted.networks == (Network(network="a"), Network(network="b", fixed_ip="10.0.0.7"))
    assert not any(network.needs_port for network in wanted.networks)
    assert problems(OpenStackResource, {**keys, "networks": [{"fixed_ip": "10.0.0.7"}]})


def test_metadata_of_ours_cannot_be_given() -> None:
    keys = {"image": "i", "flavor": "f", "metadata": {"pelagos_token": "mine"}}
    assert problems(OpenStackResource, keys) != []


@pytest.mark.parametrize(
    "options",
    [
        {"cloud": "lab"},
        {"endpoint": "http://k:5000/v3", **USER},
        {"auth_url": "http://k:5000", **USER},
        {"endpoint": "http://k", "application_credential_id": "i", "application_credential_secret": "s"},
        {"endpoint": "http://k", "type": "application_credential", "id": "i", "secret": "s"},
    ],
)
def test_ways_to_log_in(options: dict[str, Any]) -> None:
    assert problems(OpenStackAccount, options) == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        USER,
        {"endpoint": "http://k"},
        {"endpoint": "http://k", "username": "ann"},
        {"endpoint": "http://k", "id": "i", "secret": "s"},
        {"endpoint": "http://k", "type": "voms", **USER},
    ],
)
def test_what_is_no_way_to_log_in(options: dict[str, Any]) -> None:
    assert problems(OpenStackAccount, options) != []


def test_the_identity_service_gets_its_version() -> None:
    def identity(url: str) -> str:
        return OpenStackAccount(endpoint=url, **USER).identity

    assert identity("http://k:5000") == "http://k:5000/v3"
    assert identity("http://k:5000/") == "http://k:5000/v3"
    assert identity("http://k/identity/v3/") == "http://k/identity/v3"


def test_arguments_of_a_password() -> None:
    account = OpenStackAccount(endpoint="http://k", project_name="demo", **USER)
    assert account.auth() == {
        "auth_url": "http://k/v3",
        "username": "ann",
        "password": "correct horse",
        "user_domain_name": "Default",
        "project_name": "demo",
        "project_domain_name": "Default",
    }
    by_id = msgspec.structs.replace(account, project_id="p", user_domain_id="d").auth()
    assert (by_id["project_id"], by_id["user_domain_id"]) == ("p", "d")
    assert not {"project_name", "project_domain_name", "user_domain_name"} & set(by_id)


def test_arguments_of_an_application_credential() -> None:
    account = OpenStackAccount(endpoint="http://k", type="application_credential", id="i", secret="s", project_id="p")
    assert account.auth() == {
        "auth_url": "http://k/v3",
        "application_credential_id": "i",
        "application_credential_secret": "s",
    }
    assert OpenStackAccount(cloud="lab").auth() == {}


def test_an_account_shows_no_secret() -> None:
    account = OpenStackAccount(endpoint="http://k", secret="s3cret", application_credential_secret="s3cret", **USER)
    assert "horse" not in repr(account) and "s3cret" not in repr(account)


def test_the_plugins_say_which_keys_are_the_accounts() -> None:
    for plugin in (DRIVER, NOVA):
        known = {field.encode_name for field in msgspec.structs.fields(plugin.account_options)}
        assert set(plugin.account_keys.values()) <= known
    assert NOVA.account_keys["project_id"] == "project_id"
