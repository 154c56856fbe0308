"""The maintainer's memory: its counters are what a recount says, its decisions keep the rules, whatever happens."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.decisions import Create, Destroy, Mode
from pelagos.services.infrastructure.observed import Verdict, verdict
from pelagos.services.infrastructure.policies import HealPolicy, NodePolicy
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, HealingRecord

MOVES = [state for state in InstanceState if state is not InstanceState.DESTROYING]


def infrastructure(edges, retired=()):
    nodes = tuple(
        CompiledNode(name=name, type="t", min=0, max=9, implementations=(0,), depends_on=tuple(dependees))
        if name not in retired
        else CompiledNode(name=name, type="t", min=0, max=0, depends_on=tuple(dependees), retired=True)
        for name, dependees in edges.items()
    )
    return CompiledInfrastructure(name="shop", nodes=nodes)


def row(number, node, state=InstanceState.READY, run="r1"):
    return InstanceRow(
        id=f"i{number}",
        node=node,
        ordinal=number,
        state=state,
        server_id=f"s{number}",
        account="x",
        run_id=run,
        created_at=float(number),
        updated_at=0.0,
    )


class Machine(RuleBasedStateMachine):
    """Any sequence of events; decisions are carried out as the maintainer does, their effects come in any order."""

    @initialize(data=st.data())
    def build(self, data):
        names = [f"n{i}" for i in range(data.draw(st.integers(1, 5)))]
        edges = {
            name: data.draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else []
            for i, name in enumerate(names)
        }
        retired = set(data.draw(st.lists(st.sampled_from(names), max_size=1)))
        # A node that is described never depends on one that is not.
        retired = {name for name in retired if not any(name in edges[other] for other in names)}
        self.numbers = itertools.count(100)
        records = {name: NodeRow(name=name, target=data.draw(st.integers(0, 3))) for name in names}
        rows = [row(i, data.draw(st.sampled_from(names)), run="old") for i in range(data.draw(st.integers(0, 5)))]
        self.reality = Reality(infrastructure(edges, retired), records, rows)
        self.now = 0.0

    @rule(data=st.data())
    @precondition(lambda self: self.reality.instances)
    def something_happens_to_an_instance(self, data):
        instance = self.reality.instances[data.draw(st.sampled_from(sorted(self.reality.instances)))]
        if instance.leaving:
            self.reality.remove(instance)
            return
        state = data.draw(st.sampled_from(MOVES))
        if state is InstanceState.FAILED and data.draw(st.booleans()):
            record = self.reality.nodes[instance.row.node].record
            record.retry_at = self.now + data.draw(st.integers(1, 3))
        self.reality.set_state(instance, state)

    @rule(data=st.data(), wanted=st.integers(0, 4))
    def a_target_changes(self, data, wanted):
        names = [name for name, node in self.reality.nodes.items() if not node.compiled.retired]
        if names:
            self.reality.set_target(data.draw(st.sampled_from(names)), wanted)

    @rule()
    def time_passes(self):
        self.now += 1.0
        for node in self.reality.nodes.values():
            if node.record.retry_at is not None and node.record.retry_at <= self.now:
                node.record.retry_at = None
                self.reality.mark(node.name)

    @rule(mode=st.sampled_from(list(Mode)), budget=st.none() | st.integers(0, 2), everything=st.booleans())
    def decide(self, mode, budget, everything):
        reality = self.reality
        if everything:
            reality.mark_all()
        decisions = reality.decide(mode, now=self.now, budget=budget, run_id="r1")
        creates = [d for d in decisions if isinstance(d, Create)]
        destroys = [reality.instances[d.instance_id] for d in decisions if isinstance(d, Destroy)]
        assert len({i.row.id for i in destroys}) == len(destroys) and not any(i.leaving for i in destroys)
        if mode is Mode.HOLD:
            assert decisions == []
        if mode is not Mode.BUILD:
            assert creates == []
            for instance in destroys:
                assert mode is Mode.DOWN or instance.row.run_id == "r1", "only the run's own"
                for dependent in reality.nodes[instance.row.node].dependents:
                    mine = [i for i in dependent.instances.values() if mode is Mode.DOWN or i.row.run_id == "r1"]
                    assert mine == [], "dependents go first"
        else:
            self._check_building(creates, destroys, budget)
        self._carry_out(creates, destroys)

    def _check_building(self, creates, destroys, budget):
        reality = self.reality
        assert budget is None or sum(create.count for create in creates) <= budget
        for create in creates:
            node = reality.nodes[create.node]
            assert all(other.ready >= other.target for other in node.dependees), "not before what it depends on"
            assert node.record.retry_at is None or node.record.retry_at <= self.now
            kept = [i for i in node.instances.values() if verdict(i.row.state, i.server)[0] is Verdict.KEEP]
            assert 0 < create.count <= node.target - len(kept), "never more than wanted"
        for instance in destroys:
            if verdict(instance.row.state, instance.server)[0] is Verdict.KEEP:
                assert all(node.ready >= node.target for node in reality.nodes.values()), "surplus goes last"
                node = reality.nodes[instance.row.node]
                assert len(node.instances) > node.target
                assert node.ready - sum(i.ready and i.row.node == node.name for i in destroys) >= node.target

    def _carry_out(self, creates, destroys):
        for create in creates:
            for _ in range(create.count):
                self.reality.add(row(next(self.numbers), create.node, InstanceState.PENDING))
        for instance in destroys:
            self.reality.set_state(instance, InstanceState.DESTROYING)

    @invariant()
    def counters_are_what_a_recount_says(self):
        reality = getattr(self, "reality", None)
        if reality is None:
            return
        alive = list(reality.instances.values())
        for node in reality.nodes.values():
            own = [i for i in alive if i.row.node == node.name]
            assert list(node.instances.values()) == own
            assert node.ready == sum(i.row.state is InstanceState.READY for i in own)
            assert node.satisfied == (node.ready >= node.target)
            assert node.unmet == sum(other.ready < other.target for other in node.dependees)
        assert reality.unsatisfied == sum(node.ready < node.target for node in reality.nodes.values())
        growing = (InstanceState.PENDING, InstanceState.UNCERTAIN)
        assert reality.growing == sum(i.row.state in growing for i in alive)
        assert reality.leaving == sum(i.row.state is InstanceState.DESTROYING for i in alive)
        assert {i.row.server_id for i in alive} == set(reality.by_server)
        missing = any(len(node.instances) != node.target for node in reality.nodes.values())
        settled = not (reality.unsatisfied or reality.growing or reality.leaving or missing)
        assert reality.converged() == settled


TestReality = Machine.TestCase
TestReality.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_following_the_decisions_converges_without_being_told_to_look_at_everything(data):
    """Dirty marks are enough: no node is forgotten, in any order of events."""
    names = [f"n{i}" for i in range(data.draw(st.integers(1, 6)))]
    edges = {n: data.draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else [] for i, n in enumerate(names)}
    records = {name: NodeRow(name=name, target=data.draw(st.integers(0, 3))) for name in names}
    rows = [row(i, data.draw(st.sampled_from(names)), data.draw(st.sampled_from(MOVES))) for i in range(4)]
    reality = Reality(infrastructure(edges), records, rows)
    numbers = itertools.count(100)
    down = data.draw(st.booleans())
    budget = data.draw(st.none() | st.just(1))
    for _ in range(400):
        room = None if budget is None else max(0, budget - reality.growing)
        mode = Mode.DOWN if down else Mode.BUILD
        for decision in reality.decide(mode, now=0.0, budget=room):
            if isinstance(decision, Create):
                for _ in range(decision.count):
                    reality.add(row(next(numbers), decision.node, InstanceState.PENDING))
            else:
                reality.set_state(reality.instances[decision.instance_id], InstanceState.DESTROYING)
        moving = [i for i in reality.instances.values() if i.row.state is not InstanceState.READY]
        if not moving and not reality.dirty:
            break
        if moving:
            instance = data.draw(st.sampled_from(moving))
            if instance.leaving:
                reality.remove(instance)
            elif instance.row.state is not InstanceState.FAILED:
                reality.set_state(instance, InstanceState.READY)
    if down:
        assert reality.cleared(None) and not reality.instances
    else:
        assert reality.converged(), {name: (n.ready, n.target) for name, n in reality.nodes.items()}


@pytest.mark.parametrize("server", [ServerState.DELETED, ServerState.ERROR, ServerState.STOPPED])
def test_a_broken_instance_is_replaced_at_once_by_a_new_number(server):
    reality = Reality(infrastructure({"a": []}), {"a": NodeRow(name="a", target=2)}, [row(1, "a"), row(2, "a")])
    reality.instances["i1"].server = server
    decisions = reality.decide(Mode.BUILD, now=0.0)
    assert decisions == [Destroy("i1", decisions[0].reason), Create("a", 1)]
    assert reality.nodes["a"].free_ordinals(2) == [3, 4], "the old one's number is its own until it is gone"


def test_an_instance_of_a_node_nobody_knows_is_taken_away():
    reality = Reality(infrastructure({"a": []}), {"a": NodeRow(name="a", target=1)}, [row(1, "a"), row(2, "ghost")])
    assert reality.decide(Mode.BUILD, now=0.0) == [Destroy("i2", "no longer described", surplus=True)]
    assert not reality.converged()
    reality.remove(reality.instances["i2"])
    assert reality.converged()


@pytest.mark.parametrize("choice", ["oldest", "youngest"])
def test_a_ready_instance_is_too_many_only_once_one_that_stays_is_ready(choice):
    """Whichever the policy takes first: the only one that serves stays until another does."""
    ready, coming = (1, 2) if choice == "oldest" else (2, 1)
    rows = [row(ready, "a"), row(coming, "a", InstanceState.PENDING)]
    reality = Reality(infrastructure({"a": []}), {"a": NodeRow(name="a", target=1)}, rows)
    assert reality.decide(Mode.BUILD, now=0.0, choice=choice) == []
    assert not reality.converged()
    reality.set_state(reality.instances[f"i{coming}"], InstanceState.READY)
    assert reality.decide(Mode.BUILD, now=0.0, choice=choice) == [Destroy(f"i{ready}", "target is 1", surplus=True)]


def test_of_those_that_are_too_many_what_failed_and_was_kept_goes_before_the_oldest():
    keep = NodePolicy(heal=HealPolicy(failed="keep"))
    compiled = msgspec.structs.replace(infrastructure({"a": []}).nodes[0], policy=keep)
    nodes = CompiledInfrastructure(name="shop", nodes=(compiled,))
    failed = msgspec.structs.replace(row(2, "a", InstanceState.FAILED), ready_at=1.0)
    rows = [row(1, "a"), failed]
    reality = Reality(nodes, {"a": NodeRow(name="a", target=1)}, rows)
    decisions = reality.decide(Mode.BUILD, now=0.0, choice="oldest")
    assert decisions == [Destroy("i2", "target is 1", surplus=True)]


def test_an_instance_waits_for_what_went_since_it_was_decided_unless_nobody_heals_that():
    rows = [row(1, "store"), row(2, "web", InstanceState.PENDING)]
    records = {name: NodeRow(name=name, target=1) for name in ("store", "web")}
    reality = Reality(infrastructure({"store": [], "web": ["store"]}), records, rows)
    web = reality.instances["i2"]
    assert not reality.awaits(web)
    reality.set_state(reality.instances["i1"], InstanceState.FAILED)
    assert reality.awaits(web)
    records["store"].healing = HealingRecord(open_since=1.0)
    assert not reality.awaits(web)
