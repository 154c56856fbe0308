"""The pytest plug-in: fixtures over this room. The one module here that imports pytest.

In the topmost ``conftest.py``::

    pytest_plugins = ["pelagos.testing.plugin"]

It is not an entry point, on purpose: whoever has Pelagos installed for its commands would get these fixtures in all
their projects, under names as common as ``container``. The fixtures are asynchronous and run by anyio's plug-in, which
comes with Pelagos: mark tests with ``@pytest.mark.anyio`` (or set ``anyio_mode = auto``). Under pytest-asyncio use what
the fixtures are made of: :class:`Harness` is an asynchronous context manager.

A test marked ``virtual_time`` runs on the simulation's loop: waiting takes no time, and each run is the same. It has no
sockets, threads and child processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import pytest

from pelagos.container import Container
from pelagos.model.world import World
from pelagos.process import Process
from pelagos.simulation import VirtualLoop
from pelagos.testing.brokers import Broker, broker_problem, broker_url, throw_away_broker
from pelagos.testing.harness import Harness
from pelagos.testing.recorder import Recorder
from pelagos.testing.stubs import Stub, stub

__all__ = [
    "anyio_backend",
    "broker",
    "container",
    "harness",
    "make_container",
    "pytest_configure",
    "pytest_runtest_makereport",
    "recorder",
    "replaced",
    "world",
]

_CHARTED = 200
"""Messages, as each container saw them, on the chart of a failed test."""
_FAILED = pytest.StashKey[bool]()
_RECORDER = pytest.StashKey[Recorder]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time: waits take no time, and each run is the same (pelagos.testing)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test with a recorder shows what was said, and the chart of it."""
    report = yield
    if report.failed and report.when == "call":
        item.stash[_FAILED] = True
        recorder = item.stash.get(_RECORDER, None)
        if recorder is not None:
            report.sections.append(("messages", str(recorder)))
            report.sections.append(("sequence chart (Mermaid)", recorder.chart(item.name, last=_CHARTED)))
    return report


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Pelagos runs on asyncio; with the mark ``virtual_time`` on the simulation's loop."""
    if request.node.get_closest_marker("virtual_time"):
        return ("asyncio", {"loop_factory": VirtualLoop})
    return "asyncio"


@pytest.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """The system of this test; at the end it fails for processes that died and requests that never ended."""
    async with Harness() as running:
        yield running
        if request.node.stash.get(_FAILED, False):
            running.check = False  # what is left over now says nothing but that the test broke off


@pytest.fixture
async def world(harness: Harness) -> World:
    """The world of this test's containers."""
    return harness.world


@pytest.fixture
async def container(harness: Harness) -> Container:
    """One running container."""
    return await harness.container("c")


@pytest.fixture
async def make_container(harness: Harness) -> Callable[..., Awaitable[Container]]:
    """``await make_container("one")``: containers on one exchange, as many as wanted."""
    return harness.container


@pytest.fixture
async def recorder(request: pytest.FixtureRequest, harness: Harness) -> AsyncIterator[Recorder]:
    """All messages of this test. At the end no conversation may have broken its protocol."""
    request.node.stash[_RECORDER] = harness.recorder
    yield harness.recorder
    if not request.node.stash.get(_FAILED, False):
        harness.recorder.check_conversations(*harness.protocols())


@pytest.fixture
async def replaced(container: Container) -> Callable[..., Awaitable[Stub]]:
    """``catalogue = await replaced(Catalogue, price=12)``: a stand-in under the service's name in the container."""

    async def replace(service: type[Process], **answers: Any) -> Stub:
        made = stub(service, **answers)
        await container.spawn(made)
        return made

    return replace


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """RabbitMQ, under a name of this test's own; the test is skipped where none answers."""
    problem = broker_problem(broker_url())
    if problem:
        pytest.skip(problem)
    async with throw_away_broker() as there:
        yield there
