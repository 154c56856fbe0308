"""An event as a sentence, for ``events``, for progress in a log, and for what ``maintain`` reports.

Kinds this table does not know (a newer daemon's) are shown with their data as they come: nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pelagos.cli.texts import clean, count, duration, join, short
from pelagos.wire.infrastructures import EventView

__all__ = ["sentence", "subject"]

Data = dict[str, Any]


def _error(data: Data) -> str:
    """The text of an error in an event: a payload's message, or the text itself."""
    error = data.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or "")
    return str(error or data.get("reason") or "")


def _with(lead: str, *details: object) -> str:
    told = [str(detail) for detail in details if detail not in (None, "")]
    return f"{lead}: {', '.join(told)}" if told else lead


def _waiting_run(data: Data) -> str:
    purpose = data.get("purpose") or data.get("holder") or "another command"
    where = [f"process {data['pid']}"] if data.get("pid") else []
    where += [f"on {data['host']}"] if data.get("host") else []
    return f"waits for {purpose}" + (f" ({' '.join(where)})" if where else "")


def _ready(data: Data) -> str:
    took = data.get("seconds")
    after = f" after {duration(took)}" if isinstance(took, (int, float)) else ""
    return f"ready{after}" + (f" at {data['address']}" if data.get("address") else "")


def _names(value: object) -> str:
    return join([str(item) for item in value]) if isinstance(value, list | tuple) else str(value or "")


def _instances(data: Data) -> str:
    number = data.get("count")
    return count(number, "instance") if isinstance(number, int) else "instances"


_SENTENCES: dict[str, Callable[[Data], str]] = {
    "run.accepted": lambda data: "run accepted",
    "run.started": lambda data: "run started",
    "run.waiting": _waiting_run,
    "run.superseded": lambda data: _with("run superseded", _error(data)),
    "run.stopping": lambda data: _with("stopping: what is half-made goes, what is ready stays", _error(data)),
    "node.replacing": lambda data: _with(f"{_instances(data)} to be made anew", data.get("reason")),
    "node.updating": lambda data: _with(f"{_instances(data)} to be changed in place", data.get("reason")),
    "node.moved": lambda data: f"was {data.get('was', 'another')} and is {data.get('name', 'this')} now",
    "run.rolling_back": lambda data: _with("rolling back what this run made", _error(data)),
    "run.succeeded": lambda data: "run succeeded",
    "run.failed": lambda data: _with("run failed", _error(data)),
    "run.cancelled": lambda data: "run cancelled",
    "run.cancel_requested": lambda data: (
        "cancelling was asked for" + (", keeping what was made" * bool(data.get("keep")))
    ),
    "infrastructure.destroyed": lambda data: "infrastructure is gone",
    "infrastructure.maintained": lambda data: (
        "infrastructure is kept alive" if data.get("maintained") else "infrastructure is left alone"
    ),
    "infrastructure.state": lambda data: _with(f"infrastructure is {data.get('state', 'unknown')}", data.get("reason")),
    "instance.attributes_changed": lambda data: (
        f"reports other values now: {', '.join(map(str, data.get('names', ())))}"
    ),
    "instance.unprobed": lambda data: f"not probed by every means here: {data.get('reason', '')}",
    "node.waiting": lambda data: f"waits for {_names(data.get('on'))}",
    "node.refused": lambda data: _with(f"cannot be made on {data.get('cloud') or 'a cloud'}", _error(data)),
    "instance.pending": lambda data: "pending" + (f" on {data['cloud']}" if data.get("cloud") else ""),
    "instance.delayed": lambda data: _with("its cloud has not made it yet, and is asked again", _error(data)),
    "instance.building": lambda data: "building",
    "instance.checking": lambda data: _with("checking", _names(data.get("what"))),
    "instance.ready": _ready,
    "instance.temp_failed": lambda data: _with("not healthy, waiting for it to recover", data.get("reason")),
    "instance.failed": lambda data: _with("failed", data.get("reason") or _error(data)),
    "instance.shutdown": lambda data: _with("stopped", data.get("reason")),
    "instance.uncertain": lambda data: _with("uncertain: its cloud has not said whether it exists", data.get("reason")),
    "instance.destroying": lambda data: _with("destroying", data.get("reason")),
    "instance.destroyed": lambda data: "destroyed",
    "server.building": lambda data: "its cloud builds the server",
    "server.active": lambda data: "the server runs",
    "server.stopped": lambda data: _with("the server is stopped", data.get("reason")),
    "server.error": lambda data: _with("the server is in error", data.get("reason")),
    "server.deleting": lambda data: "the server is to be deleted",
    "server.deleted": lambda data: _with("the server is deleted", data.get("reason")),
    "server.vanished": lambda data: _with("the server has vanished from its cloud", data.get("reason")),
    "server.unknown": lambda data: f"{_strange(data)} has a token of ours, and nothing on record made it",
    "server.swept": lambda data: "a server that came late was deleted",
    "part.created": lambda data: f"its cloud made {_part(data)}",
    "part.ready": lambda data: _with(f"{_part(data)} is ready", data.get("address")),
    "part.deleted": lambda data: f"{_part(data)} is deleted",
    "part.vanished": lambda data: f"{_part(data)} has vanished from its cloud",
    "part.unknown": lambda data: f"{_strange(data)} has a token of ours, and nothing on record made it",
    "part.swept": lambda data: f"a {data.get('kind', 'part')} that came late was deleted",
    "operation.submitted": lambda data: f"{_call(data)} is asked for",
    "operation.succeeded": lambda data: f"{_call(data)} is done",
    "operation.retrying": lambda data: _with("is tried again", _error(data)),
    "operation.uncertain": lambda data: _with("its outcome is not known yet, looking for it", _error(data)),
    "operation.failed": lambda data: _with(f"{_call(data)} failed", _error(data)),
    "instance.updating": lambda data: f"changed in place: {_names(data.get('keys'))}",
    "instance.updated": lambda data: "changed in place",
    "instance.update_failed": lambda data: _with("not changed in place", _error(data)),
    "server.updated": lambda data: f"its cloud has changed the server: {_names(data.get('keys'))}",
    "instance.restarting": lambda data: _with("restarted", data.get("reason")),
    "instance.adopting": lambda data: f"taking the server {data.get('server', '')} on record",
    "instance.protected": lambda data: "protected" if data.get("protected") else "not protected any more",
    "instance.outdated": lambda data: (
        _with("not as described any more", data["reason"])
        if data.get("reason")
        else "what it was told of others is true again"
    ),
    "node.breaker_opened": lambda data: _with("failed too often, nothing of it is healed any more", data.get("reason")),
    "node.breaker_closed": lambda data: "is healed again",
    "node.autoscaled": lambda data: _with(
        f"scaled from {data.get('from')} to {data.get('to')} instances", data.get("reason")
    ),
    "node.metric_unavailable": lambda data: _with("its metric cannot be had", data.get("reason")),
    "node.metric_available": lambda data: "its metric is there again",
    "instance.refused": lambda data: _with("its cloud refuses to delete it, trying again", _error(data)),
}


_CALLS = {
    "server.create": "making the server",
    "server.adopt": "taking the server on record",
    "server.delete": "deleting the server",
    "server.sweep": "deleting a server without a record",
    "server.start": "starting the server",
    "server.stop": "stopping the server",
    "server.reboot": "rebooting the server",
    "server.update": "changing the server in place",
    "parts.delete": "deleting what the server had",
    "part.sweep": "deleting what no server has",
    "account.refresh": "asking the cloud what it has",
}


def _call(data: Data) -> str:
    """What a call to a cloud does, to begin a sentence with."""
    kind = str(data.get("kind") or "a call to the cloud")
    return _CALLS.get(kind, kind)


def _strange(data: Data) -> str:
    """Something that a cloud shows and that is on no record."""
    named = data.get("name") or data.get("provider_id") or ""
    return f"{data.get('kind', 'server')} {named} on {data.get('account', 'a cloud')}"


def _part(data: Data) -> str:
    return f"the {data.get('kind', 'part')} {data.get('key', '')}".rstrip()


def sentence(event: EventView) -> str:
    """What happened, without the subject and the time; one line."""
    known = _SENTENCES.get(event.kind)
    if known is not None:
        return clean(known(event.data))
    details = " ".join(f"{key}={value}" for key, value in event.data.items())
    return clean(f"{event.kind} {details}")


def subject(event: EventView) -> str:
    """What it happened to: ``web/1f3c9a20``, ``web``, ``server 5d…``, or nothing for the run itself."""
    if event.node and event.instance_id:
        return f"{event.node}/{short(event.instance_id)}"
    if event.node:
        return event.node
    if event.instance_id:
        return short(event.instance_id)
    if event.server_id:
        return f"server {event.server_id}"
    return ""
