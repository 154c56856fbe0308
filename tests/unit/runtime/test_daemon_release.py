"""What the daemon runs is a release, which the settings may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.container.apps import find_apps, resolve
from pelagos.container.apps.finding import builtin_directory
from pelagos.model import SystemWorld
from pelagos.model.errors import DescriptionError
from pelagos.runtime import Runtime, Settings
from pelagos.runtime.composition import assemble_release

pytestmark = pytest.mark.anyio


def test_every_app_that_comes_with_pelagos_can_be_resolved() -> None:
    files = sorted(builtin_directory().glob("*.yaml"))
    assert {"pelagos.yaml", "compute.yaml", "infrastructure.yaml"} <= {file.name for file in files}
    for file in files:
        plan = resolve(find_apps([file], here=False))
        assert plan.apps and not any(app.trusted for app in plan.apps)
        assert all(process.kind.startswith("pelagos.") for app in plan.apps for process in app.processes)


async def services_of(settings: Settings) -> set[str]:
    world = SystemWorld(environ={})
    try:
        async with Runtime(settings, world=world, mode="serve", assemble=assemble_release) as runtime:
            return {process.name for process in runtime.container.processes if process.name}
    finally:
        world.close()


async def test_all_services_by_default_and_those_of_another_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pelagos.yaml").write_text("log_level: debug\n")  # somebody's configuration, and no release
    (tmp_path / "site.yaml").write_text("release: site\napps: [compute]\n")
    monkeypatch.chdir(tmp_path)
    assert {"compute", "infrastructure", "events", "scheduler"} <= await services_of(Settings(home=tmp_path / "a"))
    assert await services_of(Settings(home=tmp_path / "b", release=str(tmp_path / "site.yaml"))) == {"compute"}


async def test_a_mistake_in_the_release_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("release: site\napps: [computer]\n")
    with pytest.raises(DescriptionError, match=r"site.yaml:2:8: release 'site' has the app 'computer'") as raised:
        await services_of(Settings(home=tmp_path / "a", release=str(tmp_path / "site.yaml")))
    assert raised.value.advice == "Did you mean 'compute'?"
