"""Messages, names, and the transports that carry them. See README.md."""

from pelagos.exchange.address import Address, Kind, Names, NameScope, kind_of, topic_matches
from pelagos.exchange.envelope import (
    Envelope,
    Performative,
    Status,
    decode,
    decode_error,
    encode,
    encode_error,
    reply_to,
)
from pelagos.exchange.memory import MemoryTransport
from pelagos.exchange.transport import (
    DeadLetter,
    DeadLetters,
    Delivery,
    Handler,
    QueueSnapshot,
    Receiver,
    Subscription,
    Transport,
    TransportSnapshot,
)

__all__ = [
    "Address",
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "Envelope",
    "Handler",
    "Kind",
    "MemoryTransport",
    "NameScope",
    "Names",
    "Performative",
    "QueueSnapshot",
    "Receiver",
    "Status",
    "Subscription",
    "Transport",
    "TransportSnapshot",
    "decode",
    "decode_error",
    "encode",
    "encode_error",
    "kind_of",
    "reply_to",
    "topic_matches",
]
