"""What the keys of Azure accounts and resource sections may be, and what becomes of names."""

from __future__ import annotations

from typing import Any

import pytest

from pelagos.clouds import ServerNotFound
from pelagos.clouds.azure import AzureAccount, AzureAciResource, AzureVmResource
from pelagos.clouds.azure.names import group_and_name, provider_id, resource_name
from pelagos.clouds.keys import check_keys

VM = {
    "resource_group": "shop",
    "location": "westeurope",
    "vm_size": "Standard_B1s",
    "publisher": "Debian",
    "offer": "debian-12",
    "sku": "12",
    "version": "latest",
    "username": "me",
}
ACI = {
    "resource_group": "shop",
    "location": "westeurope",
    "cpu_cores": 1,
    "memory": 1.5,
    "image": "nginx",
    "os_type": "LINUX",
    "network_type": "pUBLIC",
    "ports": [80],
}
ACCOUNT = {"tenant_id": "t", "client_id": "c", "client_secret": "secret-word", "subscription_id": "s-1"}


@pytest.mark.parametrize(
    ("struct", "keys", "said"),
    [
        (AzureVmResource, VM, "one of `password` and `ssh_key_data`"),
        (AzureVmResource, {**VM, "password": "p", "vnet_name": "n"}, "go together"),
        (AzureVmResource, {**VM, "password": "p", "nic_name": "n"}, "is not known"),
        (AzureVmResource, {**VM, "password": "p", "public_ip_needed": "perhaps"}, "must be true or false"),
        (AzureVmResource, {**VM, "password": "p", "resource_group": "a/b"}, "is wrong"),
        (AzureAciResource, {**ACI, "network_type": "Secret"}, "Public or Private"),
        (AzureAciResource, {**ACI, "os_type": "Plan9"}, "Linux or Windows"),
        (AzureAciResource, {**ACI, "ports": []}, "needs `ports`"),
        (AzureAciResource, {**ACI, "ports": ["80/SCTP"]}, "is wrong"),
        (AzureAciResource, {**ACI, "vnet_name": "n", "subnet_name": "s"}, "for Private"),
        (AzureAciResource, {**ACI, "cpu_cores": 0}, "is wrong"),
        (AzureAccount, {**ACCOUNT, "endpoint": "http://management.example.org"}, "https://"),
        (AzureAccount, {**ACCOUNT, "authority": "http://127.0.0.1"}, "`authority`"),
        (AzureAccount, {**ACCOUNT, "poll_interval": 5000}, "above `build_timeout`"),
    ],
)
def test_what_is_wrong_is_told(struct: Any, keys: dict[str, Any], said: str) -> None:
    _, problems = check_keys(struct, keys)
    assert len(problems) == 1
    assert said in problems[0][1]


def test_all_that_is_missing_is_told_at_once() -> None:
    _, problems = check_keys(AzureVmResource, {})
    assert {key for key, _ in problems} == set(VM)


@pytest.mark.parametrize(("struct", "keys"), [(AzureVmResource, {**VM, "password": "p"}), (AzureAciResource, ACI)])
def test_keys_that_are_right(struct: Any, keys: dict[str, Any]) -> None:
    assert check_keys(struct, keys)[1] == []


def test_an_account_does_not_show_its_secrets() -> None:
    assert "secret-word" not in repr(AzureAccount(**ACCOUNT))


def test_a_name_is_the_tokens_and_fits() -> None:
    long = resource_name("Web_" + "x" * 80, "token-one")
    assert long == resource_name("Web_" + "x" * 80, "token-one")
    assert long != resource_name("Web_" + "x" * 80, "token-two")
    assert long.startswith("web-xxx") and len(long) <= 53
    assert resource_name("___", "t").startswith("server-")


def test_ids_know_no_case_and_no_paths() -> None:
    id_ = "/subscriptions/S/resourceGroups/SHOP/providers/Microsoft.Compute/virtualMachines/Web-1"
    assert provider_id({"id": id_}) == "shop/web-1"
    assert group_and_name("shop/web-1") == ("shop", "web-1")
    for wrong in ("web-1", "/web-1", "shop/", "shop/a/b", "shop/a?b", "../x"):
        with pytest.raises(ServerNotFound):
            group_and_name(wrong)
