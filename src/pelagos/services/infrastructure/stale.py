"""What living instances were told of others and is no longer so: a mark on each, found when an address changes.

The problem: a healed instance has another address, and who was told the former one goes on with it. The naive way, to
ask all questions again at each pass, is a walk over everything for a thing that hardly ever happens. So nothing is
looked at until an instance goes or changes its address; then only who depends on its node is asked about, once as many
instances of it are ready as wanted: between the loss and the replacement the answers say nothing.

A load looks once at all that depends on what is there, since whoever maintained before may have had no time for it.

While a run changes things it decides itself what is as described; what it has left untrue is found at its end. Scaling
makes nobody untrue, unless the address that was told goes.

Most services look their neighbours up again, so the mark is all, unless the node's policy says ``heal: {outdated:
replace}``: then who was told what is no longer true is made anew, within the bounds of any change. That is found in the
marks themselves, so whoever maintains next goes on with it.

The mark stands beside what the last change may have left in the record of an instance, and has a beginning of its own,
so that it can be taken off again without touching the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pelagos.services.infrastructure.asked_again import UNKNOWN, AskedAgain, infos_of, stays
from pelagos.services.infrastructure.asking import ATTRIBUTE, Asked, InstanceInfo
from pelagos.services.infrastructure.nodes import KEPT_SO, Instance, Node
from pelagos.wire.infrastructures import DescriptionChange

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["NO_LONGER_TRUE", "Stale", "without_stale"]

NO_LONGER_TRUE = "no longer true: "
"""Begins the part of a mark that is this module's; it is the last one."""
_BETWEEN = "; "
_SHOWN = 5


class Stale:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._changed: dict[str, None] = {}
        """Nodes of which an instance went, or has another address, since their dependents were looked at."""
        self._incomplete: dict[str, None] = {}
        """Those of them that had fewer ready instances than wanted then."""

    def reset(self) -> None:
        """After a load, nothing is known of what happened before."""
        nodes = self._maintainer.reality.nodes.values()
        self._changed = dict.fromkeys(node.name for node in nodes if node.dependents and node.instances)
        self._incomplete = {}

    def changed(self, name: str) -> None:
        """An instance of the node went, or has another address."""
        self._changed[name] = None

    def ready(self, name: str) -> None:
        """An instance of the node is ready: it may be complete again."""
        if name in self._incomplete:
            del self._incomplete[name]
            self._changed[name] = None

    def look(self, *, after_run: bool = False) -> None:
        """Mark, and unmark, who was told of the nodes that changed. ``after_run``: a run has just ended, which may have
        changed how many instances are wanted."""
        if after_run:
            self._changed.update(self._incomplete)
            self._incomplete = {}
        run = self._maintainer.running.current
        if not self._changed or (run is not None and run.kind != "maintain"):
            return
        nodes = self._maintainer.reality.nodes
        found = [nodes[name] for name in self._changed if name in nodes]
        self._changed = {}
        complete = {node.name: node for node in found if node.satisfied}
        self._incomplete.update((node.name, None) for node in found if not node.satisfied)
        if not complete:
            return
        infos: dict[str, list[InstanceInfo]] = {}
        again = self._questions(infos)
        for dependent in _dependents(complete):
            for instance in dependent.instances.values():
                if instance.row.inputs and not instance.leaving:
                    self._judge(instance, complete, infos, again)

    def untrue(self, instances: Iterable[Instance]) -> dict[str, frozenset[str]]:
        """Instance -> questions whose answers are others now, of those that were told anything."""
        nodes = self._maintainer.reality.nodes.values()
        infos = {node.name: _infos(node) for node in nodes}
        again = self._questions(infos)
        return {
            i.row.id: frozenset(change.path for change in again.others(i.row.asked)) for i in instances if i.row.inputs
        }

    def renewals(self) -> dict[str, str]:
        """Instances that are made anew for what they were told, and why."""
        return {i.row.id: _untrue(i.row.outdated) for i in self._maintainer.reality.outdated() if self._renews(i)}

    def _renews(self, instance: Instance) -> bool:
        node = self._maintainer.reality.nodes[instance.row.node]
        return node.compiled.policy.heal.outdated == "replace" and NO_LONGER_TRUE in instance.row.outdated

    def _questions(self, infos: Mapping[str, list[InstanceInfo]]) -> AskedAgain:
        reality = self._maintainer.reality
        described = {name: node.compiled for name, node in reality.nodes.items() if not node.compiled.retired}
        return AskedAgain(infos, described, reality.compiled.definitions, self._maintainer.id)

    def _judge(
        self,
        instance: Instance,
        complete: Mapping[str, Node],
        infos: dict[str, list[InstanceInfo]],
        again: AskedAgain,
    ) -> None:
        asked = instance.row.asked
        if not any(question.node in complete for question in asked):
            return
        nodes = self._maintainer.reality.nodes
        of = {question.node: nodes[question.node] for question in asked if question.node in nodes}
        incomplete = [name for name, node in of.items() if not node.satisfied]
        if incomplete:
            self._incomplete.update(dict.fromkeys(incomplete))
            return
        for name, node in of.items():
            if name not in infos:
                infos[name] = _infos(node)
        self._note(instance, [_said(q, change) for q in asked for change in again.others((q,))])

    def _note(self, instance: Instance, untrue: list[tuple[str, str]]) -> None:
        """``untrue``: the questions whose answers are others, each with what is told of it."""
        maintainer, row = self._maintainer, instance.row
        before = without_stale(row.outdated)
        # What the last change has left so is told by its own mark.
        told = [text for question, text in untrue if question not in before]
        mark = ""
        if told:
            more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
            policy = maintainer.reality.nodes[row.node].compiled.policy
            kept = KEPT_SO if policy.change == "keep" and policy.heal.outdated == "keep" else ""
            mark = NO_LONGER_TRUE + _BETWEEN.join(told[:_SHOWN]) + more + kept
        outdated = _BETWEEN.join(part for part in (before, mark) if part)
        if outdated == row.outdated:
            return
        maintainer.reality.note_outdated(instance, outdated)
        maintainer.changes.instance(row)
        maintainer.event("instance.outdated", row, reason=mark)
        maintainer.reality.renew(instance, mark if self._renews(instance) else "")


def without_stale(outdated: str) -> str:
    """The part of a mark that is not this module's."""
    at = outdated.find(NO_LONGER_TRUE)
    return outdated if at < 0 else outdated[:at].removesuffix(_BETWEEN)


def _infos(node: Node) -> list[InstanceInfo]:
    compiled = None if node.compiled.retired else node.compiled
    observed = (one.observed() for one in node.instances.values())
    return infos_of((one for one in observed if stays(one, compiled)), compiled)


def _untrue(outdated: str) -> str:
    """The part that is."""
    return outdated[outdated.find(NO_LONGER_TRUE) :]


def _dependents(nodes: Mapping[str, Node]) -> Iterator[Node]:
    """All that depends on any of them, each once; templates may ask for what they depend on over others."""
    seen: set[str] = set()
    ahead = list(nodes.values())
    while ahead:
        for dependent in ahead.pop().dependents:
            if dependent.name not in seen:
                seen.add(dependent.name)
                ahead.append(dependent)
                yield dependent


def _said(question: Asked, change: DescriptionChange) -> tuple[str, str]:
    """The question, and what is told of it. Values of attributes are not shown: they may be secrets."""
    if question.function == ATTRIBUTE:
        gone = change.new == UNKNOWN and question.instance
        return change.path, f"{change.path} was told by an instance that is gone" if gone else f"{change.path} changed"
    then, now = _shown(change.old), _shown(change.new)
    return change.path, f"{change.path} was {then}, is {now}" if then and now else f"{change.path} changed"


def _shown(value: Any) -> str:
    """Addresses; empty for what is too much for a line."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) if len(value) <= _SHOWN else ""
    return value if isinstance(value, str) else ""
