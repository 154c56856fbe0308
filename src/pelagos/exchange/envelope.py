"""The message: headers beside the content, and its codec.

Content is encoded once, by whoever knows its type, and stays bytes from then on: encoding an envelope copies them,
nothing reads or encodes them again. The ancestor put headers and content in one flat map (reference section 3.6), so
that every hop decoded the payload and a payload could shadow a header. Header names are kept where they mean the same.

Bytes from outside may nest deeper than Python's stack, also in a field that nobody knows, and the decoder then raises a
RecursionError: that is one more way to be no message.

A deadline travels as the milliseconds that remain, not as a time: clocks of two hosts differ, durations do not.
"""

from __future__ import annotations

import enum

import msgspec

from pelagos.model.errors import ErrorPayload, InternalError, InvalidInput, PelagosError
from pelagos.model.scope import Scope

__all__ = [
    "SCHEMA_VERSION",
    "Envelope",
    "Performative",
    "Status",
    "decode",
    "decode_error",
    "encode",
    "encode_error",
    "reply_to",
]

SCHEMA_VERSION = 1


class Performative(enum.StrEnum):
    """The speech act (reference section 5.1)."""

    REQUEST = "request"
    AGREE = "agree"
    REFUSE = "refuse"
    INFORM_RESULT = "inform_result"
    FAILURE = "failure"
    INFORM = "inform"
    CANCEL = "cancel"


# Looking a member up in its enum costs almost as much as making a message.
_REQUEST, _INFORM, _CANCEL = Performative.REQUEST, Performative.INFORM, Performative.CANCEL


class Status(enum.StrEnum):
    OK = "OK"
    ERROR = "ERROR"


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True, rename="kebab", gc=False):
    """One message.

    ``receiver``, ``sender`` and ``reply_to`` are full addresses (see :mod:`pelagos.exchange.address`); ``ts`` is the
    sender's clock in milliseconds since the epoch; ``remaining_ms`` is what was left of the deadline when it was sent,
    None without one; ``depth`` counts the requests that wait for this one's answer. ``content`` is msgpack.

    ``identity`` is what the sender says of whose request it is, ``assertion`` a signed statement of it, which the
    identity interceptor checks; ``expiry`` is when that authority ends, in seconds since the epoch, 0 for never.
    ``signer`` and ``signature`` are the signature interceptor's. ``sender_name`` is the sender's label, for people.
    """

    receiver: str
    sender: str
    op: str
    performative: Performative
    conv_id: str
    content: bytes = b"\xc0"
    conv_seq: int = 1
    protocol: str = "rpc"
    status: Status = Status.OK
    reply_to: str | None = None
    ts: int = 0
    remaining_ms: int | None = None
    depth: int = 0
    identity: Scope | None = None
    trace: str = ""
    request_id: str | None = None
    assertion: bytes = b""
    expiry: int = 0
    sender_name: str = ""
    signer: str = ""
    signature: bytes = b""
    v: int = SCHEMA_VERSION

    @property
    def is_reply(self) -> bool:
        """It answers a request: it belongs to the sender's open call and waits in no queue."""
        # Identities, not a set: hashing a member of an enum is a Python call, and every message passes here.
        performative = self.performative
        return performative is not _REQUEST and performative is not _INFORM and performative is not _CANCEL

    @property
    def wants_answer(self) -> bool:
        """It is a request, and names the mailbox that its answer goes to.

        Whoever refuses a message answers it before anybody knows who sent it, and signs the answer: led to a service or
        a topic by a forged ``reply_to``, it would be believed there."""
        back = self.reply_to
        return self.performative is Performative.REQUEST and back is not None and back.startswith("process:")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)
_error_encoder = msgspec.msgpack.Encoder(enc_hook=repr)
_error_decoder = msgspec.msgpack.Decoder(ErrorPayload)


def encode(envelope: Envelope) -> bytes:
    """The envelope as one msgpack map."""
    return _encoder.encode(envelope)


def decode(data: bytes) -> Envelope:
    """The envelope of bytes from outside. Raises :class:`InvalidInput` for anything else and for a newer schema."""
    try:
        envelope = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"not a message: {error}") from error
    if envelope.v > SCHEMA_VERSION:
        raise InvalidInput(
            f"a message of schema {envelope.v}; this container reads up to {SCHEMA_VERSION}",
            advice="Upgrade this container.",
        )
    return envelope


def reply_to(
    request: Envelope,
    performative: Performative,
    content: bytes,
    *,
    sender: str,
    status: Status = Status.OK,
    ts: int = 0,
    conv_seq: int | None = None,
) -> Envelope:
    """The answer to ``request``, which must have a ``reply_to``."""
    assert request.reply_to is not None
    return Envelope(
        request.reply_to,
        sender,
        "result",
        performative,
        request.conv_id,
        content,
        request.conv_seq + 1 if conv_seq is None else conv_seq,
        request.protocol,
        status,
        None,
        ts,
        trace=request.trace,
    )


def encode_error(error: PelagosError) -> bytes:
    """The error as content of a reply. Details that msgpack cannot carry travel as their text."""
    payload = error.payload()
    try:
        content = _error_encoder.encode(payload)
        _error_decoder.decode(content)  # errors are rare; that each can be read at the other end is worth the time
    except (TypeError, ValueError, OverflowError, RecursionError):
        details = {str(key): repr(value) for key, value in payload.details.items()}
        content = _error_encoder.encode(msgspec.structs.replace(payload, details=details))
    return content


def decode_error(content: bytes) -> ErrorPayload:
    """The error in a reply of status ERROR; content that is none becomes an :class:`InternalError`'s payload."""
    try:
        return _error_decoder.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        return InternalError(f"an error reply that cannot be read: {error}").payload()
