"""What becomes of instances: who is made anew follows from what was told to whom, in the order of the graph."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.asking import ATTRIBUTE, TOLD, Asked
from pelagos.services.infrastructure.made_from import Sources
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.outlook import ADOPTED, ASKED, HELD, KEPT, PROTECTED, look_ahead
from pelagos.services.infrastructure.plan_diff import plans_differ
from pelagos.services.infrastructure.policies import HealPolicy, NodePolicy
from pelagos.services.infrastructure.values import (
    CompiledInfrastructure,
    CompiledNode,
    Contextualisation,
    Implementation,
)
from pelagos.wire.infrastructures import PlanAction

CHAIN = ("store", "web", "lb")


def described(flavors, policies=None, names=CHAIN):
    definitions = {
        f"{name}_node": (Implementation(resource_type="simulated", resource={"type": "simulated", "flavor": flavor}),)
        for name, flavor in zip(names, flavors, strict=True)
    }
    nodes = tuple(
        CompiledNode(
            name=name,
            type=f"{name}_node",
            min=0,
            max=9,
            implementations=(0,),
            depends_on=names[at - 1 : at],
            fingerprint=f"{name} {flavors[at]}",
            policy=(policies or {}).get(name, NodePolicy()),
        )
        for at, name in enumerate(names)
    )
    return CompiledInfrastructure(name="shop", nodes=nodes, definitions=definitions)


def built(of, told=True, count=1):
    """Its instances, as if just built, and what they are made from."""
    book, instances = Sources(of), []
    for at, node in enumerate(of.nodes):
        for ordinal in range(1, count + 1):
            asked = ()
            if told and at:
                other = of.nodes[at - 1].name
                asked = (Asked("getip", other, f"{other}-1"),)
            instances.append(
                ObservedInstance(
                    id=f"{node.name}-{ordinal}",
                    node=node.name,
                    state=InstanceState.READY,
                    created_at=float(ordinal),
                    ordinal=ordinal,
                    fingerprint=node.fingerprint,
                    source=book.digest(node, 0),
                    addresses=(f"{node.name}-{ordinal}",),
                    asked=asked,
                )
            )
    return instances, {book.digest(node, 0): book.value(node, 0) for node in of.nodes}


def look(of, instances, made_from, **more):
    return look_ahead(of, {node.name: 1 for node in of.nodes}, instances, made_from=made_from, **more)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["s", "l"]), min_size=3, max_size=3), st.booleans())
def test_what_changes_reaches_those_who_were_told_and_theirs(flavors, told):
    before = described(["s", "s", "s"])
    instances, made_from = built(before, told)
    found = look(described(flavors), instances, made_from)
    changed = [name for name, flavor in zip(CHAIN, flavors, strict=True) if flavor != "s"]
    expected = {f"{name}-1" for name in (CHAIN[CHAIN.index(changed[0]) :] if told and changed else changed)}
    assert found.replace.keys() == expected and not found.drifted
    for key, mark in found.replace.items():
        name = key.removesuffix("-1")
        paths = [change.path for change in mark.changes]
        assert ("resource.flavor" in paths) is (name in changed)


def test_a_kept_node_stops_it_and_a_held_one_too():
    before = described(["s", "s", "s"])
    instances, made_from = built(before)
    kept = look(described(["l", "s", "s"], {"web": NodePolicy(change="keep")}), instances, made_from)
    assert kept.replace.keys() == {"store-1"} and kept.drifted["web-1"].kept == KEPT
    held = look(described(["l", "s", "s"]), instances, made_from, held={"web"})
    assert held.replace.keys() == {"store-1"} and held.drifted["web-1"].kept == HELD
    wanted = look(
        described(["s", "s", "s"], {"web": NodePolicy(change="keep")}), instances, made_from, wanted={"web-1"}
    )
    assert wanted.replace.keys() == {"web-1", "lb-1"}


@pytest.mark.parametrize("policy", [NodePolicy(), NodePolicy(max_unavailable=1)])
@pytest.mark.parametrize(("anew", "reached"), [("store-1", True), ("store-2", False)])
def test_who_is_told_of_the_first_instance_is_reached_if_another_will_be_the_first(policy, anew, reached):
    of = described(["s", "s", "s"], {"store": policy})
    instances, made_from = built(of, count=3)
    instances = [instance for instance in instances if instance.node != "lb"]
    found = look_ahead(of, {"store": 3, "web": 3}, instances, made_from=made_from, wanted={anew})
    assert ("web-1" in found.replace) is reached


def test_a_renamed_node_and_those_who_ask_for_it_are_followed():
    before = described(["s", "s"], names=("a", "web"))
    instances, made_from = built(before)
    now = described(["s", "s"], names=("b", "web"))
    renamed = [i if i.node != "a" else ObservedInstance(**{**_fields(i), "node": "b"}) for i in instances]
    found = look_ahead(now, {"b": 1, "web": 1}, renamed, made_from=made_from, moved={"a": "b"})
    assert not found.replace and not found.drifted
    assert found.followed["web-1"].asked == (Asked("getip", "b", "a-1"),)


def declaring(port):
    """A store that declares a port, and a web that is told of it."""
    of = described(["s", "s"], names=("store", "web"))
    store = Implementation(
        resource_type="simulated",
        resource={"type": "simulated", "flavor": "s"},
        contextualisation=Contextualisation(attributes={"port": port}),
    )
    nodes = (msgspec.structs.replace(of.nodes[0], fingerprint=f"store {port}"), of.nodes[1])
    return msgspec.structs.replace(of, nodes=nodes, definitions={**of.definitions, "store_node": (store,)})


@pytest.mark.parametrize(
    ("asked", "port", "wanted", "reached"),
    [
        (Asked(ATTRIBUTE, "store", 80, "port"), 80, (), False),
        (Asked(ATTRIBUTE, "store", 80, "port"), 80, ("store-1",), False),
        (Asked(ATTRIBUTE, "store", 80, "port"), 81, (), True),
        (Asked(ATTRIBUTE, "store", "store-1", "hostname"), 80, (), False),
        (Asked(ATTRIBUTE, "store", "store-1", "hostname"), 80, ("store-1",), True),
        (Asked(ATTRIBUTE, "store", "store-1", "ip"), 80, (), False),
        (Asked(ATTRIBUTE, "store", "store-1", "ip"), 80, ("store-1",), True),
        (Asked(ATTRIBUTE, "store", TOLD, "password", "store-1"), 80, (), False),
        (Asked(ATTRIBUTE, "store", TOLD, "password", "store-1"), 80, ("store-1",), True),
        (Asked(ATTRIBUTE, "store", TOLD, "password", "store-0"), 80, (), True),
    ],
)
def test_who_was_told_an_attribute_is_reached_where_it_will_be_another(asked, port, wanted, reached):
    instances, made_from = built(declaring(80), told=False)
    instances = [msgspec.structs.replace(i, asked=(asked,)) if i.node == "web" else i for i in instances]
    found = look_ahead(declaring(port), {"store": 1, "web": 1}, instances, made_from=made_from, wanted=wanted)
    assert ("web-1" in found.replace) is reached
    if reached:
        assert [change.path for change in found.replace["web-1"].changes] == [f"attribute store.{asked.name}"]


def _fields(instance):
    return {name: getattr(instance, name) for name in instance.__struct_fields__}


def test_plans_differ_in_what_they_do_not_in_what_they_say():
    def action(what, *ids, node="web", count=1, reason=""):
        return PlanAction(action=what, node=node, count=len(ids) or count, instances=ids, reason=reason)

    saved = (action("replace", "a", "b"), action("create", count=2, node="db"))
    same = (action("create", count=2, node="db"), action("replace", "b"), action("replace", "a", reason="x"))
    assert plans_differ(saved, (*same, action("keep", count=3), action("update"))) == []
    assert plans_differ(saved, (action("replace", "a"), action("create", count=3, node="db"))) == [
        "web/b: the plan says replace, now it would be left as it is",
        "db: the plan says create 2, now it would be create 3",
    ]
    assert plans_differ((), (action("destroy", "c"),)) == ["web/c: the plan says nothing, now it would be destroy"]


def test_what_is_protected_stays_and_so_do_those_who_were_told_of_it():
    before = described(["s", "s", "s"])
    instances, made_from = built(before)
    instances[1] = msgspec.structs.replace(instances[1], protected=True)
    after = described(["l", "l", "s"])
    for wanted in ((), ("web-1",)):
        found = look(after, instances, made_from, wanted=wanted)
        assert found.replace.keys() == {"store-1"} and found.drifted.keys() == {"web-1"}
        assert found.drifted["web-1"].kept == PROTECTED
    assert not look(before, instances, made_from, wanted=("web-1",)).drifted, "it is as described"


def test_what_was_adopted_stays_until_it_is_named():
    before = described(["s"], names=("web",))
    (instance,), made_from = built(before)
    adopted = msgspec.structs.replace(instance, adopted=True, source="")
    assert not look(before, [adopted], made_from).drifted
    after = described(["l"], names=("web",))
    found = look(after, [adopted], made_from)
    assert not found.replace and found.drifted["web-1"].kept == ADOPTED
    assert look(after, [adopted], made_from, wanted=("web-1",)).replace["web-1"].reason == ASKED


@pytest.mark.parametrize("action", ["keep", "restart", "replace"])
def test_how_an_instance_is_and_what_it_is_made_from_are_two_questions(action):
    policies = {"web": NodePolicy(heal=HealPolicy(shutdown=action))}
    before = described(["s"], policies, names=("web",))
    (instance,), made_from = built(before)
    stopped = msgspec.structs.replace(instance, state=InstanceState.SHUTDOWN, server=ServerState.STOPPED)
    after = described(["l"], policies, names=("web",))
    assert not look(before, [stopped], made_from).replace
    replaced = look(after, [stopped], made_from).replace.keys()
    assert replaced == (set() if action == "replace" else {"web-1"}), "healing replaces it in any case"
