"""Attributes that instances report: whoever is made later is told what they report by then."""

from __future__ import annotations

import json

import pytest

from pelagos.clouds.values import CommandResult
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.attributes import FILE
from pelagos.store.schema import events as event_rows
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio


def shop():
    sources = describe(
        "shop",
        {
            "db": {"policy": "{heal: {shutdown: restart}}"},
            "web": {"text": "use {{ attributes.secret }}", "scaling": (1, 3)},
        },
    )
    edge = "dependencies:\n  - connection: [*WEB, *DB]\n    mappings:\n"
    return {
        **sources,
        "infra.yaml": sources["infra.yaml"] + edge + "      - {attributes: [token, secret], synch: true}\n",
    }


def report(site, **attributes):
    site.east.answer(("cat", FILE), CommandResult(0, json.dumps(attributes)))


def told(site):
    """What the servers of web were told, by their ids."""
    alive = {server.provider_id for server in site.east.servers() if "-web-" in server.name}
    return {key: site.east.datacenter.find_shown(key).user_data for key in alive}


async def all_ready(site, program, count):
    async def well():
        nodes = (await program.status()).nodes
        states = [i.state for node in nodes.values() for i in node.instances.values()]
        return states == [InstanceState.READY] * count

    await site.until(well, f"{count} ready instances")


async def test_an_instance_that_is_made_later_is_told_what_is_reported_then(site):
    report(site, token="first", other=1)
    program = await site.program(serves=True)
    await program.build(shop())
    await all_ready(site, program, 2)
    ((old, text),) = told(site).items()
    assert "use first" in text
    # The database is restarted, and reports another token from then on.
    (db,) = await site.provider_ids("db", await program.status())
    site.east.stop(db)
    report(site, token="second", other=1)
    await site.until_event("instance.restarting")
    await all_ready(site, program, 2)
    assert list(told(site)) == [old]
    site.east.vanish(old)
    await site.until_event("instance.attributes_changed")
    await all_ready(site, program, 2)
    ((new, text),) = told(site).items()
    assert new != old and "use second" in text
    (event,) = await site.rows(event_rows, kind="instance.attributes_changed")
    assert event.node == "db" and json.loads(event.data) == {"names": ["token"]}, "no value is told"
    assert (await site.provider_ids("db", await program.status())) == [db]
