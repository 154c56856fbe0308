"""The client's end of a control socket.

A protocol, not a reading task: frames resolve futures as they come, so a client needs no task that somebody would have
to own, and a call cancelled by its caller is one small frame to the container. When the container goes away, everything
that waits fails at once as ``Unavailable``, marked uncertain: what was called may have been done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from pelagos.container.control.frames import (
    Call,
    Cancel,
    Failed,
    FrameReader,
    FromClient,
    FromServer,
    Hello,
    Item,
    Listen,
    Listening,
    Result,
    Send,
    Welcome,
    encode_frame,
)
from pelagos.container.control.port import ContainerInfo, Control, RemoteCaller
from pelagos.container.control.sockets import live_sockets
from pelagos.exchange import Names
from pelagos.model.errors import (
    Ambiguous,
    DeadlineExceeded,
    InternalError,
    NotFound,
    Retry,
    Unavailable,
    from_payload,
)
from pelagos.process import Context, current_context

__all__ = ["connect_control", "running_containers"]

_START = "Start one with `pelagos container`, and give the same --system and home."
_GREETING = 10.0
"""Seconds a container may take to say who it is."""


def running_containers(home: Path, system: str | None = None) -> list[tuple[str, str]]:
    """System and id of each container of this home that answers, the newest first."""
    return [(name, container) for name, container, _ in live_sockets(home, system)]


async def connect_control(home: Path, system: str | None = None, container: str | None = None) -> Control:
    """A control of a container that runs in another program of this user: the named one, else the newest.

    Raises :class:`Unavailable` if none runs, :class:`NotFound` if not the named one, and :class:`Ambiguous` if no
    system is named and several have containers here.
    """
    found = live_sockets(home, system)
    where = f"of system {system!r} " if system else ""
    if not found:
        raise Unavailable(f"no container {where}runs here (home {home})", advice=_START)
    systems = sorted({name for name, _, _ in found})
    if container is not None:
        named = [entry for entry in found if entry[1] == container]
        if not named:
            there = ", ".join(entry[1] for entry in found)
            raise NotFound(f"no container {container!r} {where}runs here", advice=f"There are: {there}.")
        found = named
    elif len(systems) > 1:
        raise Ambiguous(
            f"containers of several systems run here: {', '.join(systems)}",
            advice="Name one with --system.",
            details={"systems": systems},
        )
    return await _connect(found[0][2])


async def _connect(path: Path) -> Control:
    loop = asyncio.get_running_loop()
    try:
        _, link = await loop.create_unix_connection(_Link, str(path))
    except OSError as error:
        raise Unavailable(f"the container at {path} does not answer: {error.strerror}", advice=_START) from error
    try:
        async with asyncio.timeout(_GREETING):
            return _Control(link, await link.greet())
    except TimeoutError:
        link.close()
        raise Unavailable(
            f"the container at {path} does not say who it is",
            advice="It may be blocked or overloaded; look at its log.",
        ) from None
    except BaseException:
        link.close()
        raise


class _Stream:
    """Items of one listening, as far as they have come; the container drops the oldest beyond ``capacity``."""

    def __init__(self, capacity: int) -> None:
        self.items: deque[bytes] = deque()
        self.capacity = capacity
        self.dropped = 0
        self.error: Exception | None = None
        self.wake: asyncio.Future[None] | None = None

    def tell(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class _Link(asyncio.Protocol):
    def __init__(self) -> None:
        self._reader = FrameReader()
        self._decode = msgspec.msgpack.Decoder(FromServer).decode
        self._transport: asyncio.Transport | None = None
        self._count = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, _Stream] = {}
        self._welcome: asyncio.Future[ContainerInfo] = asyncio.get_running_loop().create_future()
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._failure: Exception | None = None

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(encode_frame(Hello()))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(self._decode(frame))
        except Exception as error:  # noqa: BLE001 - an edge: the connection ends with it
            self._failure = InternalError(f"the container sent something that cannot be read: {error}")
            self.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        failure = self._failure or _gone()
        self._failure = failure
        self._writable.set()
        if not self._welcome.done():
            self._welcome.set_exception(failure)
            self._welcome.exception()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure)
                future.exception()
        self._waiting.clear()
        for stream in self._streams.values():
            stream.error = failure
            stream.tell()
        self._streams.clear()
        if not self._gone.done():
            self._gone.set_result(None)

    def _take(self, message: FromServer) -> None:
        match message:
            case Welcome(info, _):
                if not self._welcome.done():
                    self._welcome.set_result(info)
            case Result(number, content):
                self._settle(number, content, None)
            case Listening(number):
                self._settle(number, b"", None)
            case Item(number, content, dropped):
                stream = self._streams.get(number)
                if stream is not None:
                    stream.items.append(content)
                    stream.dropped = dropped
                    if len(stream.items) >= stream.capacity and self._transport is not None:
                        self._transport.pause_reading()
                    stream.tell()
            case Failed(0, error):
                self._failure = from_payload(error)
                self.close()
            case Failed(number, error):
                stream = self._streams.pop(number, None)
                if stream is not None:
                    stream.error = from_payload(error)
                    stream.tell()
                self._settle(number, b"", from_payload(error))

    def _settle(self, number: int, content: bytes, error: Exception | None) -> None:
        future = self._waiting.pop(number, None)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(content)
        else:
            future.set_exception(error)

    # -- for the control -----------------------------------------------------------------------------------------

    async def greet(self) -> ContainerInfo:
        return await self._welcome

    def next_number(self) -> int:
        self._count += 1
        return self._count

    async def ask(self, number: int, message: FromClient) -> bytes:
        """Send a request and wait for its answer; a cancelled wait cancels it there as well."""
        frame = encode_frame(message)
        await self._writable.wait()
        transport = self._transport
        if self._failure is not None or transport is None or transport.is_closing():
            raise self._failure or _gone(uncertain=False)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        transport.write(frame)
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(number)
            raise
        finally:
            self._waiting.pop(number, None)

    def forget(self, number: int) -> None:
        """Nothing more is wanted of a request."""
        self._streams.pop(number, None)
        self.resume()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(Cancel(number)))

    def open_stream(self, number: int, capacity: int) -> _Stream:
        stream = self._streams[number] = _Stream(capacity)
        return stream

    def resume(self) -> None:
        """Read on, once no stream is full."""
        if self._transport is not None and all(len(s.items) < s.capacity for s in self._streams.values()):
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def closed(self) -> None:
        await self._gone


class _RemoteCaller:
    def __init__(self, link: _Link, names: Names) -> None:
        self._link = link
        self._names = names

    @property
    def names(self) -> Names:
        return self._names

    async def call(
        self,
        address: str,
        op: str,
        content: bytes,
        decode: Callable[[bytes], Any],
        timeout: float | None,
        context: Context | None,
    ) -> Any:
        here = current_context() if context is None else context
        if here.deadline is not None:
            remaining = here.deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                raise DeadlineExceeded(f"no time was left to call {op} of {address}; nothing was done")
            timeout = remaining if timeout is None else min(timeout, remaining)
        number = self._link.next_number()
        answer = await self._link.ask(number, Call(number, address, op, content, timeout, here.request_id))
        try:
            return decode(answer)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise InternalError(
                f"{op} of {address} answered with something else than it declares: {problem}"
            ) from problem


class _Control:
    """See :class:`pelagos.container.control.port.Control`."""

    def __init__(self, link: _Link, info: ContainerInfo) -> None:
        self._link = link
        self._info = info
        self._caller = _RemoteCaller(link, Names(info.id, info.system))
        self.dropped = 0
        """Messages that listening has lost because this program was slow."""

    @property
    def info(self) -> ContainerInfo:
        return self._info

    @property
    def caller(self) -> RemoteCaller:
        return self._caller

    async def call(
        self, address: str, op: str, content: object = None, *, result: Any = Any, timeout: float | None = None
    ) -> Any:
        return await self._caller.call(
            self._caller.names.full(address),
            op,
            msgspec.msgpack.encode(content),
            msgspec.msgpack.Decoder(result).decode,
            timeout,
            None,
        )

    async def send(self, address: str, op: str, content: object = None) -> None:
        number = self._link.next_number()
        full = self._caller.names.full(address)
        await self._link.ask(number, Send(number, full, op, msgspec.msgpack.encode(content)))

    async def listen(self, address: str, content: Any = Any) -> AsyncIterator[Any]:
        decode = msgspec.msgpack.Decoder(content).decode
        number = self._link.next_number()
        request = Listen(number, self._caller.names.full(address))
        stream = self._link.open_stream(number, request.capacity)
        counted = 0
        try:
            await self._link.ask(number, request)
            while True:
                while stream.items:
                    item = stream.items.popleft()
                    self._link.resume()
                    self.dropped += stream.dropped - counted
                    counted = stream.dropped
                    try:
                        value = decode(item)
                    except (msgspec.DecodeError, RecursionError):
                        self.dropped += 1  # somebody published something else there
                        continue
                    yield value
                if stream.error is not None:
                    raise stream.error
                stream.wake = asyncio.get_running_loop().create_future()
                await stream.wake
        finally:
            self._link.forget(number)

    async def close(self) -> None:
        self._link.close()
        await self._link.closed()

    async def __aenter__(self) -> _Control:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _gone(*, uncertain: bool = True) -> Unavailable:
    error = Unavailable("the container went away", advice=_START)
    if uncertain:
        error.retry = Retry.UNCERTAIN
    return error
