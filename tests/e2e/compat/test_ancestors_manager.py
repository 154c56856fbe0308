"""The ancestor's Python API over real services in this process, and over a daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pelagos.cli.invocation import Invocation
from pelagos.clouds.simulated.state_file import RealityFile
from pelagos.compat import connecting, occoapp
from pelagos.compat.connecting import Services
from pelagos.compat.errors import ConfigurationError
from pelagos.compat.manager import (
    InfrastructureIDNotFoundException,
    InfrastructureIDTakenException,
    InfrastructureMaintenanceProcess,
    InfrastructureManager,
    SchemaError,
)
from pelagos.model.states import InfrastructureState
from pelagos.model.world import SystemWorld

pytestmark = pytest.mark.e2e

DEFINITION = [{"resource": {"type": "simulated"}, "health_check": {"ping": False}}]
STORE: dict[str, Any] = {"name": "store", "type": "shop_node"}
WEB: dict[str, Any] = {"name": "web", "type": "shop_node", "scaling": {"min": 2, "max": 3}}
SHOP: dict[str, Any] = {
    "infra_name": "shop",
    "user_id": "test",
    "nodes": [STORE, WEB],
    "dependencies": [{"connection": [WEB, STORE]}],
    "node_def:shop_node": DEFINITION,
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "pelagos.yaml").write_text(
        "pool:\n  - {name: sim, driver: simulated, options: {state: file, boot_seconds: 0.02}}\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PELAGOS_", "OCCOPUS_"))}
    return {
        **kept,
        "HOME": str(tmp_path),
        "PELAGOS_HOME": str(tmp_path / "home"),
        "PELAGOS_CONFIG": str(tmp_path / "pelagos.yaml"),
    }


@pytest.fixture
def services(environ: dict[str, str]) -> Iterator[Services]:
    with Services(Invocation(world=SystemWorld(environ=environ))) as services:
        yield services


@pytest.fixture
def daemon(environ: dict[str, str], tmp_path: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pelagos", "serve"],
        env=environ,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("unix://")
    yield
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def _wait(services: Services, condition: Callable[[], bool], infra_id: str) -> None:
    """Until it is so, looking whenever something happens to the infrastructure."""
    events = services.client.events(infra_id, follow=True)
    while not condition():
        next(events)


def _ready(services: Services, infra_id: str) -> bool:
    state: InfrastructureState = services.client.infrastructures.status(infra_id).state
    return state is InfrastructureState.READY


def test_what_one_program_submits_another_starts(services: Services, environ: dict[str, str]) -> None:
    infra_id = InfrastructureManager(services=services).submit_infrastructure(SHOP)
    kept = Path(environ["PELAGOS_HOME"]) / "submitted" / f"{infra_id}.json"
    assert kept.stat().st_mode & 0o077 == 0
    services.close()
    with Services(Invocation(world=SystemWorld(environ=environ))) as others:
        manager = InfrastructureManager("parallel", services=others)
        assert manager.snapshot()["submitted"] == [infra_id]
        assert manager.attach(infra_id) == infra_id
        assert not kept.exists()
        _wait(others, lambda: _ready(others, infra_id), infra_id)
        manager.detach(infra_id)
        manager.tear_down(infra_id)
        assert others.client.infrastructures.list() == ()
        with pytest.raises(InfrastructureIDNotFoundException):
            manager.attach(infra_id)


def test_what_was_submitted_and_never_started_is_torn_down_by_any(services: Services) -> None:
    infra_id = InfrastructureManager(services=services).submit_infrastructure(SHOP)
    InfrastructureManager(services=services).tear_down(infra_id)
    for strange in (infra_id, f"../submitted/{infra_id}", ""):
        with pytest.raises(InfrastructureIDNotFoundException):
            InfrastructureManager(services=services).attach(strange)


@pytest.mark.parametrize("what", [None, 3, [SHOP], {"infra_name": object()}])
def test_what_is_no_description(services: Services, what: Any) -> None:
    with pytest.raises(SchemaError):
        InfrastructureManager(services=services).submit_infrastructure(what)


def test_a_life_in_this_process(services: Services) -> None:
    manager = InfrastructureManager("parallel", services=services)
    infra_id = manager.submit_infrastructure(SHOP)
    assert services.client.infrastructures.list() == ()
    manager.start_provisioning(infra_id)
    with pytest.raises(InfrastructureIDTakenException):
        manager.start_provisioning(infra_id)
    with pytest.raises(ValueError, match="managed"):
        manager.tear_down(infra_id)
    _wait(services, lambda: _ready(services, infra_id), infra_id)
    status = services.client.infrastructures.status(infra_id)
    assert {name: len(node.instances) for name, node in status.nodes.items()} == {"store": 1, "web": 2}
    process = manager.get(infra_id)
    assert process.is_alive()

    manager.stop_provisioning(infra_id, wait_timeout=60)
    assert not process.is_alive()
    with pytest.raises(InfrastructureIDNotFoundException):
        manager.get(infra_id)
    with pytest.raises(KeyError):
        manager.detach(infra_id)
    assert services.client.infrastructures.status(infra_id).nodes == status.nodes  # instances stay as they were

    assert manager.attach(infra_id) == infra_id
    assert manager.detach(infra_id) == infra_id
    manager.tear_down(infra_id)
    assert services.client.infrastructures.list() == ()
    assert services.client.clouds.servers("sim") == ()
    with pytest.raises(InfrastructureIDNotFoundException):
        manager.tear_down(infra_id)
    with pytest.raises(InfrastructureIDNotFoundException):
        manager.start_provisioning(infra_id)


def test_a_pass_under_way_has_time_to_end(services: Services) -> None:
    manager = InfrastructureManager("parallel", services=services)
    infra_id = manager.add(SHOP)
    manager.stop_provisioning(infra_id, wait_timeout=60)
    assert _ready(services, infra_id), "it was built before it was left alone"
    manager.tear_down(infra_id)
    assert services.client.clouds.servers("sim") == ()


def test_what_vanishes_is_healed_by_the_process(services: Services) -> None:
    manager = InfrastructureManager("parallel", services=services)
    infra_id = manager.add(SHOP)
    manager.get(infra_id).join(0)
    _wait(services, lambda: _ready(services, infra_id), infra_id)
    manager.detach(infra_id)
    before = services.client.infrastructures.status(infra_id).nodes["store"].instances
    (victim,) = before
    provider_id = services.client.servers.get(before[victim].server_id).provider_id
    _forget(Path(services.world.environ["PELAGOS_HOME"]) / "clouds" / "sim", provider_id)

    process = InfrastructureMaintenanceProcess(infra_id, 0.2, "parallel", services=services)
    process.start()
    _wait(
        services,
        lambda: (
            _ready(services, infra_id)
            and victim not in services.client.infrastructures.status(infra_id).nodes["store"].instances
        ),
        infra_id,
    )
    process.graceful_terminate()
    assert process.passes >= 1
    assert not process.is_alive()


def _forget(folder: Path, provider_id: str) -> None:
    """The server is gone from its cloud, behind our back."""
    file = RealityFile(folder)
    with file.locked():
        reality = file.read()
        assert reality is not None
        left = [server for server in reality.servers if server.provider_id != provider_id]
        assert len(left) == len(reality.servers) - 1
        reality.servers = left
        file.write(reality)


def test_a_daemon_maintains_beyond_this_program(daemon: None, environ: dict[str, str]) -> None:
    with Services(Invocation(world=SystemWorld(environ=environ))) as services:
        with InfrastructureManager("parallel", services=services) as manager:
            infra_id = manager.add(SHOP)
            _wait(services, lambda: _ready(services, infra_id), infra_id)
        (summary,) = services.client.infrastructures.list()
        assert (summary.id, summary.maintained) == (infra_id, True)

        another = InfrastructureManager(services=services)
        with pytest.raises(InfrastructureIDNotFoundException):
            another.get(infra_id)
        another.detach(infra_id)
        (summary,) = services.client.infrastructures.list()
        assert not summary.maintained
        another.tear_down(infra_id)
        assert services.client.infrastructures.list() == ()


def test_mistakes_are_the_ancestors_errors_with_places(services: Services) -> None:
    manager = InfrastructureManager(services=services)
    with pytest.raises(SchemaError) as caught:
        manager.submit_infrastructure("infra_name: shop\nnodes:\n  - {name: a.b, type: nothing}\n")
    assert [found.position.line for found in caught.value.diagnostics if found.position] != []
    assert caught.value.context.startswith("description.yaml:")
    with pytest.raises(SchemaError):
        manager.submit_infrastructure(b"\xff\xfe")
    with pytest.raises(ConfigurationError):
        InfrastructureManager("random", services=services)


def test_the_application_is_built_from_configuration(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.yaml").write_text("infra_name: shop\nnodes: []\n")
    (tmp_path / "auth.yaml").write_text("resource: []\n")
    (tmp_path / "occopus.yaml").write_text(
        "components:\n  resourcehandler: !ResourceHandler {protocol: null}\n  rest: {port: 5001}\n"
    )
    for name in ("args", "configuration", "components", "infrastructure", "services"):
        monkeypatch.setattr(occoapp, name, None)
    monkeypatch.setattr(connecting, "_default", None)

    def options(parser: occoapp.Options) -> None:
        parser.add_argument("infra_def", type=occoapp.yaml_file)
        parser.add_argument("--speed", type=int, default=3)

    occoapp.setup(
        options,
        cfg_path=tmp_path / "occopus.yaml",
        auth_data_path=tmp_path / "auth.yaml",
        arguments=[str(tmp_path / "shop.yaml"), "--speed", "7"],
        invocation=Invocation(world=SystemWorld(environ=environ)),
    )
    assert occoapp.args is not None
    assert occoapp.services is not None
    assert (occoapp.args.speed, occoapp.args.auth_data_path) == (7, tmp_path / "auth.yaml")
    assert occoapp.configuration == occoapp.args.configuration
    assert occoapp.components == {
        "resourcehandler": {"tag": "!ResourceHandler", "protocol": None},
        "rest": {"port": 5001},
    }
    assert isinstance(occoapp.infrastructure, Path)
    try:
        manager = InfrastructureManager()  # the application's services are the default now
        infra_id = manager.add(occoapp.infrastructure)
        manager.get(infra_id).join(0)
        _wait(occoapp.services, lambda: _ready(occoapp.services, infra_id), infra_id)  # type: ignore[arg-type]
        manager.detach(infra_id)
        occoapp.killall(infra_id)
        assert occoapp.services.client.infrastructures.list() == ()
    finally:
        occoapp.services.close()


def test_options_of_somebody_else_are_left_alone(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("args", "configuration", "components", "infrastructure", "services"):
        monkeypatch.setattr(occoapp, name, None)
    monkeypatch.setattr(connecting, "_default", None)
    invocation = Invocation(world=SystemWorld(environ=environ))
    occoapp.setup(arguments=["-f", "kernel.json"], invocation=invocation)
    assert (occoapp.configuration, occoapp.components, occoapp.infrastructure) == ({}, {}, None)
    with pytest.raises(ConfigurationError):
        occoapp.setup(cfg_path="/nonexistent", arguments=[], invocation=invocation)
