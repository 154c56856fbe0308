"""What a saved plan says of accounts, held against the pool as it is now."""

import msgspec
import pytest

from pelagos.clouds.accounts import AccountIdentity
from pelagos.model.errors import NotFound
from pelagos.services.infrastructure.places import accounts_changed
from pelagos.wire.infrastructures import PlannedAccount

KNOWN = AccountIdentity(driver="ec2", endpoint="", region="north", options="a-digest")
SAVED = PlannedAccount(name="east", driver="ec2", region="north", options="a-digest")


class Pool:
    def __init__(self, **accounts):
        self.accounts = accounts

    def identity(self, name):
        if name not in self.accounts:
            raise NotFound(f"the pool has no account {name!r}")
        return self.accounts[name]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"driver": "nova"}, ["the driver of the account 'east' was ec2, is nova"]),
        (
            {"endpoint": "https://elsewhere.example"},
            ["the endpoint of the account 'east' was not told, is https://elsewhere.example"],
        ),
        ({"region": ""}, ["the region of the account 'east' was north, is not told"]),
        ({"options": "another"}, ["the account 'east' has other options"]),
    ],
)
def test_an_account_is_the_one_it_was_or_is_told_apart(changes, told):
    assert accounts_changed([SAVED], Pool(east=msgspec.structs.replace(KNOWN, **changes))) == told


def test_an_account_that_is_gone_is_told():
    assert accounts_changed([SAVED], Pool()) == ["the account 'east' is no longer in the pool"]
