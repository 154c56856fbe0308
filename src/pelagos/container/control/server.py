"""The container's end of its control socket: a process that calls and listens for other programs of this user.

Who may connect is decided three times: by the directory's mode, the socket's mode, and the peer's user, asked of the
kernel. Calls go out as the container's edge, with its scope; what an operation allows its callers is the policy's.

The container's own agent is called at its process address, which is reached without the broker. A service's address
goes through it, and a broker that is silent would keep a container from telling about itself.

Bounds: a connection may have a few hundred requests under way, beyond which it is not read; what is published to a slow
listener drops the oldest and counts; a client that does not read its answers is not read either.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pelagos.container.agent import AgentProcess
from pelagos.container.container import Container
from pelagos.container.control.frames import (
    MAX_FRAME,
    PROTOCOL,
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
from pelagos.container.control.port import ContainerInfo
from pelagos.container.control.sockets import bind_control, live_sockets, peer_uid, socket_path
from pelagos.container.messages import agent_of
from pelagos.exchange import Delivery, Kind, Receiver, kind_of
from pelagos.model.errors import Forbidden, InternalError, InvalidInput, PelagosError, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import Context, Process, get_logger, use_context

__all__ = ["ControlProcess"]

log = get_logger(__name__)

_MOST_REQUESTS = 256
"""Under way on one connection; it is not read on beyond."""
_MOST_STREAMS = 64
_MOST_CONNECTIONS = 256
_WRITE_AHEAD = 256 * 1024
"""Bytes that may wait for a client before its requests and streams wait for it."""


class ControlProcess(Process):
    """Serves ``<home>/control/<system>/<container id>.sock`` as long as it lives.

    ``info`` is asked anew for each connection. ``context`` is what calls run in: it names who the edge acts for. If it
    is ``held``, whoever connects waits until :meth:`open`: then all that may be asked for is there."""

    def __init__(
        self,
        container: Container,
        home: Path,
        info: Callable[[], ContainerInfo],
        *,
        context: Callable[[], Context] | None = None,
        held: bool = False,
    ) -> None:
        super().__init__()
        self._held = held
        self._resident = container
        self._home = home
        self._info = info
        self._context = context
        self._path: Path | None = None
        self._inode: tuple[int, int] | None = None
        self._listener: asyncio.Server | None = None
        self._links: dict[_Peer, None] = {}
        self.refused = 0
        """Connections of other users, or beyond the most."""

    @property
    def label(self) -> str:
        return "control"

    async def on_init(self) -> None:
        self._path = socket_path(self._home, self._resident.config.system, self._resident.id)
        bound = bind_control(self._path)
        found = self._path.lstat()
        self._inode = (found.st_dev, found.st_ino)
        live_sockets(self._home, self._resident.config.system)  # removes what dead containers left
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: _Peer(self), sock=bound, start_serving=False)

    async def on_activate(self) -> None:
        if not self._held:
            await self.open()

    async def open(self) -> None:
        """Accept connections, those first that were made before."""
        if self._listener is not None:
            await self._listener.start_serving()

    async def on_deactivate(self) -> None:
        self._close_all()

    async def on_terminate(self) -> None:
        self._close_all()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._path is not None and self._inode is not None:
            try:
                found = self._path.lstat()
                if (found.st_dev, found.st_ino) == self._inode:  # else another one's, who took the place since
                    self._path.unlink()
            except FileNotFoundError:
                pass

    def _close_all(self) -> None:
        for peer in list(self._links):
            peer.end(Unavailable("the container is stopping"))

    # -- for the connections -------------------------------------------------------------------------------------

    def admit(self, peer: _Peer, connection: socket.socket) -> PelagosError | None:
        """None, and it is kept; else why not."""
        uid = peer_uid(connection)
        if uid not in (0, os.geteuid()):
            self.refused += 1
            log.warning("a peer of another user was refused", uid=uid)
            return Forbidden("this container is another user's")
        if len(self._links) >= _MOST_CONNECTIONS:
            self.refused += 1
            return Unavailable(f"{_MOST_CONNECTIONS} programs are connected already", advice="Close some of them.")
        self._links[peer] = None
        return None

    def forget(self, peer: _Peer) -> None:
        self._links.pop(peer, None)

    def welcome(self) -> ContainerInfo:
        return self._info()

    async def carry_out(self, request: Call) -> bytes:
        """A call as the edge; returns the encoded result."""
        context = msgspec.structs.replace(self._edge_context(), request_id=request.request_id)
        content: bytes = await self._resident.edge.caller.call(
            self._nearest(request.address), request.op, request.content, bytes, request.timeout, context
        )
        return content

    def _nearest(self, address: str) -> str:
        """The address itself, but of the agent here that of its process."""
        resident = self._resident
        if address == resident.names.full(agent_of(resident.id)):
            for process in resident.processes:
                if isinstance(process, AgentProcess):
                    return resident.names.full(f"process:{process.id}")
        return address

    async def forward(self, request: Send) -> None:
        """A one-way message as the edge. To a process or service it is in the queue when this returns, which takes no
        longer than a call may. Raises :class:`DeadlineExceeded`."""
        caller = self._resident.edge.caller
        deadline = asyncio.get_running_loop().time() + self._resident.call_timeout
        with use_context(msgspec.structs.replace(self._edge_context(), deadline=deadline)):
            if kind_of(request.address) in (Kind.PROCESS, Kind.SERVICE):
                await caller.send(request.address, request.op, request.content)
            else:
                caller.post(request.address, request.op, request.content)

    async def subscribe(self, request: Listen, take: Callable[[bytes], None]) -> Any:
        if kind_of(request.address) not in (Kind.FANOUT, Kind.TOPIC):
            raise InvalidInput(
                f"{request.address} is not a fan-out or topic", advice="Only those can be listened to by others."
            )

        def receive(delivery: Delivery) -> None:
            take(delivery.envelope.content)
            delivery.ack()

        return await self._resident.transport.subscribe(Receiver(request.address, capacity=1024), receive)

    def _edge_context(self) -> Context:
        return Context(DEFAULT_SCOPE) if self._context is None else self._context()


class _Listener:
    """One listening: what waits for the client, bounded."""

    def __init__(self, capacity: int) -> None:
        self.items: deque[bytes] = deque(maxlen=max(1, min(capacity, 65_536)))
        self.dropped = 0
        self.came = asyncio.Event()

    def take(self, content: bytes) -> None:
        if len(self.items) == self.items.maxlen:
            self.dropped += 1
        self.items.append(content)
        self.came.set()


class _Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: ControlProcess) -> None:
        self._server = server
        self._reader = FrameReader()
        self._decode = msgspec.msgpack.Decoder(FromClient).decode
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._streams = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_AHEAD)
        refusal = self._server.admit(self, transport.get_extra_info("socket"))
        if refusal is not None:
            self.end(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._writable.set()
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        self._read_on()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(self._decode(frame))
        except (msgspec.DecodeError, RecursionError) as error:
            self.end(InvalidInput(f"not a control message: {error}", advice="Use the client of the same version."))
        except PelagosError as error:
            self.end(error)

    def end(self, error: PelagosError) -> None:
        """Say why, and hang up."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(Failed(0, error.payload())))
            self._transport.close()

    # -- requests ------------------------------------------------------------------------------------------------

    def _take(self, message: FromClient) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if not self._greeted:
            if not isinstance(message, Hello):
                raise InvalidInput("the first control message is not a greeting")
            if message.protocol != PROTOCOL:
                raise InvalidInput(
                    f"the client speaks version {message.protocol} of the control protocol, this container {PROTOCOL}",
                    advice="Use commands and containers of one version of Pelagos.",
                )
            self._greeted = True
            self._write(Welcome(self._server.welcome()))
            return
        match message:
            case Call():
                self._begin(message.number, self._call(message), "call")
            case Send():
                self._begin(message.number, self._send(message), "send")
            case Listen():
                if self._streams >= _MOST_STREAMS:
                    error = Unavailable(f"{_MOST_STREAMS} listenings are open already", advice="Close some of them.")
                    self._write(Failed(message.number, error.payload()))
                    return
                self._begin(message.number, self._listen(message), "listen")
            case Cancel(number):
                task = self._tasks.get(number)
                if task is not None:
                    task.cancel()
            case Hello():
                raise InvalidInput("a second greeting")

    def _begin(self, number: int, work: Any, name: str) -> None:
        if number in self._tasks or number <= 0:
            work.close()
            raise InvalidInput(f"the request number {number} is taken, or none")
        task = self._server.start_task(work, name=f"{name} {number}")
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._ended(number))
        if len(self._tasks) >= _MOST_REQUESTS and self._transport is not None:
            self._transport.pause_reading()

    def _ended(self, number: int) -> None:
        self._tasks.pop(number, None)
        self._read_on()

    def _read_on(self) -> None:
        transport = self._transport
        if (
            transport is not None
            and not transport.is_closing()
            and self._writable.is_set()
            and len(self._tasks) < _MOST_REQUESTS
        ):
            transport.resume_reading()

    def _write(self, message: FromServer) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(message))

    async def _call(self, request: Call) -> None:
        try:
            content = await self._server.carry_out(request)
            if len(content) > MAX_FRAME - 64:
                raise InvalidInput(
                    f"the answer has {len(content)} bytes; at most {MAX_FRAME} pass the control socket",
                    advice="Ask for less, for example page by page.",
                )
            answer: FromServer = Result(request.number, content)
        except PelagosError as error:
            answer = Failed(request.number, error.payload())
        except Exception as error:  # noqa: BLE001 - an edge: told to the caller, and in the log
            answer = Failed(request.number, _defect(error).payload())
        await self._writable.wait()
        self._write(answer)

    async def _send(self, request: Send) -> None:
        try:
            await self._server.forward(request)
            answer: FromServer = Result(request.number, b"\xc0")
        except PelagosError as error:
            answer = Failed(request.number, error.payload())
        self._write(answer)

    async def _listen(self, request: Listen) -> None:
        listener = _Listener(request.capacity)
        self._streams += 1
        subscription = None
        try:
            subscription = await self._server.subscribe(request, listener.take)
            self._write(Listening(request.number))
            while True:
                await listener.came.wait()
                listener.came.clear()
                while listener.items:
                    await self._writable.wait()
                    if listener.items:
                        self._write(Item(request.number, listener.items.popleft(), listener.dropped))
        except PelagosError as error:
            self._write(Failed(request.number, error.payload()))
        finally:
            self._streams -= 1
            if subscription is not None:
                await subscription.close()


def _defect(error: Exception) -> InternalError:
    log.error("a control request failed unexpectedly", exc_info=error)
    return InternalError(f"the control socket failed: {type(error).__name__}: {error}")
