"""The transport on RabbitMQ. Importing this room costs nothing: the client library is imported with the transport.

Without the library, asking for :class:`AmqpTransport` raises :class:`Unsupported` with advice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.model.errors import Unsupported

if TYPE_CHECKING:
    from pelagos.exchange.amqp.transport import AmqpTransport

__all__ = ["AmqpConfig", "AmqpTransport"]


def __getattr__(name: str) -> Any:
    if name != "AmqpTransport":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from pelagos.exchange.amqp.transport import AmqpTransport
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("aiormq", "pamqp", "yarl"):
            raise
        raise Unsupported(
            "the exchange on RabbitMQ needs aio-pika, which is not installed",
            advice="pip install 'pelagos[amqp]'",
        ) from error
    return AmqpTransport
