"""One account's simulated cloud: its reality, its behaviour towards callers, and what tests may do to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pelagos.clouds.simulated.datacenter import Datacenter
from pelagos.clouds.simulated.faults import Fault, FaultPlan, Faults
from pelagos.clouds.simulated.options import SimulatedOptions
from pelagos.clouds.simulated.records import Happening
from pelagos.clouds.simulated.state_file import RealityFile
from pelagos.clouds.values import CloudPart, CloudServer, CommandResult, TokenLookup
from pelagos.model.states import ServerState
from pelagos.model.world import World

__all__ = ["SimulatedCloud"]


class SimulatedCloud:
    """One account's cloud. It outlives the drivers opened on it.

    ``world`` gives time and chance; ``name`` is the account's and names the generator, ``clouds.simulated.<name>``.
    ``folder`` is where the reality's file lives if ``options.state`` is ``file``; faults by script, counters and
    scripted answers stay in this process even then.
    """

    def __init__(
        self,
        world: World,
        *,
        name: str = "simulated",
        options: SimulatedOptions | None = None,
        folder: Path | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.options = options or SimulatedOptions()
        self.rng = world.rng(f"clouds.simulated.{name}")
        if self.options.seed is not None:
            self.rng.seed(self.options.seed)
        self.fault_plan = FaultPlan(self.options.faults, self.rng)
        self.calls: Counter[str] = Counter()
        """Calls received by verb, and faults given as ``fault.<name>``."""
        self.in_flight = 0
        self.most_in_flight = 0
        self._answers: list[tuple[tuple[str, ...], CommandResult]] = []
        in_file = self.options.state == "file"
        if in_file and folder is None:
            raise ValueError("a simulated cloud whose state is in a file needs a folder")
        self.datacenter = Datacenter(
            world.now if in_file else world.monotonic,
            wall_offset=0.0 if in_file else world.now() - world.monotonic(),
            idempotent=self.options.token_lookup is TokenLookup.IDEMPOTENT,
            max_servers=self.options.max_servers,
            max_parts=self.options.max_parts,
            file=RealityFile(folder) if in_file and folder is not None else None,
        )
        self._tokens = float(self.options.burst)
        self._filled = self.datacenter.now()

    def behave(self, options: SimulatedOptions) -> None:
        """Go on with other options; what it has and what befell that stay, and where they are kept (``state``)."""
        before, self.options = self.options, options
        if options.faults != before.faults:
            self.fault_plan.faults = options.faults
        self.datacenter.behave(
            idempotent=options.token_lookup is TokenLookup.IDEMPOTENT,
            max_servers=options.max_servers,
            max_parts=options.max_parts,
        )

    # -- what is done to it ----------------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """The probabilities of faults; assign another :class:`Faults` to change them from the next call on."""
        return self.fault_plan.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.fault_plan.faults = faults

    def inject(
        self,
        verb: str,
        fault: Fault | str,
        times: int = 1,
        *,
        delay: float | None = None,
        retry_after: float | None = None,
    ) -> None:
        """The next ``times`` calls of ``verb`` (see :class:`Verb`) get ``fault``.

        ``delay`` in seconds takes the place of ``late_by``, ``slow_by``, ``refuse_for`` or ``spot_after``; a late
        arrival whose delay is given here may break the promise of ``settle``, one by chance never does.
        Raises InvalidInput if the fault does not fit the verb."""
        self.fault_plan.inject(verb, fault, times, delay=delay, retry_after=retry_after)

    def calm(self) -> None:
        """No faults from now on, by chance or by script. What has befallen servers stays."""
        self.fault_plan.faults = Faults()
        self.fault_plan.clear()

    def kill(self, provider_id: str) -> None:
        """Out of band: the server goes to ERROR. Raises ServerNotFound, like the next four."""
        self._befall(provider_id, ServerState.ERROR, "kill")

    def stop(self, provider_id: str) -> None:
        """Out of band: the server goes to STOPPED."""
        self._befall(provider_id, ServerState.STOPPED, "kill")

    def vanish(self, provider_id: str) -> None:
        """Out of band: the server is gone, and reads say so at once."""
        self._befall(provider_id, ServerState.DELETED, "vanish")

    def boot(self, provider_id: str) -> None:
        """Out of band: the server is ACTIVE now, also one stuck in BUILD."""
        self._befall(provider_id, ServerState.ACTIVE, "boot")

    def lose_part(self, provider_id: str) -> None:
        """Out of band: a part is gone, and reads say so at once. Raises ServerNotFound."""
        with self.datacenter.access():
            self.datacenter.lose_part(provider_id)

    def set_health(self, provider_id: str, health: Literal["ok", "bad", "flapping"]) -> None:
        """What probes of it find from now on."""
        with self.datacenter.access():
            self.datacenter.set_health(provider_id, health)

    def give_addresses(self, provider_id: str, *addresses: str) -> None:
        """Out of band: it has these addresses before its own, and none that it was given earlier. Raises
        ServerNotFound."""
        with self.datacenter.access():
            self.datacenter.give_addresses(provider_id, addresses)

    def add_foreign(self, name: str, token: str = "", **options: str) -> str:
        """Make a server as somebody else would, without a token or with one of another system; its provider id.
        ``options`` are keys of the resource: ``flavor``, ``image``."""
        with self.datacenter.access():
            return self.datacenter.add_foreign(name, token, **options).provider_id

    def resize(self, provider_id: str, flavor: str) -> None:
        """Out of band: the server gets another flavor. Raises ServerNotFound."""
        with self.datacenter.access():
            self.datacenter.resize(provider_id, flavor)

    def answer(self, argv: Sequence[str], result: CommandResult) -> None:
        """What execute() says to commands that begin with ``argv``; the answer given last wins."""
        self._answers.insert(0, (tuple(argv), result))

    def answer_to(self, argv: Sequence[str]) -> CommandResult | None:
        """The scripted answer to a command, if there is one."""
        for start, result in self._answers:
            if tuple(argv[: len(start)]) == start:
                return result
        return None

    def throttle(self) -> float:
        """Count one call against the rate limit: 0 if it is admitted, else the seconds until one would be."""
        rate = self.options.rate_limit
        if not rate:
            return 0.0
        t = self.datacenter.now()
        self._tokens = min(float(self.options.burst), self._tokens + (t - self._filled) * rate)
        self._filled = t
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / rate

    def _befall(self, provider_id: str, state: ServerState, cause: str) -> None:
        with self.datacenter.access():
            self.datacenter.befall(provider_id, state, cause)

    # -- the truth, for invariants ---------------------------------------------------------------------------------

    def servers(self) -> list[CloudServer]:
        """The servers that really exist now, visible or not, by arrival; also those that are not ours."""
        place = self.datacenter
        with place.access():
            t = place.advance()
            return [s.truth_at(t) for s in place.living.values() if s.state_at(t) is not ServerState.DELETED]

    def history(self) -> list[Happening]:
        """All real changes of all servers until now, by time. (From a file: not of those gone longest.)"""
        place = self.datacenter
        with place.access():
            t = place.advance()
            happened = [
                (change.at, server.number, index, server, change)
                for server in (*place.gone, *place.living.values())
                for index, change in enumerate(server.changes)
                if change.at <= t
            ]
        happened.sort(key=lambda entry: entry[:3])
        return [
            Happening(change.at, server.provider_id, server.name, server.token, change.state, change.cause)
            for _, _, _, server, change in happened
        ]

    def made(self) -> dict[str, list[str]]:
        """Provider ids of all servers ever made, by token; more than one for a token is a double create."""
        made: dict[str, list[str]] = {}
        for happening in self.history():
            if happening.cause == "create":
                made.setdefault(happening.token, []).append(happening.provider_id)
        return made

    def parts(self) -> list[CloudPart]:
        """The parts that really exist now, visible or not, by arrival."""
        place = self.datacenter
        with place.access():
            t = place.advance()
            return [part.show(t) for part in place.parts.values() if part.there(t)]

    def parts_made(self) -> dict[str, list[str]]:
        """Provider ids of all parts ever made, by token; more than one for a token is a double create."""
        place = self.datacenter
        made: dict[str, list[str]] = {}
        with place.access():
            place.advance()
            for part in (*place.gone_parts, *place.parts.values()):
                made.setdefault(part.token, []).append(part.provider_id)
        return made

    def user_of(self, part_id: str) -> str | None:
        """Provider id of the server that really has this part now."""
        with self.datacenter.access():
            server = self.datacenter.user_of(part_id, self.datacenter.advance())
            return None if server is None else server.provider_id

    def under_way(self) -> int:
        """Requests with an effect that were sent and have not arrived: they will, whoever dies."""
        with self.datacenter.access():
            self.datacenter.advance()
            return self.datacenter.under_way

    def healthy(self, provider_id: str) -> bool:
        """What a probe of this server finds now; False if there is none."""
        with self.datacenter.access():
            t = self.datacenter.advance()
            server = self.datacenter.living.get(provider_id)
            return server is not None and server.healthy_at(t)

    def probe(self, address: str) -> bool:
        """What a probe of this address, public or private, finds now."""
        with self.datacenter.access():
            t = self.datacenter.advance()
            server = self.datacenter.at_address(address, t)
            return server is not None and server.healthy_at(t)

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people."""
        place = self.datacenter
        with place.access():
            t = place.advance()
            states = Counter(s.state_at(t).value for s in place.living.values())
            return {
                "servers": {state: states[state] for state in sorted(states) if state != ServerState.DELETED},
                "parts": sum(1 for part in place.parts.values() if part.there(t)),
                **place.snapshot(),
                "calls": dict(sorted(self.calls.items())),
                "in_flight": self.in_flight,
                "most_in_flight": self.most_in_flight,
                "state": self.options.state,
            }
