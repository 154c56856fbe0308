"""Plans, states and explanations as people read them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pelagos.cli.texts import age, clean, count, duration, join, printable, short, state, table
from pelagos.wire.infrastructures import (
    CostEstimate,
    DescriptionChange,
    ExplainView,
    InfrastructureSummary,
    LogView,
    PlanAction,
    PlanView,
    StatusView,
)
from pelagos.wire.times import from_rfc3339

__all__ = ["explanation", "infrastructures", "log_lines", "plan_text", "status_line", "status_table"]

_KEYS = 12
_LONGEST = 60
_MARKS = {
    "create": ("+", "green", "to create"),
    "destroy": ("-", "red", "to destroy"),
    "replace": ("~", "yellow", "to replace"),
    "update": ("*", "cyan", "to update"),
    "keep": (" ", "", "to keep"),
}


def plan_text(plan: PlanView) -> str:
    """What would change, a line an action, then the critical path and the estimate."""
    totals = dict.fromkeys(_MARKS, 0)
    for action in plan.actions:
        totals[action.action] += action.count
    counted = [f"{number} {_MARKS[action][2]}" for action, number in totals.items() if number]
    told = join(counted) or "without nodes"
    new = "a new infrastructure" + (", " if counted else " ") if plan.id is None else ""
    closing = [f"Closes the breaker of {join([clean(name) for name in plan.closes])}"] if plan.closes else []
    if not plan.changes:
        stay = f" ({count(totals['keep'], 'instance')} stay)" if totals["keep"] else ""
        width = max((len(action.node) for action in plan.actions), default=0)
        kept = [
            line
            for action in plan.actions
            if action.instances
            for line in (_action(action, width), *_changes(action.changes))
        ]
        return "\n".join([f"{plan.name}: nothing to do{stay}", *kept, *_left_out(plan), *closing])
    lines = [f"{plan.name}: {new}{told}"]
    width = max((len(action.node) for action in plan.actions), default=0)
    for action in plan.actions:
        if action.action != "keep" or action.instances:
            lines.append(_action(action, width))
            lines.extend(_changes(action.changes))
    lines.extend(_left_out(plan))
    lines.extend(closing)
    if plan.critical_path:
        path = " -> ".join(plan.critical_path)
        estimate = plan.estimated_seconds
        time = "no estimate before a first build" if estimate is None else f"about {duration(estimate)}"
        lines.append(f"Critical path: {path} ({time})")
    lines.extend(_spending(plan))
    return "\n".join(lines)


def _left_out(plan: PlanView) -> list[str]:
    return [f"Left as it is (--target, --exclude): {', '.join(plan.left_out)}"] if plan.left_out else []


def _changes(changes: Sequence[DescriptionChange]) -> list[str]:
    """The keys that differ, a line each."""
    lines = []
    for change in changes[:_KEYS]:
        match change.change:
            case "added":
                told = f"now {_value(change.new)}"
            case "removed":
                told = f"was {_value(change.old)}"
            case _ if change.old is None and change.new is None:
                continue
            case _:
                told = f"{_value(change.old)} -> {_value(change.new)}"
        lines.append(f"      {clean(change.path)}: {told}")
    if len(changes) > _KEYS:
        lines.append(f"      and {count(len(changes) - _KEYS, 'more key')}")
    return lines


def _value(value: object) -> str:
    text = clean(value if isinstance(value, str) else repr(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _spending(plan: PlanView) -> list[str]:
    """What it takes of limits, and what it costs."""
    lines = []
    for need in plan.quota:
        over = need.needed > need.left
        told = f"Quota: {need.needed} more {need.resource} needed at most, {need.left} of {need.limit} left"
        lines.append(click.style(f"{told}; it will be exceeded", fg="red") if over else told)
    costs = [told for cost in plan.cost if (told := _cost(cost, plan.unpriced))]
    lines += costs
    if costs:
        lines += [f"      {clean(doubt.node)}: {clean(doubt.why)}" for doubt in plan.cost_doubts[:_KEYS]]
        if len(plan.cost_doubts) > _KEYS:
            lines.append(f"      and {count(len(plan.cost_doubts) - _KEYS, 'more node')} with several prices")
    return lines


def _cost(cost: CostEstimate, unpriced: Sequence[str]) -> str:
    """Nothing where nothing is known to cost anything: that there are no prices is no news."""
    unknown = join([clean(name) for name in unpriced])
    certain = cost.after_least is None or cost.after_most is None
    if not cost.before and not cost.after and unpriced:
        if certain:
            return ""
        told = f"Cost: no price known of {unknown}; made elsewhere, up to {cost.after_most:.4g} {cost.currency} an hour"
        return told.rstrip()
    if certain and cost.before == cost.after:
        told = f"Cost: {cost.after:.4g} {cost.currency}".rstrip() + " an hour, as before"
    else:
        told = f"Cost: {cost.before:.4g} -> {cost.after:.4g} {cost.currency}".rstrip() + " an hour"
    if not certain:
        told += f", between {cost.after_least:.4g} and {cost.after_most:.4g}"
    return told + (f" (no price known of {unknown})" if unknown else "")


def _action(action: PlanAction, width: int) -> str:
    mark, color, _ = _MARKS[action.action]
    named = join([short(one) for one in action.instances[:5]])
    more = f" and {len(action.instances) - 5} more" if len(action.instances) > 5 else ""
    keys = join([clean(key) for key in action.keys])
    details = [part for part in (f"{named}{more}", clean(action.reason) + (f": {keys}" if keys else "")) if part]
    tail = f"  ({'; '.join(details)})" if details else ""
    return click.style(f"  {mark} {action.node:<{width}}  {action.action} {action.count}{tail}", fg=color or None)


def status_line(status: StatusView) -> str:
    """``guestbook is ready: 4 of 4 instances ready``, or ``guestbook is detached (nobody maintains it): …``."""
    ready = sum(one.state == "ready" for node in status.nodes.values() for one in node.instances.values())
    target = sum(node.scaling.target for node in status.nodes.values())
    why = clean(status.reason.partition(": ")[2])
    told = f"{_condition(status.state, status.reason)}{f' ({why})' if why else ''}"
    return f"{status.name} is {told}: {ready} of {count(target, 'instance')} ready"


def _condition(found: str, reason: str) -> str:
    """The state's word. Detached is a kind of suspended in which commands still change it."""
    return state("detached" if found == "suspended" and reason.startswith("detached") else found)


def status_table(status: StatusView, now: float) -> str:
    """A row an instance; a node without any has one row that says how many it should have."""
    rows = []
    for name, node in status.nodes.items():
        for identifier, one in node.instances.items():
            old = age(now - from_rfc3339(one.created_at)) if one.created_at else ""
            told = (
                "protected" if one.protected else "",
                one.reason,
                f"not as described: {one.outdated}" if one.outdated else "",
            )
            why = "; ".join(part for part in told if part)
            rows.append([name, short(identifier), state(one.state), one.address, one.cloud, old, clean(why)])
        if node.breaker:
            rows.append([name, "", "breaker open", "", "", "", clean(node.breaker)])
        if not node.instances:
            rows.append([name, "", f"none of {node.scaling.target}", "", "", "", ""])
    return table(["NODE", "INSTANCE", "STATE", "ADDRESS", "CLOUD", "AGE", "REASON"], rows)


def infrastructures(found: Sequence[InfrastructureSummary], now: float, gone: frozenset[str] = frozenset()) -> str:
    """A row each. ``gone``: the ids of those of which only the record is left."""
    rows = [
        [
            one.name,
            "gone" if one.id in gone else _condition(one.state, one.reason),
            f"{one.ready}/{one.target}",
            str(one.nodes),
            "yes" if one.maintained else "no",
            age(now - from_rfc3339(one.created_at)),
            one.id,
            clean(one.reason),
        ]
        for one in found
    ]
    return table(["NAME", "STATE", "READY", "NODES", "MAINTAINED", "AGE", "ID", "REASON"], rows)


def explanation(view: ExplainView, now: float) -> str:
    """The chain of what waits for what, indented; under each link the last answer and the next try."""
    lines = [f"{view.name} is {clean(view.summary) or state(view.state)}"]
    for step in view.steps:
        pad = "  " * (step.depth + 1)
        why = f": {clean(step.why)}" if step.why else ""
        lines.append(f"{pad}{step.subject} is {state(step.state)}{why}")
        if step.last_answer:
            lines.append(f"{pad}  last answer: {clean(step.last_answer)}")
        if step.next_try:
            wait = from_rfc3339(step.next_try) - now
            when = f"in {duration(wait)}" if wait > 0 else "now"
            lines.append(f"{pad}  next try: {when}")
    return "\n".join(lines)


def log_lines(views: Sequence[LogView], *, terminal: bool) -> list[str]:
    """Each instance's console lines behind its name. On a terminal, control characters are taken out: an instance
    must not steer it."""
    colors = ("cyan", "green", "magenta", "blue", "yellow")
    width = max((len(f"{one.node}/{short(one.instance_id)}") for one in views), default=0)
    lines = []
    for position, one in enumerate(views):
        name = click.style(f"{one.node}/{short(one.instance_id):<{width - len(one.node) - 1}}", fg=colors[position % 5])
        for line in one.text.splitlines():
            lines.append(f"{name} | {printable(line) if terminal else line}")
    return lines
