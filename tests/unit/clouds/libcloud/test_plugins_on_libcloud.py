"""The plug-ins that stand on Libcloud: found by name, light until they are opened, and saying what they lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pelagos.clouds import DriverContext, Plugins
from pelagos.clouds.keys import check_keys
from pelagos.clouds.libcloud.plugin import DRIVER, DUMMY, RACKSPACE
from pelagos.model import SystemWorld
from pelagos.model.errors import InvalidInput, Unsupported

pytestmark = pytest.mark.anyio

TYPES = ("cloudsigma", "dummy", "ec2", "eucalyptus", "libcloud", "rackspace")


def test_they_are_installed_under_their_names() -> None:
    plugins = Plugins()
    assert set(TYPES) <= set(plugins.names())
    assert [plugins.get(type_).name for type_ in TYPES] == list(TYPES)


def test_loading_them_loads_nothing_of_libcloud() -> None:
    program = f"""
import sys
from pelagos.clouds import Plugins
plugins = Plugins()
for name in {TYPES!r}:
    plugins.get(name).resource, plugins.get(name).account_options
print([name for name in sys.modules if name.partition(".")[0] in ("libcloud", "requests", "urllib3")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


async def test_a_missing_libcloud_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libcloud.compute.base", None)
    world = SystemWorld()
    for plugin in (DRIVER, DUMMY):
        with pytest.raises(Unsupported) as caught:
            await plugin.open(
                DriverContext(account="a", world=world, home=tmp_path, options={"provider": "dummy"})
                if plugin is DRIVER
                else DriverContext(account="a", world=world, home=tmp_path)
            )
        assert caught.value.advice == "pip install 'pelagos[libcloud]'"
    world.close()


async def test_options_that_the_provider_does_not_take_are_told_when_it_is_opened(tmp_path: Path) -> None:
    world = SystemWorld()
    options = {"provider": "vultr", "key": "k", "arguments": {"ex_colour": 1, "colour": 2}}
    with pytest.raises(InvalidInput, match="'colour'"):
        await DRIVER.open(DriverContext(account="a", world=world, home=tmp_path, options=options))
    world.close()


def test_rackspace_in_the_words_of_libcloud(tmp_path: Path) -> None:
    world = SystemWorld()
    options = {"username": "me", "api_key": "k", "region": "lon", "endpoint": "https://id.example/v2.0/"}
    account = RACKSPACE.account_of(DriverContext(account="a", world=world, home=tmp_path, options=options))
    assert (account.provider, account.key, account.secret, account.region) == ("rackspace", "me", "k", "lon")
    assert account.arguments == {"ex_force_auth_url": "https://id.example"}
    resource = RACKSPACE.resource_of({"flavor": "f", "image": "i", "config_drive": True, "extra": {"ex_files": {}}})
    assert (resource.size, resource.image) == ("f", "i")
    assert resource.extra == {"ex_files": {}, "ex_config_drive": True}
    world.close()


def test_the_keys_of_the_reference_for_cloudsigma() -> None:
    resource = Plugins().get("cloudsigma").resource
    description = {"cpu": 2000, "mem": 1 << 30, "vnc_password": "x", "anything": ["more"]}
    assert check_keys(resource, {"libdrive_id": "l", "description": description})[1] == []
    assert "lacks cpu, vnc_password" in str(check_keys(resource, {"libdrive_id": "l", "description": {"mem": 1}})[1])
    account = Plugins().get("cloudsigma").account_options
    plain = {"email": "me", "password": "p", "endpoint": "http://zrh.cloudsigma.com/api/2.0"}
    assert "https://" in str(check_keys(account, plain)[1])
