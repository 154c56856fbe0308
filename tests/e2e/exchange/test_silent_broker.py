"""A broker that answers nothing any more: whoever leaves it does not wait in full for each thing it tries."""

from __future__ import annotations

import pytest
from pamqp import commands as spec

from e2e.exchange.conftest import transports
from pelagos.exchange import Receiver
from pelagos.model.errors import Unavailable
from support.brokers import skip_without_broker, throw_away_system
from support.chaos_proxy import proxy
from support.inbox import Inbox, ack

pytestmark = [pytest.mark.anyio, pytest.mark.amqp, pytest.mark.e2e]


async def test_only_the_first_wait_is_a_long_one() -> None:
    url = skip_without_broker()
    host, _, port = url.rpartition("@")[2].partition("/")[0].partition(":")
    if host not in ("127.0.0.1", "localhost"):
        pytest.skip("the proxy reaches a broker of this host alone")
    async with throw_away_system(url) as system, proxy(int(port or 5672)) as network:
        through = url.replace(f"{host}:{port or 5672}", f"127.0.0.1:{network.port}")
        async with transports(through, system) as make:
            transport = await make("a", reply_timeout=2.5)
            await transport.subscribe(Receiver("service:test.store"), Inbox(ack))
            channel = await transport._link.wire.channel()
            network.open.clear()
            for patience in ("2.5 s", "0.5 s", "0.5 s"):
                with pytest.raises(Unavailable, match=f"did not answer Queue.Declare in {patience}"):
                    await channel.call(spec.Queue.Declare(queue="any", passive=True))
            assert transport._link.wire.silent
            network.open.set()
            assert await transport.wait_served("service:test.store", 10)
            assert not transport._link.wire.silent
