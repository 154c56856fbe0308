"""The Azure plug-ins: found by name, light until they are opened, and saying what they lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pelagos.clouds import DriverContext, Plugins
from pelagos.clouds.azure import ACI, VM
from pelagos.model import SystemWorld
from pelagos.model.errors import Unsupported

pytestmark = pytest.mark.anyio

TYPES = ("azure_aci", "azure_vm", "cloudbroker", "pelagos")
OPTIONS = {"tenant_id": "t", "client_id": "c", "client_secret": "secret", "subscription_id": "s"}


def test_they_are_installed_under_their_names() -> None:
    plugins = Plugins()
    assert [plugins.get(type_).name for type_ in TYPES] == list(TYPES)


def test_loading_them_loads_no_library_that_speaks_http() -> None:
    program = f"""
import sys
from pelagos.clouds import Plugins
plugins = Plugins()
for name in {TYPES!r}:
    plugins.get(name).resource, plugins.get(name).account_options
print([name for name in sys.modules if name.partition(".")[0] in ("azure", "aiohttp", "httpx2", "requests", "msal")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("missing", ["azure.identity.aio", "aiohttp", "azure.mgmt.core.policies"])
async def test_a_missing_sdk_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("pelagos.clouds.azure.")]:
        if name.endswith(("arm", "_driver")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    world = SystemWorld()
    for plugin in (VM, ACI):
        with pytest.raises(Unsupported) as caught:
            await plugin.open(DriverContext(account="a", world=world, home=tmp_path, options=OPTIONS))
        assert caught.value.advice == "pip install 'pelagos[azure]'"
    world.close()


async def test_a_service_principal_is_opened_and_closed_without_a_request(tmp_path: Path) -> None:
    pytest.importorskip("azure.identity", reason="the Azure SDK is not installed")
    world = SystemWorld()
    for plugin in (VM, ACI):
        driver = await plugin.open(DriverContext(account="a", world=world, home=tmp_path, options=OPTIONS))
        assert driver.snapshot()["requests"] == {}
        assert "secret" not in str(driver.snapshot())
        await driver.close()
        await driver.close()
    world.close()
