"""A local cloud on real namespaces, with short words for tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pelagos.clouds import CloudServer, DriverContext, ServerSpec
from pelagos.clouds.local import LocalDriver
from pelagos.model.world import SystemWorld

LEVELS: dict[str, dict[str, Any]] = {"best": {}, "processes": {"isolation": "processes"}}
if os.geteuid() == 0:
    LEVELS["loopback"] = {"network": "loopback"}


class LocalCloud:
    """A driver of one account, with short words for tests."""

    def __init__(self, home: Path, options: dict[str, Any]) -> None:
        self.home = home
        self.world = SystemWorld(threads=8)
        context = DriverContext(account="local", world=self.world, home=home, options={"stop_grace": 1.0, **options})
        self.driver = LocalDriver(context)
        self.instances = home / "clouds" / "local" / "instances"

    async def make(self, name: str = "one", user_data: str = "", **more: Any) -> CloudServer:
        group = more.pop("group", "")
        metadata = more.pop("metadata", {})
        token = more.pop("token", f"token-{name}")
        spec = ServerSpec(name=name, user_data=user_data, group=group, metadata=metadata, options=more)
        return await self.driver.create_server(spec, token=token, timeout=60)

    async def sh(self, server: CloudServer, text: str) -> str:
        """What a shell inside says; it must succeed."""
        result = await self.driver.execute(server.provider_id, ["sh", "-c", text], timeout=90)
        assert result.exit_code == 0, result.output
        return result.output

    async def code(self, server: CloudServer, text: str) -> int:
        return (await self.driver.execute(server.provider_id, ["sh", "-c", text], timeout=90)).exit_code

    async def get(self, server: CloudServer) -> CloudServer:
        return await self.driver.get_server(server.provider_id, timeout=10)

    async def console(self, server: CloudServer) -> str:
        return await self.driver.console(server.provider_id, max_bytes=1 << 20, timeout=10)

    async def console_says(self, server: CloudServer, text: str) -> str:
        return await self.until(lambda: self.console(server), lambda said: text in said)

    async def until(self, look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
        seen = None
        try:
            async with asyncio.timeout(20):
                while True:
                    seen = await look()
                    if good(seen):
                        return seen
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"last seen: {seen}") from None

    async def level(self) -> str:
        return (await self.driver.facts()).isolation.value

    async def key(self) -> str:
        return (await self.driver._life()).book.key

    async def clear(self) -> None:
        for server in await self.driver.list_servers(timeout=10):
            await self.driver.delete_server(server.provider_id, timeout=30)

    def processes(self) -> list[str]:
        """Processes of this machine that belong to this cloud: they hold one of its files, or name an instance."""
        found = []
        marker = str(self.home).encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                held = [os.readlink(f"{entry}/fd/{fd}").encode() for fd in os.listdir(f"{entry}/fd")]
                if any(path.startswith(marker) for path in held):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()!r}")
            except OSError:
                continue
        return found
