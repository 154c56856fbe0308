"""Steps of a large build look at what changed, not at everything: whole walks over the nodes are counted."""

from __future__ import annotations

from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.decisions import Create, Mode
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode

NODES = 600


class Counting(dict):
    """Counts the entries that walks over it touch."""

    touched = 0

    def values(self):
        self.touched += len(self)
        return super().values()

    def __iter__(self):
        self.touched += len(self)
        return super().__iter__()


def chain_of_pairs() -> CompiledInfrastructure:
    names = [f"n{index}" for index in range(NODES)]
    return CompiledInfrastructure(
        name="big",
        nodes=tuple(
            CompiledNode(name=name, type="t", implementations=(0,), depends_on=(names[index - 2],) if index > 1 else ())
            for index, name in enumerate(names)
        ),
    )


def row(node: str) -> InstanceRow:
    return InstanceRow(
        id=f"i-{node}",
        node=node,
        ordinal=1,
        state=InstanceState.PENDING,
        server_id=f"s-{node}",
        account="x",
        created_at=0.0,
        updated_at=0.0,
    )


def test_a_step_touches_what_changed_and_no_more() -> None:
    reality = Reality(chain_of_pairs(), {}, [])
    reality.nodes = nodes = Counting(reality.nodes)
    reality.instances = instances = Counting(reality.instances)
    now, steps, growing = 0.0, 0, []
    while reality.unsatisfied:
        steps += 1
        now += 1.0
        reality.end_back_offs(now)
        for decision in reality.decide(Mode.BUILD, now=now):
            assert isinstance(decision, Create)
            growing.append(reality.add(row(decision.node)))
        reality.next_retry(now)
        reality.converged()
        if growing:
            reality.set_state(growing.pop(0), InstanceState.READY)
    assert steps == NODES
    # Once when all is in place; that each step walked over all would be 360,000.
    assert nodes.touched + instances.touched <= 3 * NODES


def test_a_back_off_is_waited_for_and_ends() -> None:
    reality = Reality(chain_of_pairs(), {"n0": NodeRow(name="n0", target=1, retry_at=10.0)}, [])
    assert [d.node for d in reality.decide(Mode.BUILD, now=1.0)] == ["n1"]
    assert reality.next_retry(1.0) == 10.0
    reality.end_back_offs(9.0)
    assert reality.decide(Mode.BUILD, now=9.0) == []
    reality.end_back_offs(10.0)
    assert [d.node for d in reality.decide(Mode.BUILD, now=10.0)] == ["n0"]
    assert reality.next_retry(10.0) is None
