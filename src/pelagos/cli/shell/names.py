"""The names at the prompt: what the ancestor's shell had (reference section 1.6), over a control socket.

``call`` and a client's methods are coroutines, so that they can run side by side; all others are done when they return.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelagos.cli import tables
from pelagos.cli.controlling import address_of
from pelagos.cli.shell.values import Listing, Said
from pelagos.cli.system import System
from pelagos.process.client import client as client_of

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.shell.remote import Remote
    from pelagos.container.control.port import ContainerInfo
    from pelagos.container.messages import AppInfo, NodeInfo, ProcessInfo, ServiceInfo
    from pelagos.exchange import QueueSnapshot
    from pelagos.exchange.sequences import Row

__all__ = ["ShellNames"]


class ShellNames:
    """Each public method is a name at the prompt; its docstring is what ``name?`` shows there."""

    def __init__(self, invocation: Invocation, remote: Remote, classes: dict[str, type]) -> None:
        self._invocation = invocation
        self._remote = remote
        self._classes = classes

    def namespace(self) -> dict[str, Any]:
        """All names, and the processes' classes under their own."""
        found: dict[str, Any] = {cls.__name__: cls for cls in reversed(list(self._classes.values()))}
        for name in dir(self):
            if not name.startswith("_") and name != "namespace":
                found[name] = getattr(self, name)
        found["control"] = self._remote
        return found

    # -- messages ------------------------------------------------------------------------------------------------

    async def call(
        self, address: str, op: str, content: object = None, *, timeout: float | None = None, result: Any = Any
    ) -> Any:
        """await call("hello", "hello", "you"): call an operation of a service, a process (c-1.7) or an address."""
        full = address_of(address)
        return await self._remote.work(lambda system: system.call(full, op, content, result=result, timeout=timeout))

    def send(self, address: str, op: str, content: object = None) -> Said:
        """send("hello", "remember", "you"): one message that nobody answers; raises if nobody serves the address."""
        full = address_of(address)
        self._remote.run(lambda system: system.send(full, op, content))
        return Said("sent")

    def client(self, service: type | str, *, address: str | None = None, timeout: float | None = None) -> Any:
        """hello = client(HelloService); await hello.hello("you"): a typed client, of a class or a startable name."""
        cls: Any = service if isinstance(service, type) else self._classes.get(service)
        if cls is None:
            known = ", ".join(sorted(self._classes)) or "none"
            raise LookupError(f"no class of {service!r} is known here (known: {known}); call it by name: await call(…)")
        return client_of(cls, self._remote, address=address and address_of(address), timeout=timeout)

    def ping(self, address: str, count: int = 1, *, timeout: float = 5.0) -> Said:
        """ping("hello"): whether a service or process answers, and how long that takes."""
        from pelagos.cli.pinging import ping_once

        full = address_of(address)
        times = [self._remote.run(lambda system: ping_once(system, full, timeout)) for _ in range(max(1, count))]
        return Said("\n".join(f"{full} answered in {time:.2f} ms" for time in times))

    # -- processes -----------------------------------------------------------------------------------------------

    def ps(self, service: str = "", *, on: str = "") -> Listing[ProcessInfo]:
        """ps(), ps("hello"), ps(on="c-1"): the processes."""
        found = self._remote.run(lambda system: system.processes(on=on, service=service)).processes
        return Listing(found, tables.processes(found))

    def svc(self) -> Listing[ServiceInfo]:
        """svc(): the services, where they run, and their operations."""
        found = self._remote.run(lambda system: system.services())
        return Listing(found, tables.services(found))

    def names(self, part: str = "", *, on: str = "", full: bool = False) -> Listing[QueueSnapshot]:
        """names(), names("hello", on="c-1"), names(full=True): at which addresses a container receives; what waits."""
        found = self._remote.run(lambda system: system.exchange_names(part, on=on, processes=full))
        return Listing(found.names, tables.names(found))

    def nodes(self) -> Listing[NodeInfo]:
        """nodes(): the containers, alive, suspect, dead or left."""
        found = self._remote.run(lambda system: system.nodes())
        return Listing(found, tables.nodes(found, self._invocation.world.now(), self._remote.info.id))

    def apps(self) -> Listing[AppInfo]:
        """apps(): the apps of all containers."""
        found = [(node.id, app) for node in self.nodes() for app in node.apps]
        return Listing([app for _, app in found], tables.apps(found))

    def spawn(self, name: str, on: str = "any", count: int = 1, **arguments: Any) -> Listing[str]:
        """await spawn("hello"), spawn("hello", on="c-1", count=4, greeting="Ahoy"): start processes; their ids."""
        found = self._remote.run(lambda system: system.spawn(name, on=on, count=count, arguments=arguments))
        return Listing(found.processes, "\n".join(found.processes))

    def kill(self, *pids: str, shutdown: float | None = None) -> Said:
        """kill("c-1.7"): end processes for good."""
        for pid in pids:
            self._remote.run(partial(System.kill, process=str(pid), shutdown=shutdown))
        return Said("\n".join(f"{pid} has ended" for pid in pids))

    def remove_queue(self, service: str, *, drop: bool = False) -> Said:
        """remove_queue("printer"): a durable service's queue, served by nobody; what waits becomes dead letters."""
        address = address_of(service)
        count = self._remote.run(lambda system: system.remove_queue(address, drop=drop))
        fate = "dropped" if drop else "dead letters now"
        return Said(f"{count} waited, {fate}" if count else "nothing waited")

    # -- looking -------------------------------------------------------------------------------------------------

    def observe(
        self,
        last: int | None = None,
        *,
        seconds: float | None = None,
        conversation: str = "",
        service: str = "",
        op: str = "",
        errors: bool = False,
        content: bool = False,
        svg: str = "",
        mermaid: str = "",
    ) -> Listing[Row]:
        """observe(20): the last messages; observe() follows until Ctrl+C, observe(seconds=10) for so long."""
        from pelagos.cli.observation import Stream, line
        from pelagos.exchange import charts
        from pelagos.exchange.observing import ObservationFilter

        wanted = ObservationFilter(conversation, service, op, errors, False, content)
        kept: list[Stream] = []

        def show(stream: Stream, rows: Sequence[Row]) -> None:
            for row in rows:
                self._invocation.say(line(row, stream.label))

        async def look(system: System) -> None:
            import asyncio

            stream = Stream(system, wanted, self._invocation.note)
            kept.append(stream)
            if last is not None:
                await stream.recent(last)
                return
            try:
                async with asyncio.timeout(seconds):
                    async for rows in stream.follow():
                        show(stream, rows)
            except TimeoutError:
                show(stream, stream.rest())

        try:
            self._remote.run(look)
        except KeyboardInterrupt:
            self._invocation.note()
        if not kept:
            return Listing((), "")
        stream = kept[0]
        for path, draw in ((mermaid, charts.mermaid), (svg, charts.svg)):
            if path:
                Path(path).write_text(draw(stream.sequence, title=stream.title), encoding="utf-8")
        rows = stream.sequence.rows
        told = "\n".join(line(row, stream.label) for row in rows) if last is not None else ""
        return Listing(rows, told)

    def log_level(self, room: str = "", level: str = "", *, on: str = "") -> Said:
        """log_level("exchange", "debug"): of a package, in all containers or on one; log_level() lists."""
        from pelagos.cli.rooms import checked_room

        if not room:
            levels = self._remote.run(lambda system: system.log_levels(on=on))
            return Said("\n".join(f"{name or '(all others)'}: {now}" for name, now in levels.items()))

        async def set_level(system: System) -> str:
            name = await checked_room(system, room)
            done = await system.set_log_level(name, "" if level == "default" else level, on=on)
            return f"{name} logs at {level or 'default'} in {', '.join(done)}"

        return Said(self._remote.run(set_level))

    def info(self) -> ContainerInfo:
        """info(): the container at the other end."""
        return self._remote.info
