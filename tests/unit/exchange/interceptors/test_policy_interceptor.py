"""The policy on messages: by where they came, whatever they say of themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pelagos.exchange import Envelope, MemoryTransport, Performative, Receiver, decode_error
from pelagos.exchange.interceptors import (
    AssertionVerifier,
    InterceptedTransport,
    PolicyInterceptor,
    ServiceNames,
    issue_assertion,
    parse_policy,
    read_assertion,
)
from pelagos.exchange.interceptors.port import Undecided
from pelagos.model import DEFAULT_SCOPE, Scope
from pelagos.model.errors import DescriptionError, Forbidden, InvalidInput, PelagosError, Unauthenticated
from pelagos.model.policy import ANONYMOUS_SCOPE, Policy, Rule
from pelagos.simulation import SimulatedWorld
from support.interceptors import ring

pytestmark = pytest.mark.anyio

ALICE = Scope("shop", "alice")
POLICY = """
protected: [stock.*]
rules:
  - {role: stocker, allow: stock.put}
  - [OWNER, 'stock.delete_item', {5012: 'item_ids'}]
  - {role: anonymous, allow: [stock.look, "*.ping"]}
"""
STOCK, MAILBOX = "service:test.stock", "process:c.7"


class Owners:
    """Alice owns item-1 and item-2; about slow-1 it thinks."""

    def __init__(self) -> None:
        self.thinking: asyncio.Future[bool] | None = None

    def owns(self, scope: Scope, kind: str, ids: tuple[str, ...]) -> bool | asyncio.Future[bool]:
        assert kind == "5012"
        if "slow-1" in ids:
            if self.thinking is None or self.thinking.done():
                self.thinking = asyncio.get_running_loop().create_future()
            return self.thinking
        return scope == ALICE and set(ids) <= {"item-1", "item-2"}


class Scene:
    def __init__(self, policy: Policy | None = None) -> None:
        self.world = SimulatedWorld()
        self.issuer = ring()
        self.owners = Owners()
        self.services = ServiceNames(system="test", container="c")
        self.services.bind("c.7", "stock")
        self.interceptor = PolicyInterceptor(
            policy or parse_policy(POLICY, "policy.yaml"),
            self.services,
            AssertionVerifier(self.issuer, self.world),
            owners=self.owners,
        )

    def message(
        self, op: str, *, scope: Scope | None = ALICE, roles: tuple[str, ...] = (), content: object = None, **more: Any
    ) -> Envelope:
        headers: dict[str, Any] = {"identity": scope}
        if scope is not None and roles:
            assertion = issue_assertion(self.issuer, self.world, scope, roles=roles)
            headers |= {"assertion": assertion, "expiry": read_assertion(assertion).expires}
        performative = more.pop("performative", Performative.REQUEST)
        return Envelope(
            more.pop("to", STOCK), "process:a.1", op, performative, "c#1", msgspec.msgpack.encode(content), **headers
        )

    def asked(self, envelope: Envelope, at: str = STOCK) -> str:
        """``ok`` or the error's code."""
        try:
            assert self.interceptor.inbound(envelope, Receiver(at), False) is envelope
        except PelagosError as error:
            return error.code
        return "ok"


async def test_roles_come_from_assertions() -> None:
    scene = Scene()
    assert scene.asked(scene.message("put")) == "forbidden"
    assert scene.asked(scene.message("put", roles=("stocker",))) == "ok"
    assert scene.asked(scene.message("put", scope=ANONYMOUS_SCOPE)) == "unauthenticated"
    assert scene.asked(scene.message("put", scope=DEFAULT_SCOPE)) == "ok"
    assert scene.asked(scene.message("put", scope=None)) == "ok"
    assert scene.asked(scene.message("look", scope=ANONYMOUS_SCOPE)) == "ok"


@pytest.mark.parametrize("performative", [Performative.REQUEST, Performative.INFORM, Performative.CANCEL])
@pytest.mark.parametrize("at", [STOCK, MAILBOX, "process:c.99", "service:test.stock.c", "service:c.stock"])
async def test_none_of_the_ancestors_ways_around_it(performative: Performative, at: str) -> None:
    """One-way sends, an instance's own mailbox (known or not), a receiver that the message only claims."""
    scene = Scene()
    for claimed in (at, "service:test.free"):
        denied = scene.message("put", performative=performative, to=claimed)
        assert scene.asked(denied, at) == "forbidden"
    if at != "process:c.99":
        assert scene.asked(scene.message("put", performative=performative, roles=("stocker",)), at) == "ok"


async def test_what_is_published_is_policed_as_well() -> None:
    scene = Scene(Policy(protected=("fanout:news.event", "topic:stock.#.*")))
    event = scene.message("event", performative=Performative.INFORM)
    assert scene.asked(event, "fanout:test.news") == "forbidden"
    assert scene.asked(event, "topic:test.stock.#") == "forbidden"
    assert scene.asked(event, "fanout:test.other") == "ok"


async def test_a_mailbox_bound_later_is_judged_anew() -> None:
    scene = Scene(Policy((Rule("stocker", "stock.put"), Rule("anonymous", "*.put"))))
    assert scene.asked(scene.message("put"), "process:c.8") == "ok"
    scene.interceptor.replace(Policy((Rule("stocker", "stock.put"),)))
    scene.services.bind("c.8", "free")
    assert scene.asked(scene.message("put"), "process:c.8") == "ok"
    scene.services.unbind("c.8")
    scene.services.bind("c.8", "stock")
    assert scene.asked(scene.message("put"), "process:c.8") == "forbidden"


async def test_owners() -> None:
    scene = Scene()
    for content, said in (
        ({"item_ids": ["item-1", "item-2"]}, "ok"),
        ({"item_ids": "item-1"}, "ok"),
        ({"item_ids": ["item-1", "item-3"]}, "forbidden"),
        ({"item_ids": []}, "invalid_input"),
        ({"other": 1}, "invalid_input"),
        ({"item_ids": [None]}, "invalid_input"),
        ("item-1", "invalid_input"),
    ):
        assert scene.asked(scene.message("delete_item", content=content)) == said, content
    mallory = Scope("shop", "mallory")
    assert scene.asked(scene.message("delete_item", scope=mallory, content={"item_ids": ["item-1"]})) == "forbidden"


@pytest.mark.parametrize("owned", [True, False])
async def test_a_message_waits_while_its_owner_is_looked_up(owned: bool) -> None:
    scene = Scene()
    transport = InterceptedTransport(MemoryTransport(scene.world), [scene.interceptor], scene.world)
    await transport.start()
    ops: list[str] = []
    answers: list[str] = []
    await transport.subscribe(Receiver(STOCK), lambda d: (ops.append(d.envelope.op), d.ack())[1])
    await transport.subscribe(
        Receiver("process:a.1"), lambda d: (answers.append(decode_error(d.envelope.content).code), d.ack())[1]
    )
    message = scene.message("delete_item", content={"item_ids": ["slow-1"]})
    await transport.publish(msgspec.structs.replace(message, reply_to="process:a.1"))
    assert (ops, answers) == ([], [])
    assert scene.owners.thinking is not None
    scene.owners.thinking.set_result(owned)
    await asyncio.sleep(0)
    assert (ops, answers) == ((["delete_item"], []) if owned else ([], ["forbidden"]))
    await transport.stop()


async def test_an_answer_that_came_too_late_is_not_used_for_a_later_message() -> None:
    """By then alice may have given it away."""
    scene = Scene()
    message = scene.message("delete_item", content={"item_ids": ["slow-1"]})
    with pytest.raises(Undecided):
        scene.interceptor.inbound(message, Receiver(STOCK), False)
    first = scene.owners.thinking
    assert first is not None
    first.set_result(True)
    await asyncio.sleep(0.1)
    with pytest.raises(Undecided):
        scene.interceptor.inbound(message, Receiver(STOCK), False)
    assert scene.owners.thinking is not first


async def test_a_denial_says_why_and_what_it_takes() -> None:
    scene = Scene()
    with pytest.raises(Forbidden) as raised:
        scene.interceptor.inbound(scene.message("put"), Receiver(STOCK), False)
    assert "alice may not stock.put" in raised.value.message
    assert "policy.yaml:4" in raised.value.message
    assert "stocker" in raised.value.advice


async def test_an_assertion_that_expired_gives_no_roles() -> None:
    scene = Scene()
    message = scene.message("put", roles=("stocker",))
    await asyncio.sleep(3601)
    with pytest.raises(Unauthenticated):
        scene.interceptor.inbound(message, Receiver(STOCK), False)


# -- files -----------------------------------------------------------------------------------------------------


def test_both_forms_of_rules() -> None:
    policy = parse_policy("- [ADMIN, stock.x]\n- {role: DATA_PROVIDER, allow: ['a.b', '*']}\n", "p.yaml")
    assert [(rule.role, rule.pattern, rule.position.line) for rule in policy.rules if rule.position] == [
        ("admin", "stock.x", 1),
        ("DATA_PROVIDER", "a.b", 2),
        ("DATA_PROVIDER", "*.*", 2),
    ]
    assert parse_policy("rules: []", "p.yaml") == Policy()
    wide = parse_policy("protected: ['hello.*', '*.x', 'a-b.c', 'he*o.x', 'system.shop.buy']", "p.yaml")
    assert wide.protecting(("hello",), "anything") == "hello.*"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("rules: 3", "p.yaml:1", "a list"),
        ("rules:\n- {role: x}", "p.yaml:2", "needs allow"),
        ("rules:\n- {allow: a.b}", "p.yaml:2", "needs a role"),
        ("rules:\n- {role: x, allow: a.b, on: c}", "p.yaml:2", "no 'on'"),
        ("rules:\n- {role: x, allow: 'not a pattern'}", "p.yaml:2", "service.operation"),
        ("rules:\n- {role: owner, allow: a.b}", "p.yaml:2", "which field"),
        ("rules:\n- [x]", "p.yaml:2", "two or three"),
        ("default: maybe", "p.yaml:1", "'allow' or 'deny'"),
        ("protect: [a.b]", "p.yaml:1", "no 'protect'"),
        ("a: 1\na: 2", "p.yaml:2", "twice"),
        ("rules: [", "p.yaml:", ""),
        ("", "p.yaml:1", "is empty"),
        ("# nothing yet\n", "p.yaml:1", "is empty"),
        ("rules:\n- {role: x, allow: 'hello..*'}", "p.yaml:2", "'hello.' is no name of a service"),
        ("protected: [.hello.x]", "p.yaml:1", "matches nothing"),
        ("protected: [a..b.x]", "p.yaml:1", "matches nothing"),
        ("- !!python/object:os.system x", "p.yaml:1", ""),
    ],
)
def test_mistakes_have_their_place(text: str, place: str, said: str) -> None:
    with pytest.raises(DescriptionError) as raised:
        parse_policy(text, "p.yaml")
    assert any(place in str(one) and said in str(one) for one in raised.value.diagnostics)


def test_ids_that_cannot_be_read_are_the_callers_mistake() -> None:
    scene = Scene()
    broken = msgspec.structs.replace(scene.message("delete_item"), content=b"\xc1")
    with pytest.raises(InvalidInput):
        scene.interceptor.inbound(broken, Receiver(STOCK), False)
