"""Making instances anew, step by step: within the bounds of the policy, and always to the end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.services.infrastructure.policies import NodePolicy
from pelagos.services.infrastructure.rolling import Old, next_step

POLICIES = st.builds(NodePolicy, max_unavailable=st.integers(0, 3), max_surge=st.none() | st.integers(0, 3))


class Node:
    """A node whose instances become ready and go in any order."""

    def __init__(self, target: int, policy: NodePolicy, old: int, new: int) -> None:
        self.target = target
        self.policy = policy
        self.old = {f"o{number}": True for number in range(old)}
        self.new = {f"n{number}": True for number in range(new)}
        self.leaving = 0
        self.made = new

    def step(self, awaited: bool = False) -> bool:
        """Whether anything was decided."""
        found = next_step(
            target=self.target,
            unavailable=self.policy.max_unavailable,
            surge=self.policy.surge,
            old=[Old(key, ready) for key, ready in self.old.items()],
            new=len(self.new),
            new_ready=sum(self.new.values()),
            leaving=self.leaving,
            awaited=awaited,
        )
        for key in found.destroy:
            del self.old[key]
            self.leaving += 1
        for _ in range(found.create):
            self.new[f"n{self.made}"] = False
            self.made += 1
        return bool(found.create or found.destroy)

    @property
    def ready(self) -> int:
        return sum(self.old.values()) + sum(self.new.values())

    @property
    def there(self) -> int:
        return len(self.old) + len(self.new) + self.leaving


@settings(deadline=None)
@given(st.integers(0, 6), POLICIES, st.integers(0, 3), st.data())
def test_it_keeps_its_bounds_and_comes_to_its_end(target, policy, new, data):
    node = Node(target, policy, max(0, target - new), min(new, target))
    for _ in range(200):
        before = node.ready
        moved = node.step()
        assert node.ready >= min(before, target - policy.max_unavailable)
        assert node.there <= target + max(policy.surge, 0) or not moved
        growing = [key for key, ready in node.new.items() if not ready]
        if growing and (not node.leaving or data.draw(st.booleans())):
            node.new[data.draw(st.sampled_from(growing))] = True
        elif node.leaving:
            node.leaving -= 1
        elif not moved:
            break
    assert not node.old and len(node.new) == target == node.ready


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 4))
def test_the_old_wait_for_those_who_know_them(target, surge):
    node = Node(target, NodePolicy(max_surge=surge), target, 0)
    for _ in range(60):
        node.step(awaited=True)
        node.leaving = 0
        for key in node.new:
            node.new[key] = True
    assert len(node.new) == target, "all new ones are there"
    assert node.old or target > node.policy.surge or surge == 0 or len(node.old) == 0
    assert node.ready >= target
    node.step(awaited=False)
    assert not node.old


@settings(deadline=None)
@given(st.integers(1, 6), POLICIES, st.integers(1, 6))
def test_what_is_ill_goes_first_and_costs_nothing(target, policy, ill):
    old = [Old(f"i{number}", ready=False) for number in range(min(ill, target))]
    well = [Old(f"w{number}", ready=True) for number in range(target - len(old))]
    step = next_step(
        target=target,
        unavailable=policy.max_unavailable,
        surge=policy.surge,
        old=[*well, *old],
        new=0,
        new_ready=0,
        leaving=0,
        awaited=False,
    )
    assert set(step.destroy) >= {instance.id for instance in old}
    left = len(well) - len(set(step.destroy) & {instance.id for instance in well})
    assert left >= min(len(well), target - policy.max_unavailable)
