"""What providers can do, by their classes: all those of Libcloud's, and the options that their constructors take."""

from __future__ import annotations

import pytest
from libcloud.compute.providers import DRIVERS

from pelagos.clouds.libcloud.abilities import abilities_of
from pelagos.clouds.libcloud.options import LibcloudAccount
from pelagos.clouds.libcloud.providers import driver_class, make_driver
from pelagos.model.errors import InvalidInput, NotFound, PelagosError, Unsupported
from support.tiny_cloud import TinyMeta, TinyName, register

register()
NAMES = sorted(str(getattr(name, "value", name)) for name in DRIVERS)
EC2_DIALECT = {"ec2", "eucalyptus", "nimbus", "outscale_sas", "outscale_inc"}


def test_every_provider_is_looked_at_or_says_why_not() -> None:
    able, refused = {}, {}
    for name in NAMES:
        try:
            able[name] = abilities_of(driver_class(name))
        except PelagosError as error:
            assert error.advice, name
            refused[name] = error
    assert set(refused) >= EC2_DIALECT
    assert all(isinstance(refused[name], Unsupported) for name in EC2_DIALECT)
    assert len(able) >= 30
    assert able["upcloud"].required >= {"location"}
    assert (able["gce"].metadata, able["gce"].power) == ("ex_metadata", True)
    assert (able["cloudstack"].user_data, able["cloudstack"].start) == ("ex_userdata", "ex_start")
    assert able["digitalocean"].location
    assert not able["vpsnet"].power
    assert able["upcloud"].auth


def test_methods_that_only_raise_do_not_count() -> None:
    full, bare = abilities_of(TinyMeta), abilities_of(TinyName)
    assert full.arguments == {"ex_metadata", "ex_userdata", "ex_keyname", "ex_colour", "ex_second_step"}
    assert (full.start, full.stop, full.reboot, full.power) == ("start_node", "ex_stop_node", "reboot_node", True)
    assert (full.metadata, full.user_data, full.key_name) == ("ex_metadata", "ex_userdata", "ex_keyname")
    assert (full.location, full.locations, full.auth, full.required) == (True, True, False, frozenset())
    assert (bare.arguments, bare.power, bare.locations, bare.get_image) == (frozenset(), False, False, False)

    class Raising(TinyMeta):
        def reboot_node(self, node):  # type: ignore[no-untyped-def]
            """Not here."""
            raise NotImplementedError("no reboot")

    assert (abilities_of(Raising).reboot, abilities_of(Raising).power) == ("", False)


@pytest.mark.parametrize(
    ("provider", "error", "said"),
    [
        ("digital_oceans", NotFound, "Did you mean 'digitalocean'"),
        ("ec2_us_west", Unsupported, "gave up"),
        ("ec2", Unsupported, "driver: ec2"),
    ],
)
def test_providers_that_are_none(provider: str, error: type[PelagosError], said: str) -> None:
    with pytest.raises(error) as caught:
        driver_class(provider)
    assert said in f"{caught.value} {caught.value.advice}"


def test_any_case_will_do() -> None:
    assert driver_class("GCE") is driver_class("gce")


def test_options_become_arguments_of_the_constructor() -> None:
    account = LibcloudAccount(provider="tiny-meta", key="k", endpoint="http://127.0.0.1:8080/x", region="here")
    connection = make_driver(account).connection
    assert (connection.key, connection.host, connection.port, connection.secure) == ("k", "127.0.0.1", 8080, 0)
    assert make_driver(LibcloudAccount(provider="cloudsigma", key="k", secret="s", region="sjc")).region == "sjc"


def test_options_that_the_constructor_would_drop_in_silence_are_told() -> None:
    for arguments in ({"regoin": "x"}, {"hots": "y"}):
        with pytest.raises(InvalidInput, match="knows no") as caught:
            make_driver(LibcloudAccount(provider="tiny-meta", key="k", arguments=arguments))
        assert "host" in caught.value.advice
    with pytest.raises(InvalidInput, match="does not take"):
        make_driver(LibcloudAccount(provider="gridscale"))


def test_secrets_are_not_shown() -> None:
    assert "sesame" not in repr(LibcloudAccount(provider="vultr", key="open-sesame", secret="sesame"))
