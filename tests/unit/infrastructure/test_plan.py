"""The plan: what its actions say is what brings the observed to the targets, and nothing else."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from pelagos.model.diagnostics import Position
from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, choose_surplus, verdict
from pelagos.services.infrastructure.plan import make_plan
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode

NAMES = ("a", "b", "c", "d")
STATES = st.sampled_from(list(InstanceState))
SERVERS = st.sampled_from([None, *ServerState])
OBSERVED = st.lists(st.tuples(st.sampled_from(NAMES), STATES, SERVERS, st.integers(0, 5)), max_size=9).map(
    lambda rows: [
        ObservedInstance(id=f"i{index}", node=node, state=state, server=server, created_at=float(at))
        for index, (node, state, server, at) in enumerate(rows)
    ]
)
TARGETS = st.dictionaries(st.sampled_from(NAMES[:3]), st.integers(0, 4))


def plan(targets, observed, **more):
    nodes = tuple(
        CompiledNode(name=name, type="t", min=0, max=9, depends_on=NAMES[index - 1 : index])
        for index, name in enumerate(NAMES[:3])
    )
    return make_plan(
        name="shop",
        infrastructure_id="x",
        state=None,
        desired=CompiledInfrastructure(name="shop", nodes=nodes),
        targets={name: targets.get(name, 0) for name in NAMES[:3]},
        observed=observed,
        **more,
    )


@given(TARGETS, OBSERVED)
def test_its_actions_bring_the_observed_to_the_targets(targets, observed):
    actions = plan(targets, observed).actions
    alive = {i.id: i for i in observed if verdict(i.state, i.server)[0] is not Verdict.LEAVING}
    left = dict(alive)
    counts: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for action in actions:
        assert action.count > 0
        match action.action:
            case "destroy" | "replace":
                assert len(action.instances) == action.count and action.reason
                for instance_id in action.instances:
                    assert left.pop(instance_id).node == action.node, "named once, and of that node"
                if action.action == "replace":
                    counts[action.node] += action.count
            case "create":
                counts[action.node] += action.count
            case "keep":
                kept[action.node] += action.count
    for instance in left.values():
        counts[instance.node] += 1
        assert verdict(instance.state, instance.server)[0] is Verdict.KEEP
    assert {name: counts[name] for name in NAMES} == {name: targets.get(name, 0) for name in NAMES}
    assert Counter(instance.node for instance in left.values()) == kept


@given(TARGETS, OBSERVED)
def test_it_destroys_nothing_when_nothing_is_to_do(targets, observed):
    found = plan(targets, observed)
    well = all(verdict(i.state, i.server)[0] is not Verdict.REPLACE for i in observed)
    counts = Counter(i.node for i in observed if verdict(i.state, i.server)[0] is Verdict.KEEP)
    right = all(counts[name] == targets.get(name, 0) for name in NAMES)
    assert found.changes is not (well and right)
    if well and right:
        assert found.destroys == 0


@given(TARGETS, OBSERVED)
def test_the_critical_path_names_what_is_created_in_order(targets, observed):
    found = plan(targets, observed, seconds=dict.fromkeys(NAMES, 2.0))
    making = {action.node for action in found.actions if action.action in ("create", "replace")}
    assert set(found.critical_path) <= making
    assert list(found.critical_path) == sorted(found.critical_path)
    assert found.estimated_seconds == 2.0 * len(found.critical_path)
    one_by_one = plan(targets, observed, seconds=dict.fromkeys(NAMES, 2.0), sequential=True)
    created = sum(action.count for action in found.actions if action.action in ("create", "replace"))
    assert one_by_one.estimated_seconds == 2.0 * created
    assert plan(targets, observed).estimated_seconds is None


@given(STATES, SERVERS)
@example(InstanceState.UNCERTAIN, None)
@example(InstanceState.READY, ServerState.UNKNOWN)
def test_verdict(state, server):
    what, why = verdict(state, server)
    assert bool(why) == (what is Verdict.REPLACE)
    if state is InstanceState.DESTROYING:
        assert what is Verdict.LEAVING
    elif state in (InstanceState.FAILED, InstanceState.SHUTDOWN):
        assert what is Verdict.REPLACE
    elif server in (None, ServerState.BUILD, ServerState.ACTIVE, ServerState.REBOOT, ServerState.UNKNOWN):
        assert what is Verdict.KEEP, "what is not known to be broken is never replaced"
    else:
        assert what is Verdict.REPLACE


@given(OBSERVED, st.integers(0, 9))
def test_surplus_is_what_is_least_ready_then_the_youngest(observed, count):
    chosen = choose_surplus(observed, count)
    assert len(chosen) == min(count, len(observed)) == len(set(chosen))
    by_id = {i.id: i for i in observed}
    stay = [i for i in observed if i.id not in chosen]
    for gone in (by_id[instance_id] for instance_id in chosen):
        if gone.state is InstanceState.READY:
            assert all(i.state in (InstanceState.READY, InstanceState.DESTROYING) for i in stay)
            assert all(i.created_at <= gone.created_at for i in stay if i.state is InstanceState.READY)
    assert choose_surplus(observed, count) == chosen and choose_surplus(observed[::-1], count) == chosen


@given(OBSERVED, st.integers(0, 9), st.sampled_from(["unhealthy", "youngest", "oldest"]), st.sets(st.integers(0, 9)))
def test_surplus_is_first_what_goes_anyway_and_never_what_is_protected(observed, count, choice, marked):
    rows = [msgspec.structs.replace(i, protected=at in marked) for at, i in enumerate(observed)]
    doomed = {i.id for at, i in enumerate(rows) if at + 1 in marked}
    free = [i for i in rows if not i.protected]
    chosen = choose_surplus(rows, count, choice, doomed)
    assert len(chosen) == min(count, len(free)) and set(chosen) <= {i.id for i in free}
    assert len(doomed & set(chosen)) == min(count, len([i for i in free if i.id in doomed]))
    if choice != "unhealthy" and not doomed:
        sign = -1 if choice == "youngest" else 1
        down = (InstanceState.FAILED, InstanceState.SHUTDOWN)
        order = sorted((i.state not in down, sign * i.created_at) for i in free)
        by_id = {i.id: (i.state not in down, sign * i.created_at) for i in free}
        assert [by_id[key] for key in chosen] == order[:count]


def test_nothing_is_made_of_a_node_whose_breaker_is_open():
    ready = [ObservedInstance(id="i", node="a", state=InstanceState.READY, created_at=0.0)]
    actions = [(a.action, a.node, a.count) for a in plan({"a": 3, "b": 1}, ready, broken=("a",)).actions]
    assert actions == [("keep", "a", 1), ("create", "b", 1)]


def test_what_is_protected_beyond_the_target_is_told():
    rows = [
        ObservedInstance(id=f"i{at}", node="a", state=InstanceState.READY, created_at=float(at), protected=at < 2)
        for at in range(3)
    ]
    actions = [(a.action, a.instances, a.reason) for a in plan({"a": 1}, rows).actions]
    assert actions == [("destroy", ("i2",), "target is 1"), ("keep", ("i0", "i1"), "protected")]


def test_a_description_that_moves_no_instance_is_a_change_all_the_same():
    def described(**changes):
        names = {"fingerprint": "f", "depends_on": (), "max": 9, "position": None, **changes}
        nodes = (CompiledNode(name="a", type="t", min=1, **names), CompiledNode(name="b", type="t", min=1, max=1))
        return CompiledInfrastructure(name="shop", nodes=nodes)

    ready = [ObservedInstance(id=name, node=name, state=InstanceState.READY, created_at=0.0) for name in ("a", "b")]

    def change(**changes):
        made = make_plan(
            name="shop",
            infrastructure_id="x",
            state=None,
            desired=described(**changes),
            targets={"a": 1, "b": 1},
            observed=ready,
            previous=described(),
        )
        return {(action.node, action.action) for action in made.actions}, made.changes

    kept = {("a", "keep"), ("b", "keep")}
    assert change() == (kept, False)
    assert change(position=Position("moved.yaml", 7)) == (kept, False)
    for changes in ({"fingerprint": "g"}, {"max": 8}, {"depends_on": ("b",)}):
        assert change(**changes) == ({("a", "update"), ("b", "keep")}, True)
