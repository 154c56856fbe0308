"""What scenarios are told with: requests as people make them, waiting, misfortune, and the one good end.

Every story ends the same way: faults stop, whoever is left brings the infrastructure to its description, it is taken
down, and nothing is left.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec

from pelagos.clouds.simulated import Faults, SimulatedOptions
from pelagos.clouds.simulated.options import Delay
from pelagos.clouds.values import TokenLookup
from pelagos.model.errors import Conflict, NotFound, PelagosError
from pelagos.model.states import RunState, ServerState
from pelagos.services.infrastructure.messages import CancelRun
from pelagos.simulation.describing import Description, describe, with_parts
from pelagos.simulation.loop import VirtualLoop
from pelagos.simulation.universe import Died, Incarnation, Universe, Violated
from pelagos.simulation.world import SimulatedWorld
from pelagos.wire.infrastructures import PlanRequest, RunRequest, SavedPlan

__all__ = ["FEW_FAULTS", "MANY_FAULTS", "NO_FAULTS", "REFUSALS", "Story", "random_clouds"]

NO_FAULTS = Faults()
FEW_FAULTS = Faults(
    unreachable=0.03,
    rate_limited=0.02,
    busy=0.03,
    error_before=0.02,
    error_after=0.02,
    request_lost=0.01,
    reply_lost=0.02,
    connection_closed=0.02,
    late=0.02,
    slow=0.03,
)
MANY_FAULTS = Faults(
    unreachable=0.06,
    rate_limited=0.05,
    auth_failed=0.01,
    rejected=0.02,
    no_capacity=0.05,
    busy=0.06,
    error_before=0.05,
    error_after=0.05,
    request_lost=0.03,
    reply_lost=0.05,
    connection_closed=0.05,
    late=0.05,
    slow=0.05,
    stuck_build=0.02,
    failed_build=0.05,
    spot_kill=0.05,
    stuck_delete=0.05,
)
_CONVERGES = 3000.0
"""Virtual seconds within which a run ends once the clouds are calm: build time-outs, give-ups and back-offs fit in."""
_TRIES = 8
_DOOMED_FOR = 80.0
"""Seconds within which a spot kill happens that was decided when its server was made: boot and ``spot_after``."""


def random_clouds(rng: random.Random, faults: Faults = NO_FAULTS) -> dict[str, SimulatedOptions]:  # noqa: TID251
    """One or two accounts with latencies, limits and look-up by chance."""
    clouds: dict[str, SimulatedOptions] = {}
    for name in ("east", "west")[: rng.randint(1, 2)]:
        pace = rng.choice((0.05, 0.3, 1.0))
        clouds[name] = SimulatedOptions(
            create_latency=Delay(uniform=(0.1 * pace, 2.0 * pace)),
            delete_latency=Delay(uniform=(0.1 * pace, 1.0 * pace)),
            list_latency=Delay(uniform=(0.05 * pace, 0.5 * pace)),
            get_latency=Delay(uniform=(0.05 * pace, 0.3 * pace)),
            boot_seconds=Delay(uniform=(0.5 * pace, 10.0 * pace)),
            delete_seconds=Delay(uniform=(0.0, 4.0 * pace)),
            part_latency=Delay(uniform=(0.05 * pace, 0.5 * pace)),
            part_seconds=Delay(uniform=(0.0, 6.0 * pace)),
            part_delete_seconds=Delay(uniform=(0.0, 2.0 * pace)),
            visibility_delay=rng.choice((0.0, Delay(uniform=(0.0, 3.0 * pace)))),
            faults=faults,
            late_by=Delay(uniform=(0.0, 20.0)),
            slow_by=Delay(uniform=(0.0, 10.0)),
            refuse_for=Delay(uniform=(0.0, 10.0)),
            spot_after=Delay(uniform=(0.0, 60.0)),
            spot_state=rng.choice(("stopped", "error", "vanish")),
            token_lookup=rng.choice(tuple(TokenLookup)),
            settle=5.0,
            create_timeout=15.0,
            call_timeout=8.0,
            build_timeout=90.0,
            parallel_calls=rng.choice((1, 3, 16)),
            rate_limit=rng.choice((0.0, 0.0, 8.0)),
            calls_per_second=rng.choice((0.0, 0.0, 5.0)),
        )
    return clouds


class Story:
    """One universe, one infrastructure, and what is done about it."""

    def __init__(
        self,
        seed: int | str,
        loop: VirtualLoop,
        *,
        faults: Faults = NO_FAULTS,
        most: int = 4,
        parts: bool = False,
        updates: bool = False,
    ) -> None:
        self.faults = faults
        clouds = random_clouds(SimulatedWorld(seed, loop).rng("clouds"), faults)
        if updates:
            latency = Delay(uniform=(0.05, 1.0))
            clouds = {
                name: msgspec.structs.replace(options, updates=frozenset({"flavor"}), power_latency=latency)
                for name, options in clouds.items()
            }
        self.updates = updates
        """Its clouds change flavors in place."""
        self.universe = Universe(seed, loop, clouds=clouds)
        self.rng = self.universe.rng
        self.accounts = tuple(clouds)
        self.description: Description = describe(self.rng, self.accounts, most=most)
        self.parts = parts
        """Its nodes need volumes and addresses."""
        if parts:
            self.description = with_parts(self.rng, self.description)
        self.acknowledged: list[str] = []
        """Ids of runs of which somebody was told."""
        self.limited: tuple[str, ...] = ()
        """Resources whose quota was set."""
        self.dies_at: int | None = None
        """The edge at which the first process dies, in scenarios that are about that."""
        self._requests = 0

    # -- requests --------------------------------------------------------------------------------------------------

    def request(self) -> str:
        """A new request id."""
        self._requests += 1
        return f"request-{self._requests}"

    async def up(self, by: Incarnation, request_id: str = "", **options: Any) -> str:
        """Ask for the description to be built; the run's id. Raises Died, and what the service refuses with."""
        sources, entries = self.description.sources, self.description.entries
        return await self.run(by, RunRequest(kind="up", sources=sources, entries=entries, **options), request_id)

    async def down(self, by: Incarnation, request_id: str = "") -> str:
        return await self.run(by, RunRequest(kind="down", infrastructure=self.description.name), request_id)

    async def scale(self, by: Incarnation, node: str, number: str) -> str:
        request = RunRequest(kind="scale", infrastructure=self.description.name, scale={node: number})
        return await self.run(by, request)

    async def maintain(self, by: Incarnation) -> str:
        return await self.run(by, RunRequest(kind="maintain", infrastructure=self.description.name))

    async def plan(self, by: Incarnation, **options: Any) -> SavedPlan:
        """The plan of the description, saved. Raises Died, and what the service refuses with."""
        sources, entries = self.description.sources, self.description.entries
        request = PlanRequest(sources=sources, entries=entries, save=True, **options)
        view = await by.call(lambda commands: commands.plan(request))
        self.universe.note(f"p{by.number} plans {[(a.action, a.node, a.count) for a in view.actions]}")
        saved: SavedPlan = view.saved
        return saved

    async def apply(self, by: Incarnation, plan: SavedPlan, request_id: str = "") -> str:
        return await self.run(by, RunRequest(kind="up", plan=plan), request_id)

    async def cancel(self, by: Incarnation, run_id: str, *, keep: bool = False) -> None:
        self.universe.note(f"p{by.number} cancels {run_id[:8]}{' keeping' if keep else ''}")
        await by.call(lambda commands: commands.cancel_run(CancelRun(run_id=run_id, keep=keep)))

    async def run(self, by: Incarnation, request: RunRequest, request_id: str = "") -> str:
        """Ask for a run; its id. Raises Died, and what the service refuses with."""
        from msgspec.structs import replace

        complete = replace(request, request_id=request_id or self.request())
        view = await by.call(lambda commands: commands.start_run(complete))
        self.universe.note(f"p{by.number} {request.kind} {dict(request.scale) or ''} is run {view.id[:8]}")
        self.acknowledged.append(view.id)
        return str(view.id)

    # -- looking ---------------------------------------------------------------------------------------------------

    def state(self, run_id: str) -> RunState:
        rows = self.universe.query("SELECT state FROM runs WHERE id = ?", run_id)
        if not rows:
            raise Violated(f"run {run_id} was acknowledged and is not in the store")
        return RunState(rows[0][0])

    async def ended(self, run_id: str, within: float = _CONVERGES) -> RunState:
        """Wait for a run's end."""
        await self.universe.until(f"run {run_id[:8]} ends", lambda: self.state(run_id).final, within)
        state = self.state(run_id)
        self.universe.note(f"run {run_id[:8]} {state.value}{self._why(run_id)}")
        return state

    def _why(self, run_id: str) -> str:
        blob = self.universe.query("SELECT error_blob FROM runs WHERE id = ?", run_id)[0][0]
        if not blob:
            return ""
        return f": {msgspec.msgpack.decode(blob)['message']}"

    async def wait(self, low: float, high: float) -> None:
        """Some time passes."""
        await asyncio.sleep(self.rng.uniform(low, high))
        self.universe.check()

    def real_servers(self) -> list[tuple[str, str]]:
        """(account, provider id) of those that really live and are ours."""
        return [
            (name, server.provider_id)
            for name, cloud in self.universe.clouds.items()
            for server in cloud.servers()
            if server.token and server.state not in (ServerState.DELETING, ServerState.DELETED)
        ]

    # -- the end ---------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Faults stop; it converges, goes down, and nothing is left."""
        universe = self.universe
        universe.note("faults stop")
        for cloud in universe.clouds.values():
            cloud.calm()
        for resource in self.limited:
            universe.limit(resource, None)
        for incarnation in universe.incarnations:
            incarnation.edges.disarm()
            incarnation.rejoin()
            incarnation.find_broker()
            incarnation.resume()
        if self.faults.spot_kill:
            # What is doomed already goes yet.
            await asyncio.sleep(_DOOMED_FOR)
        alive = [incarnation for incarnation in universe.incarnations if incarnation.alive]
        last = alive[-1] if alive else await universe.incarnate(serves=self.rng.random() < 0.5)
        await self._converge(last)
        await self._stay(last)
        await self._take_down(last)
        await universe.until("nothing is left", lambda: not universe.invariants.nothing_left(), 200.0)
        for incarnation in universe.incarnations:
            if incarnation.alive:
                await incarnation.stop()
        self._no_leases()
        for run_id in self.acknowledged:
            self.state(run_id)
        universe.check()

    async def _converge(self, by: Incarnation) -> None:
        for _ in range(_TRIES):
            try:
                run = await self.up(by)
            except Conflict:
                # Somebody was taking it down when he died: that is finished first.
                await self._take_down(by)
                continue
            if await self.ended(run) is RunState.SUCCEEDED:
                await self._all_ended()
                self._as_described()
                return
        raise Violated(f"the description is not reached in {_TRIES} runs of calm: {self._trouble()}")

    def _as_described(self) -> None:
        rows = self.universe.query(
            "SELECT i.node, i.state, count(*) FROM instances i JOIN infrastructures f ON f.id = i.infrastructure_id"
            " WHERE i.deleted_at IS NULL AND f.deleted_at IS NULL AND f.name = ? GROUP BY 1, 2",
            self.description.name,
        )
        found = {(row[0], row[1]): row[2] for row in rows}
        for node in self.description.nodes:
            count = found.pop((node.name, "ready"), 0)
            if not node.least <= count <= node.most:
                raise Violated(f"{node.name} has {count} ready instances, not {node.least} to {node.most}")
        if found:
            raise Violated(f"beside what is described there are {found}")
        instances, servers = sum(row[2] for row in rows), self.real_servers()
        if len(servers) != instances:
            raise Violated(f"{instances} instances are ready, and these servers are real: {servers}")
        if self.updates:
            self.flavors_as_described()
            self.nothing_made_anew()

    @property
    def faulty(self) -> bool:
        """Whether calls fail by chance."""
        return self.faults != NO_FAULTS

    def flavors_as_described(self) -> None:
        """The clouds themselves have the flavors that are described. Raises Violated."""
        rows = self.universe.query(
            "SELECT i.node, s.account, s.provider_id FROM instances i JOIN servers s ON s.id = i.server_id"
            " JOIN infrastructures f ON f.id = i.infrastructure_id"
            " WHERE i.deleted_at IS NULL AND f.deleted_at IS NULL AND s.state = 'active'"
        )
        flavors = {
            (name, server.provider_id): server.flavor
            for name, cloud in self.universe.clouds.items()
            for server in cloud.servers()
        }
        for node, account, provider_id in rows:
            wanted, found = self.description.node(node).flavor, flavors.get((account, provider_id))
            if found is not None and found != wanted:
                raise Violated(f"{provider_id} in {account}, of {node}, is {found}, and {wanted} is described")

    def nothing_made_anew(self) -> None:
        """No change of the description was carried out by making instances anew. Raises Violated."""
        told = self.universe.query(
            "SELECT node FROM events WHERE kind = 'node.replacing'"
            " AND (data LIKE '%resource.%' OR data LIKE '%described anew%')"
        )
        if told:
            raise Violated(f"made anew, and could be changed in place: {[row[0] for row in told]}")

    async def _all_ended(self) -> None:
        """The wishes that a newer description overtook are carried out after it."""
        open_runs = "SELECT 1 FROM runs WHERE finished_at IS NULL"
        await self.universe.until("no run is open", lambda: not self.universe.query(open_runs), 200.0)

    async def _stay(self, by: Incarnation) -> None:
        """What has converged stays as it is."""
        before = self._instances()
        await asyncio.sleep(40.0)
        if self._instances() != before:
            raise Violated(f"a calm infrastructure changed by itself: {before} became {self._instances()}")

    def _instances(self) -> list[tuple[Any, ...]]:
        return self.universe.query(
            "SELECT id, node, state, server_id FROM instances WHERE deleted_at IS NULL ORDER BY created_at, id"
        )

    async def _take_down(self, by: Incarnation) -> None:
        for _ in range(_TRIES):
            try:
                run = await self.down(by)
            except NotFound:
                return
            if await self.ended(run) is RunState.SUCCEEDED:
                return
        raise Violated(f"it is not down after {_TRIES} runs of calm: {self._trouble()}")

    def _no_leases(self) -> None:
        stopped = {i.holder_id: i.number for i in self.universe.incarnations if not i.dead}
        for name, holder in self.universe.query("SELECT name, holder FROM leases WHERE holder IS NOT NULL"):
            if holder in stopped:
                raise Violated(f"p{stopped[holder]} stopped in good order and kept {name}")

    def _trouble(self) -> str:
        rows = self.universe.query(
            "SELECT node, ordinal, state, reason FROM instances WHERE deleted_at IS NULL AND state <> 'ready'"
        )
        return "; ".join(f"{node}-{ordinal} {state}: {reason}" for node, ordinal, state, reason in rows)


REFUSALS = (Died, PelagosError)
"""What a request may meet in a bad time."""
