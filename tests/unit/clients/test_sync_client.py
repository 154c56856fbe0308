"""The sync face, against an edge that another thread's loop serves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pelagos.clients import InProcessTransport, connect
from pelagos.clients.sync import SyncClient
from pelagos.model.errors import NotFound
from pelagos.model.states import RunState
from support.edge_scene import RUN, Scene, edge_scene


class Whole:
    """A client whose server is opened and closed with it, on the portal's loop."""

    def __init__(self, directory: Path) -> None:
        self._scene = edge_scene(directory)
        self.scene: Scene

    async def __aenter__(self) -> Any:
        self.scene = await self._scene.__aenter__()
        client = connect(InProcessTransport(self.scene.application.trusted))
        self.runs, self.infrastructures = client.runs, client.infrastructures
        self.definitions, self.servers = client.definitions, client.servers
        self.clouds, self.orphans = client.clouds, client.orphans
        self.events, self.health, self.happen = client.events, client.health, self.scene.happen
        self._client = await client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)
        await self._scene.__aexit__(*error)


def test_calls_and_errors(tmp_path: Path) -> None:
    before = threading.active_count()
    with SyncClient(Whole(tmp_path)) as client:  # type: ignore[arg-type]
        assert client.health().status == "ok"
        assert client.infrastructures.status("shop").name == "shop"
        with pytest.raises(NotFound):
            client.infrastructures.status("nothing")
    assert threading.active_count() == before
    with pytest.raises(AttributeError):
        client.health()


def test_streams_to_their_end_and_left_early(tmp_path: Path) -> None:
    whole = Whole(tmp_path)
    with SyncClient(whole) as client:  # type: ignore[arg-type]
        client.happen("run.started", "run.succeeded")
        whole.scene.domain.run_state = RunState.SUCCEEDED
        assert [event.kind for event in client.runs.follow(RUN)] == ["run.started", "run.succeeded"]
        left = client.events(follow=True)
        assert next(left).kind == "run.started"
        dropped = client.events(follow=True)
        next(dropped)
        dropped.close()
    assert whole.scene.edge.snapshot()["streams_opened"] == 3
    assert whole.scene.edge.snapshot()["streams_closed"] == 3
    assert list(left) == []


def test_several_threads_share_a_client(tmp_path: Path) -> None:
    found: list[str] = []
    with SyncClient(Whole(tmp_path)) as client:  # type: ignore[arg-type]
        threads = [
            threading.Thread(target=lambda: found.append(client.infrastructures.status("shop").name)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["shop"] * 8
