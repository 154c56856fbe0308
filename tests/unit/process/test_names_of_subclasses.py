"""What a subclass calls its own attributes is its own affair; where it would break the process, it is told at once."""

from __future__ import annotations

import pytest

from pelagos.container import Container
from pelagos.process import Process, ServiceProcess, WorkerProcess, client, operation

pytestmark = pytest.mark.anyio

USUAL = """
service server tasks children group life kept hosted served caller mailbox conversations admitting stopping
switching hurried queue durable capacity delivery_limit lane running
""".split()  # noqa: SIM905 - a list of words


class Stock(ServiceProcess):
    name = "stock"

    @operation
    async def count(self) -> int:
        return 7


class Shop(ServiceProcess):
    """Keeps things of its own under the names that come to mind first."""

    name = "shop"

    def __init__(self) -> None:
        super().__init__()
        for name in USUAL:
            setattr(self, f"_{name}", name)

    async def on_init(self) -> None:
        self._service = client(Stock, self)

    @operation
    async def count(self) -> int:
        return await self._service.count()


class Clerk(WorkerProcess):
    def __init__(self) -> None:
        super().__init__(queue="jobs")
        for name in USUAL:
            setattr(self, f"_{name}", name)

    @operation
    async def work(self) -> str:
        return "done"


async def test_the_usual_names_are_free(container: Container) -> None:
    await container.spawn(Stock)
    await container.spawn(Shop)
    await container.spawn(Clerk)
    assert await container.edge.call("service:shop", "count") == 7
    assert await container.edge.call("service:jobs", "work") == "done"


def test_a_method_that_would_hide_one_of_the_process_is_refused() -> None:
    with pytest.raises(TypeError, match="_start"):

        class Hides(Process):
            def _start(self) -> None:  # type: ignore[override]
                pass


@pytest.mark.parametrize("early", [True, False])
async def test_so_is_an_attribute(container: Container, early: bool) -> None:
    class Hides(Process):
        def __init__(self) -> None:
            super().__init__()
            if early:
                self._open = 5  # type: ignore[assignment,method-assign]

        async def on_init(self) -> None:
            self._open = 5  # type: ignore[assignment,method-assign]

    with pytest.raises(TypeError, match="_open"):
        await container.spawn(Hides)
