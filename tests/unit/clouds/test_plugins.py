"""Driver plug-ins: found by entry points, loaded when asked for, with errors that say what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pelagos.clouds import LibraryUser, Plugins
from pelagos.clouds.simulated import DRIVER
from pelagos.model.errors import NotFound, Unsupported

GROUP = "pelagos.clouds"
ROOT = Path(__file__).parents[3]


def plugins(*entries: tuple[str, str]) -> Plugins:
    asked: list[str] = []

    def source(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        assert asked == [GROUP], "read once"
        return [EntryPoint(name, value, GROUP) for name, value in entries]

    return Plugins(source=source)


def test_the_installed_drivers_are_found() -> None:
    installed = Plugins()
    assert {"local", "simulated"} <= set(installed.names())
    assert installed.get("simulated") is DRIVER
    assert DRIVER.name == "simulated"


def test_given_plugins_go_before_installed_ones() -> None:
    given = plugins(("simulated", "no.such:THING"))
    given._loaded["simulated"] = DRIVER
    assert given.get("simulated") is DRIVER
    assert Plugins({"simulated": DRIVER}, source=lambda *, group: []).names() == ["simulated"]


def test_an_unknown_type_says_what_is_installed() -> None:
    with pytest.raises(NotFound) as caught:
        plugins(("docker", "x:Y"), ("azure", "x:Y")).get("dokcer")
    assert caught.value.advice == "Did you mean 'docker'? Installed are: azure, docker."
    assert caught.value.details == {"types": ["azure", "docker"]}


def test_a_missing_sdk_says_which_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_driver.py").write_text("import no_such_sdk.client\n")
    monkeypatch.syspath_prepend(tmp_path)
    for value, extra in (("needy_driver:DRIVER", "needy"), ("needy_driver:DRIVER [cloudy]", "cloudy")):
        with pytest.raises(Unsupported) as caught:
            plugins(("needy", value)).get("needy")
        assert "'no_such_sdk'" in caught.value.message
        assert caught.value.advice == f"pip install 'pelagos[{extra}]'"


def test_what_a_driver_lacks_is_known_without_opening_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = Plugins()
    users = {name for name in installed.names() if isinstance(installed.get(name), LibraryUser)}
    assert {"docker", "nova", "openstack", "azure_vm", "azure_aci", "ec2", "libcloud"} <= users
    assert not users & {"local", "simulated", "pelagos", "cloudbroker"}
    monkeypatch.setattr("pelagos.clouds.plugins.find_spec", lambda package: None)
    for name in installed.names():
        lacking = installed.lacking(name)
        assert (lacking is not None) is (name in users)
        if lacking is not None:
            assert lacking.details["extra"] in extras
            assert lacking.advice == f"pip install 'pelagos[{lacking.details['extra']}]'"
    with pytest.raises(NotFound):
        installed.lacking("dokcer")


def test_all_plugins_load_and_check_without_any_sdk() -> None:
    code = """
import sys
for name in ("docker", "azure", "openstack", "libcloud", "aiohttp", "requests"):
    sys.modules[name] = None
from pelagos.clouds import Plugins
from pelagos.clouds.keys import check_presence
plugins = Plugins()
for name in plugins.names():
    assert [key for key, _ in check_presence(plugins.get(name).resource, ["hue"])][0] == "hue", name
print(sorted(name for name in plugins.names() if plugins.lacking(name) is None))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cloudbroker', 'local', 'pelagos', 'simulated']"


@pytest.mark.parametrize("value", ["no_such_module:DRIVER", "pelagos.clouds:NO_SUCH", "pelagos.clouds.none:DRIVER"])
def test_a_broken_entry_point(value: str) -> None:
    with pytest.raises(Unsupported) as caught:
        plugins(("broken", value)).get("broken")
    assert value in caught.value.message


def test_two_packages_with_one_type() -> None:
    with pytest.raises(Unsupported) as caught:
        plugins(("docker", "a:D"), ("docker", "b:D")).names()
    assert "a:D" in caught.value.message and "b:D" in caught.value.message


def test_importing_the_room_loads_neither_drivers_nor_metadata() -> None:
    costly = ("pelagos.clouds.simulated", "pelagos.clouds.local", "importlib.metadata")
    code = f"import sys, pelagos.clouds; print([m for m in sys.modules if m in {costly}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
