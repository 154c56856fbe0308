"""The broker of the settings: its URL with what the environment fills in, and all else that a connection needs.

The broker's own room is imported only where there is one: aio-pika costs a program without a broker nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pelagos.model.errors import InvalidInput

if TYPE_CHECKING:
    from pelagos.exchange.amqp import AmqpConfig
    from pelagos.runtime.settings import Settings

__all__ = ["amqp_config", "broker_answers", "with_variables"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def with_variables(url: str, environ: Mapping[str, str]) -> str:
    """The URL with ``${NAME}`` replaced. Raises InvalidInput for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environ:
            raise InvalidInput(
                f"the broker's URL names the environment variable {name}, which is not set",
                advice=f"Set {name}, or use broker_options.credential_file.",
            )
        return environ[name]

    return _VARIABLE.sub(value, url)


def amqp_config(settings: Settings, url: str, *, system: str, container: str) -> AmqpConfig:
    """How a container reaches the broker. Raises InvalidInput for a URL that is none."""
    from pelagos.exchange.amqp import AmqpConfig

    options = settings.broker_options
    return AmqpConfig(
        url=url,
        system=system,
        container=container,
        vhost=options.vhost or None,
        credential_file=options.credential_file or None,
        ca_file=options.ca_file or None,
        certificate_file=options.certificate_file or None,
        key_file=options.key_file or None,
        verify=options.verify,
        heartbeat=options.heartbeat,
    )


async def broker_answers(settings: Settings, environ: Mapping[str, str]) -> str:
    """Connect to the broker of the settings, and hang up; returns where it is, without credentials. Raises Unavailable
    and InvalidInput, which name none either."""
    from pelagos.exchange.amqp.wire import Wire

    url = with_variables(settings.broker, environ)
    config = amqp_config(settings, url, system=settings.system, container="doctor")
    wire = await Wire.open(config, config.connection_url(), config.tls())
    await wire.close()
    return config.place
