"""What must hold at every moment, checked after every commit against the store's log and the clouds' truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pelagos.clouds.simulated import SimulatedCloud
from pelagos.model.states import ServerState
from pelagos.model.transitions import GONE, TRANSITIONS
from pelagos.services.infrastructure.values import CompiledInfrastructure
from pelagos.simulation.recording import Change, Recorder

__all__ = ["Invariants"]

_FIRST_PROBLEMS = 5


class Invariants:
    """``problems`` says what was broken, oldest first."""

    def __init__(self, recorder: Recorder, clouds: Mapping[str, SimulatedCloud], note: Callable[[str], None]) -> None:
        self._recorder = recorder
        self._clouds = clouds
        self._note = note
        self.problems: list[str] = []
        self.transitions: dict[tuple[str, str, str | None, str | None], int] = {}
        """(table, detail, from, to) -> how often."""
        self.story: list[Change] = []
        self.commits = 0
        self._position = 0
        self._epochs: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._part_tokens: dict[str, str] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._protected: dict[tuple[str, str], str] = {}
        """(account, provider id) of the servers of protected instances -> the instance."""

    def broken(self, problem: str) -> None:
        """Something does not hold."""
        self._note(f"BROKEN: {problem}")
        if len(self.problems) < _FIRST_PROBLEMS:
            self.problems.append(problem)

    def committed(self) -> None:
        """Look at what the last commit changed, and at the clouds."""
        self.commits += 1
        changes = self._recorder.take()
        self.story += changes
        made: set[tuple[str, str]] = set()
        for change in changes:
            rule = _RULES.get(change.table)
            if rule is not None:
                problem = rule(change)
                if problem:
                    self.broken(f"{problem}: {change}")
            match change.table:
                case "events":
                    self._event(change)
                case "leases":
                    self._lease(change)
                case "instances":
                    if change.old is None:
                        made.add((change.detail.partition("/")[0], change.detail.partition("/")[2]))
                    self._seen(change, "")
                case "operations":
                    self._seen(change, change.detail)
                case "attempts" | "servers" | "parts" | "runs" | "infrastructures":
                    self._seen(change, "")
                case _:
                    pass
        if made:
            self._slots(made)
        leaving = [c for c in changes if c.table == "instances" and c.new == "destroying" and c.old != c.new]
        if leaving:
            self._order(leaving)
            self._available([change for change in leaving if change.old == "ready"])
        if any(change.table == "instances" for change in changes):
            self._protection()
        self.look_at_clouds()
        self._look_at_quotas()
        for number in self._recorder.lost_acks:
            self.broken(f"transaction {number} was acknowledged and is not in the store")
        self._recorder.lost_acks.clear()

    def _seen(self, change: Change, detail: str) -> None:
        if change.old != change.new and change.new is not None:
            table = change.table.removesuffix("s")
            old, new = _plain(change.old), _plain(change.new)
            if new is not None and old != new and new not in TRANSITIONS[table].get(old, ()):
                self.broken(f"{table} {change.id} went from {old} to {new}, which no table admits: {change}")
            key = (change.table, detail, change.old, change.new)
            self.transitions[key] = self.transitions.get(key, 0) + 1

    def _event(self, change: Change) -> None:
        position = int(change.id)
        if change.old is not None or change.new is None:
            self.broken(f"an event was changed or deleted: {change}")
        elif position <= self._position:
            self.broken(f"event position {position} after {self._position}")
        self._position = max(self._position, position)

    def _lease(self, change: Change) -> None:
        if change.new is None:
            self.broken(f"a lease row was deleted: {change}")
            return
        before, _, old_holder = (change.old or "0/").partition("/")
        after, _, holder = change.new.partition("/")
        if int(after) < int(before) or int(after) < self._epochs.get(change.id, 0):
            self.broken(f"the epoch of {change.id} fell from {before} to {after}")
        if holder and holder != old_holder and int(after) <= int(before):
            self.broken(f"{change.id} changed hands and its epoch did not rise: {change.old} to {change.new}")
        self._epochs[change.id] = int(after)

    def _slots(self, made: set[tuple[str, str]]) -> None:
        query = self._recorder.query
        for row in query(
            "SELECT infrastructure_id, node, ordinal, count(*) FROM instances WHERE deleted_at IS NULL"
            " GROUP BY 1, 2, 3 HAVING count(*) > 1"
        ):
            self.broken(f"{row[3]} living instances have the slot {row[1]}/{row[2]}")
        # What is made now is made up to the target, and not beyond.
        for infrastructure, node in sorted(made):
            rows = query(
                "SELECT n.target, count(*) FROM infrastructure_nodes n JOIN instances i"
                " ON n.infrastructure_id = i.infrastructure_id AND n.name = i.node"
                " WHERE n.infrastructure_id = ? AND n.name = ? AND i.deleted_at IS NULL"
                " AND i.state IN ('pending', 'uncertain', 'ready', 'temp_failed') GROUP BY 1",
                infrastructure,
                node,
            )
            for target, count in rows:
                if count > target + (self._surge(infrastructure, node) if count > target else 0):
                    self.broken(f"{count} instances of {node} after one was made, its target is {target}")

    def _surge(self, infrastructure: str, node: str) -> int:
        """How many more than its target the node may have while instances of it are made anew."""
        anew = self._recorder.query(
            "SELECT count(*) FROM instances WHERE infrastructure_id = ? AND node = ? AND outdated IS NOT NULL"
            " AND deleted_at IS NULL",
            infrastructure,
            node,
        )
        described = self._compiled(infrastructure).node(node)
        return described.policy.surge if anew[0][0] and described is not None else 0

    def _compiled(self, infrastructure: str) -> CompiledInfrastructure:
        (blob,) = self._recorder.query("SELECT compiled_blob FROM infrastructures WHERE id = ?", infrastructure)[0]
        return msgspec.msgpack.decode(blob, type=CompiledInfrastructure)

    def _available(self, leaving: list[Change]) -> None:
        """A change of the description takes no ready instance away where fewer than its policy says would be left."""
        for change in leaving:
            infrastructure, _, node = change.detail.partition("/")
            (reason,) = self._recorder.query("SELECT reason FROM instances WHERE id = ?", change.id)[0]
            described = self._compiled(infrastructure).node(node)
            if reason.startswith(_NOT_BY_A_CHANGE) or described is None or described.retired:
                continue
            if self._recorder.query(_LAST_HEALTH, change.id)[0][0] != "instance.ready":
                continue  # in this very commit it was found ill
            ((target, ready),) = self._recorder.query(
                "SELECT n.target, (SELECT count(*) FROM instances i WHERE i.infrastructure_id = n.infrastructure_id AND"
                " i.node = n.name AND i.deleted_at IS NULL AND i.state = 'ready') FROM infrastructure_nodes n"
                " WHERE n.infrastructure_id = ? AND n.name = ?",
                infrastructure,
                node,
            )
            if ready < target - described.policy.max_unavailable:
                self.broken(
                    f"{ready} ready instances of {node} are left of {target}, its policy lets"
                    f" {described.policy.max_unavailable} be unavailable: {reason}"
                )

    def _order(self, leaving: list[Change]) -> None:
        """Taken down, an instance goes only when nothing is left of what depends on its node: no record, no server."""
        down = {row[0] for row in self._recorder.query(_GOING_DOWN)}
        for infrastructure in sorted({change.detail.partition("/")[0] for change in leaving} & down):
            compiled = self._compiled(infrastructure)
            alive: dict[str, list[str]] = {}
            for instance, node, server in self._recorder.query(
                "SELECT id, node, server_id FROM instances WHERE infrastructure_id = ?", infrastructure
            ):
                alive.setdefault(node, []).append(f"{instance} {server}")
            living = {row[0] for row in self._recorder.query("SELECT id FROM instances WHERE deleted_at IS NULL")}
            real = self._real_servers()
            going = {change.detail.partition("/")[2] for change in leaving if change.id in living}
            for node in compiled.nodes:
                for dependee in sorted(going.intersection(node.depends_on)):
                    for entry in alive.get(node.name, ()):
                        instance, server = entry.split(" ")
                        if instance in living or server in real:
                            self.broken(f"{dependee} is taken down while {node.name}, which depends on it, is there")

    def _protection(self) -> None:
        """Nobody destroys what is protected: its record is not on its way out, and its server, if it is gone, is so
        without our doing."""
        rows = self._recorder.query(
            "SELECT i.id, i.node, i.state, s.account, s.provider_id, s.state FROM instances i"
            " JOIN servers s ON s.id = i.server_id WHERE i.protected AND i.deleted_at IS NULL"
        )
        for instance, node, state, _, _, server in rows:
            if state == "destroying" and server != "deleted":
                self.broken(f"{node}/{instance} is protected, and is being destroyed")
        self._protected = {(row[3], row[4]): row[0] for row in rows if row[4] is not None}

    def _real_servers(self) -> set[str | None]:
        return {
            self._owner(server.token) for cloud in self._clouds.values() for server in cloud.servers() if server.token
        }

    def look_at_clouds(self) -> None:
        """No server without a record, never two for one."""
        for name, cloud in self._clouds.items():
            living: dict[str, str] = {}
            for server in cloud.servers():
                if not server.token or server.state is ServerState.DELETING:
                    continue
                owner = self._owner(server.token)
                if owner is None:
                    self.broken(f"{server.provider_id} in {name} has no record: its token is in no attempt")
                    continue
                if owner in living:
                    self.broken(f"{living[owner]} and {server.provider_id} in {name} both live for server {owner}")
                living[owner] = server.provider_id
            self._look_at_parts(name, cloud)

    def _look_at_parts(self, name: str, cloud: SimulatedCloud) -> None:
        """No part without a record, never two for one, none whose record is a tombstone and that nobody sweeps."""
        known: dict[str, str] = {}
        for part in cloud.parts():
            if not part.token:
                continue
            server = self._part_owner(part.token)
            if server is None:
                self.broken(f"{part.provider_id} in {name} has no record: its token is in no attempt")
            elif part.token in known:
                self.broken(f"{known[part.token]} and {part.provider_id} in {name} both carry the token of one attempt")
            known[part.token] = part.provider_id

    def _part_owner(self, token: str) -> str | None:
        known = self._part_tokens.get(token)
        if known is None:
            rows = self._recorder.query(
                "SELECT o.target_id FROM attempts a JOIN operations o ON o.id = a.operation_id WHERE a.token = ?", token
            )
            if rows:
                known = self._part_tokens[token] = str(rows[0][0])
        return known

    def _look_at_quotas(self) -> None:
        """What is held never grows beyond its limit; a limit that was lowered is no growth."""
        for project, resource, held, limit, low in self._recorder.query(_HELD):
            if low < 0:
                self.broken(f"the holding of {resource} fell below nothing: {low}")
            if held > limit and held > self._held.get((project, resource), 0):
                self.broken(f"{held} of {resource} are held, and the limit is {limit}")
            self._held[project, resource] = held
        self._look_at_protected()

    def _look_at_protected(self) -> None:
        for (account, provider_id), instance in list(self._protected.items()):
            cloud = self._clouds[account]
            if any(s.provider_id == provider_id and s.state is not ServerState.DELETING for s in cloud.servers()):
                continue
            del self._protected[account, provider_id]
            last = [h for h in cloud.history() if h.provider_id == provider_id][-1:]
            if last and last[0].cause == "delete":
                self.broken(f"{provider_id} in {account}, of the protected instance {instance}, was deleted")

    def _owner(self, token: str) -> str | None:
        known = self._tokens.get(token)
        if known is None:
            rows = self._recorder.query(
                "SELECT s.id FROM attempts a JOIN operations o ON o.id = a.operation_id"
                " JOIN servers s ON s.id = o.target_id WHERE a.token = ?",
                token,
            )
            if rows:
                known = self._tokens[token] = str(rows[0][0])
        return known

    def nothing_left(self) -> list[str]:
        """What should not be there when everything is down: empty if it is as it should be."""
        query = self._recorder.query
        left = [
            f"{s.provider_id} in {name} is {s.state.value}"
            for name, cloud in self._clouds.items()
            for s in cloud.servers()
            if s.token
        ]
        left += [
            f"{part.provider_id} in {name} is there"
            for name, cloud in self._clouds.items()
            for part in cloud.parts()
            if part.token
        ]
        left += [
            f"{cloud.under_way()} requests under way to {n}" for n, cloud in self._clouds.items() if cloud.under_way()
        ]
        for what, sql in _REMAINS:
            left += [f"{what}: {row}" for row in query(sql)]
        return left

    def snapshot(self) -> dict[str, Any]:
        return {"commits": self.commits, "events": self._position, "transitions": len(self.transitions)}


_NOT_BY_A_CHANGE = ("taken down", "rolled back", "removed on request", "it failed", "its server")
_LAST_HEALTH = (
    "SELECT kind FROM events WHERE instance_id = ? AND kind IN ('instance.ready', 'instance.temp_failed',"
    " 'instance.failed', 'instance.shutdown') ORDER BY position DESC LIMIT 1"
)
_HELD = (
    'SELECT h.project_id, h.resource, h.used + h.reserved, COALESCE(l."limit", 9223372036854775807),'
    " MIN(h.used, h.reserved) FROM quota_holdings h LEFT JOIN quota_limits l"
    " ON l.project_id = h.project_id AND l.resource = h.resource"
)
_GOING_DOWN = "SELECT infrastructure_id FROM runs WHERE kind = 'down' AND state = 'running'"
_REMAINS = (
    ("open attempt", "SELECT token, state FROM attempts WHERE closed_at IS NULL"),
    ("unfinished operation", "SELECT id, kind, state, step FROM operations WHERE finished_at IS NULL"),
    ("living server row", "SELECT id, state, reason FROM servers WHERE deleted_at IS NULL"),
    ("living part", "SELECT id, key, state FROM parts WHERE deleted_at IS NULL"),
    ("living instance", "SELECT id, node, state, reason FROM instances WHERE deleted_at IS NULL"),
    ("unfinished run", "SELECT id, kind, state FROM runs WHERE finished_at IS NULL"),
    ("infrastructure", "SELECT id, state, reason FROM infrastructures WHERE deleted_at IS NULL"),
    ("quota", "SELECT project_id, resource, used, reserved FROM quota_holdings WHERE used <> 0 OR reserved <> 0"),
    ("reservation", "SELECT operation_id, amount FROM quota_reservations WHERE state = 'reserved'"),
)


def _plain(state: str | None) -> str | None:
    """A state as the tables of transitions name it: without an operation's step, tombstones as gone."""
    if state is None:
        return None
    return GONE if state.endswith("+") else state.partition(":")[0]


def _instances(change: Change) -> str:
    # To protect an instance changes no state, and waits for nobody's lease.
    mine = change.writer == change.holder or change.old == change.new
    return "" if mine else "an instance was written without its lease"


def _nodes(change: Change) -> str:
    # Accepting a new infrastructure writes its nodes before anybody can hold its lease.
    if change.writer == change.holder or (change.old is None and change.holder == "-"):
        return ""
    return "a node was written without its lease"


def _attempts(change: Change) -> str:
    _, epoch, sent = change.detail.split("/")
    if change.writer == change.holder:
        if change.new == "open" and sent == "1" and change.old is None and int(epoch) != change.epoch:
            return "an attempt carries another epoch than its account's lease"
        return ""
    # A delete overtakes a create that was not sent: then nobody has it in hand.
    if change.old == "open" and change.new == "refused" and sent == "0":
        return ""
    return "an attempt was written without its account's lease"


_RULES: dict[str, Callable[[Change], str]] = {
    "instances": _instances,
    "infrastructure_nodes": _nodes,
    "attempts": _attempts,
}
