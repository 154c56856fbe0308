"""What travels on a control socket: frames of a length (four bytes, big-endian) and a msgpack map, both ways.

Requests are told apart by numbers that the client chooses, so many are under way at once and each may be cancelled. The
content of calls is carried as bytes: only its two ends know its type.
"""

from __future__ import annotations

import struct

import msgspec

from pelagos.container.control.port import ContainerInfo
from pelagos.model.errors import ErrorPayload, InvalidInput

__all__ = [
    "MAX_FRAME",
    "PROTOCOL",
    "Call",
    "Cancel",
    "Failed",
    "FrameReader",
    "FromClient",
    "FromServer",
    "Hello",
    "Item",
    "Listen",
    "Listening",
    "Result",
    "Send",
    "Welcome",
    "encode_frame",
]

PROTOCOL = 1
MAX_FRAME = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The client's first word."""

    protocol: int = PROTOCOL


class Call(msgspec.Struct, frozen=True, tag="call", omit_defaults=True):
    number: int
    address: str
    """Full."""
    op: str
    content: bytes
    timeout: float | None = None
    """Seconds; None: the container's default."""
    request_id: str | None = None


class Send(msgspec.Struct, frozen=True, tag="send"):
    """One message that nobody answers; the frame itself is answered once it is in the receiver's queue,
    or on its way to whoever listens."""

    number: int
    address: str
    op: str
    content: bytes


class Listen(msgspec.Struct, frozen=True, tag="listen", omit_defaults=True):
    number: int
    address: str
    capacity: int = 1024
    """How many messages may wait for the client; the oldest is dropped when there are more."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Ends a call or a listening. Nothing more comes for its number, or one answer that was on its way."""

    number: int


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    info: ContainerInfo
    protocol: int = PROTOCOL


class Result(msgspec.Struct, frozen=True, tag="result"):
    number: int
    content: bytes


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """What is published from now on comes as items."""

    number: int


class Item(msgspec.Struct, frozen=True, tag="item", omit_defaults=True):
    number: int
    content: bytes
    dropped: int = 0
    """How many were lost before this one, since the listening began."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The answer to a request is an error. Number 0: the connection itself is at fault, and ends."""

    number: int
    error: ErrorPayload


FromClient = Hello | Call | Send | Listen | Cancel
FromServer = Welcome | Result | Listening | Item | Failed

_encoder = msgspec.msgpack.Encoder(enc_hook=repr)


def encode_frame(message: FromClient | FromServer) -> bytes:
    """Raises :class:`InvalidInput` if it is larger than a frame may be."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise InvalidInput(
            f"{len(body)} bytes are more than a control message may have ({MAX_FRAME})",
            advice="Send bulk data by a service made for it, not by a call.",
        )
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Raises :class:`InvalidInput` for a length beyond the limit: what follows is
        no protocol of ours."""
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise InvalidInput(f"a frame of {length} bytes; at most {MAX_FRAME} are allowed")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return frames
