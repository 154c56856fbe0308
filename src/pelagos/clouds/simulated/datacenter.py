"""A simulated cloud's reality: what servers there really are, whatever any caller has heard of them.

The problem: a cloud goes on while its caller is dead, slow, cancelled or restarted. A create whose caller was killed
still arrives; a server boots, is taken away, becomes visible, all in its own time. And 10,000 of them must cost
nothing while nobody looks.

The way chosen: nothing runs. Requests with an effect are put into a queue by their time of arrival, all chance about
them drawn when they are sent; a server's life is a list of changes with their times. Whoever looks first applies what
has arrived until now, in order of arrival, and reads the state off the times. So looking never changes what happens,
one seed and the same calls give one history, and killing every task kills no effect. A listing is kept until the time
of the next change in it.

The way rejected: a task for each server, and one for each late create. It needs an owner that outlives its caller,
dies with the loop (which is what a crash is), and costs 10,000 timers.

Times are seconds of the world's monotonic clock, or of its wall clock if the reality lives in a file that outlives the
process (no monotonic clock survives a reboot).
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from msgspec.structs import replace

from pelagos.clouds.errors import CloudBusy, CloudCapacity, CloudError, CloudRejected, ServerNotFound
from pelagos.clouds.simulated.faults import Fault, Verb
from pelagos.clouds.simulated.records import Change, Command, Outcome, Part, Reality, Server
from pelagos.clouds.simulated.state_file import RealityFile
from pelagos.clouds.values import CloudPart, CloudServer, PartKind
from pelagos.model.errors import from_payload
from pelagos.model.states import ServerState

__all__ = ["Datacenter"]

_KEPT_GONE = 1000
_UNCOLLECTED_SECONDS = 600.0
_NULL: AbstractContextManager[None] = contextlib.nullcontext()


class Datacenter:
    """Servers and the requests on their way to them. Use every method inside :meth:`access`."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        wall_offset: float = 0.0,
        idempotent: bool = False,
        max_servers: int | None = None,
        max_parts: int | None = None,
        file: RealityFile | None = None,
    ) -> None:
        self._clock = clock
        self._wall_offset = wall_offset
        self.behave(idempotent=idempotent, max_servers=max_servers, max_parts=max_parts)
        self._file = file
        self._floor = -math.inf
        self._adopt(Reality())

    def behave(self, *, idempotent: bool, max_servers: int | None, max_parts: int | None) -> None:
        """From now on. What is there stays, also where it is more than that."""
        self._idempotent = idempotent
        self._max_servers = math.inf if max_servers is None else max_servers
        self._max_parts = math.inf if max_parts is None else max_parts

    # -- access and time -------------------------------------------------------------------------------------------

    def access(self) -> AbstractContextManager[None]:
        """Alone with the reality; nothing may be awaited inside."""
        return _NULL if self._file is None else self._access_file(self._file)

    @contextlib.contextmanager
    def _access_file(self, file: RealityFile) -> Iterator[None]:
        with file.locked():
            reality = file.read()
            if reality is not None:
                self._adopt(reality)
            self._dirty = False
            try:
                yield
            finally:
                if self._dirty:
                    file.write(self._reality())

    def _adopt(self, reality: Reality) -> None:
        self._next_server = reality.next_server
        self._next_command = reality.next_command
        self.living: dict[str, Server] = {s.provider_id: s for s in reality.servers}
        """Those that reads may show, by arrival."""
        self.gone: list[Server] = reality.gone
        self._commands = [(c.at, c.number, c) for c in reality.commands]
        heapq.heapify(self._commands)
        self._outcomes = reality.outcomes
        self._next_part = reality.next_part
        self.parts: dict[str, Part] = {p.provider_id: p for p in reality.parts}
        """Those that reads may show, by arrival."""
        self.gone_parts: list[Part] = reality.gone_parts
        self._by_token: dict[str, list[Server]] = {}
        self._by_address: dict[str, Server] = {}
        self._endings: list[tuple[float, int, Server]] = []
        for server in (*self.gone, *self.living.values()):
            self._index(server)
        for server in self.living.values():
            self._expect_end(server)
        self._views: dict[str, tuple[CloudServer | None, float]] = {}
        self._listing: tuple[CloudServer, ...] = ()
        self._listing_until = -math.inf
        self._dirty = False

    def _reality(self) -> Reality:
        del self.gone[:-_KEPT_GONE]
        horizon = self.now() - _UNCOLLECTED_SECONDS
        self._outcomes = {n: o for n, o in self._outcomes.items() if o.at >= horizon}
        return Reality(
            next_server=self._next_server,
            next_command=self._next_command,
            servers=list(self.living.values()),
            gone=self.gone,
            commands=[command for _, _, command in sorted(self._commands, key=lambda entry: entry[:2])],
            outcomes=self._outcomes,
            next_part=self._next_part,
            parts=list(self.parts.values()),
            gone_parts=self.gone_parts[-_KEPT_GONE:],
        )

    def now(self) -> float:
        """This reality's time: the clock's, but never before what has already been applied."""
        return max(self._clock(), self._floor)

    def advance(self, until: float | None = None) -> float:
        """Apply all that has arrived by now, or by ``until`` if that is later, and return that time."""
        t = self.now()
        if until is not None and until > t:
            t = self._floor = until
        commands = self._commands
        while commands and commands[0][0] <= t:
            self._apply(heapq.heappop(commands)[2])
        if self._endings and self._endings[0][0] <= t:
            self._bury(t)
        return t

    def snapshot(self) -> dict[str, int]:
        """Counters for people and tests."""
        return {
            "ever_made": self._next_server - 1,
            "under_way": len(self._commands),
            "unclaimed": len(self._outcomes),
        }

    # -- requests with an effect -----------------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Requests that have been sent and have not arrived."""
        return len(self._commands)

    def next_number(self) -> int:
        """The number of a new command."""
        number = self._next_command
        self._next_command += 1
        return number

    def submit(self, command: Command) -> None:
        """Put a request on its way."""
        heapq.heappush(self._commands, (command.at, command.number, command))
        self._dirty = True

    def collect(self, number: int, at: float) -> Outcome:
        """What became of the command that arrived at ``at``. Raises its CloudError."""
        self.advance(at)
        self._dirty = True
        outcome = self._outcomes.pop(number)
        if outcome.error is not None:
            raise from_payload(outcome.error)
        return outcome

    def abandon(self, number: int) -> None:
        """Nobody will collect this command's outcome; if it has not arrived, it still will."""
        for index, (at, other, command) in enumerate(self._commands):
            if other == number:
                self._commands[index] = (at, other, _unwanted(command))
                self._dirty = True
        if self._outcomes.pop(number, None) is not None:
            self._dirty = True

    def _apply(self, command: Command) -> None:
        self._dirty = True
        self._listing_until = -math.inf
        server: CloudServer | None = None
        part: CloudPart | None = None
        error: CloudError | None = None
        try:
            match command.verb:
                case Verb.CREATE:
                    server = self._create(command)
                case Verb.DELETE:
                    self._delete(command)
                case Verb.PART:
                    part = self._create_part(command)
                case Verb.UNPART:
                    self._delete_part(command)
                case Verb.FINISH:
                    server = self._finish(command)
                case Verb.ADOPT:
                    server = self._tag(command)
                case Verb.UPDATE:
                    self._update(command)
                case _:
                    self._power(command)
        except CloudError as refused:
            error = refused
        if command.wanted:
            payload = None if error is None else error.payload()
            self._outcomes[command.number] = Outcome(at=command.at, server=server, part=part, error=payload)

    def _create(self, command: Command) -> CloudServer:
        at = command.at
        if self._idempotent and command.token in self._by_token:
            return self._by_token[command.token][0].truth_at(at)
        self._bury(at)
        if len(self.living) >= self._max_servers:
            raise CloudCapacity(
                f"the account's quota of {self._max_servers} servers is used up",
                advice="Delete servers, or raise max_servers of the simulated account.",
            )
        for provider_id in command.parts:
            wanted = self.parts.get(provider_id)
            if wanted is None or not wanted.there(at) or not wanted.show(at).ready:
                raise CloudRejected(f"there is no part {provider_id} that a server could be made with")
        seen = at + command.lag
        changes = [Change(at, ServerState.BUILD, "create", seen)]
        booted = at + command.takes
        if command.fate != Fault.STUCK_BUILD:
            failed = command.fate == Fault.FAILED_BUILD
            state = ServerState.ERROR if failed else ServerState.ACTIVE
            changes.append(Change(booted, state, "boot", max(seen, booted)))
            if command.doom_after < math.inf and not failed:
                doomed = booted + command.doom_after
                changes.append(Change(doomed, command.doom_state, "spot", doomed))
        server = self._add(
            Server(
                number=self._next_server,
                provider_id=f"sim-{self._next_server:06d}",
                name=command.name,
                token=command.token,
                created_at=at + self._wall_offset,
                changes=changes,
                hostname=command.hostname,
                group=command.group,
                user_data=command.user_data,
                metadata=command.metadata,
                options=command.options,
                health=str(command.options.get("health", "ok")),
                parts=command.parts,
            )
        )
        return server.truth_at(at)

    def _delete(self, command: Command) -> None:
        at = command.at
        server = self.living.get(command.provider_id)
        if server is None:
            return
        state = server.state_at(at)
        if state is ServerState.DELETED or (state is ServerState.DELETING and server.in_transit(at)):
            return
        self._refuse(server, command)
        seen = at + command.lag
        changes = [Change(at, ServerState.DELETING, "delete", seen)]
        if command.fate != Fault.STUCK_DELETE:
            gone = at + command.takes
            changes.append(Change(gone, ServerState.DELETED, "delete", max(gone, seen)))
        self._replan(server, at, *changes)

    def _create_part(self, command: Command) -> CloudPart:
        at = command.at
        self._bury_parts(at)
        if len(self.parts) >= self._max_parts:
            raise CloudCapacity(
                f"the account's quota of {self._max_parts} parts is used up",
                advice="Delete volumes or addresses, or raise max_parts of the simulated account.",
            )
        number, kind = self._next_part, command.part_kind
        self._next_part += 1
        part = Part(
            number=number,
            provider_id=f"{kind.value}-{number:06d}",
            kind=kind,
            name=command.name,
            token=command.token,
            made_at=at,
            seen_at=at + command.lag,
            ready_at=math.inf if command.fate == Fault.STUCK_BUILD else at + command.takes,
            fails=command.fate == Fault.FAILED_BUILD,
        )
        self.parts[part.provider_id] = part
        return part.show(at)

    def _delete_part(self, command: Command) -> None:
        at = command.at
        part = self.parts.get(command.provider_id)
        if part is None or not part.there(at) or part.gone_at < math.inf:
            return
        if command.refuse_for:
            part.refuses_until = at + command.refuse_for
        if part.refuses_until > at:
            raise CloudBusy(f"the provider refuses to delete {part.provider_id} now")
        user = self.user_of(part.provider_id, at)
        if user is not None:
            raise CloudBusy(f"{part.provider_id} is in use by {user.name}")
        if command.fate != Fault.STUCK_DELETE:
            part.gone_at = at + command.takes
            part.gone_seen_at = max(part.gone_at, at + command.lag)

    def _finish(self, command: Command) -> CloudServer:
        at = command.at
        server = self.find_real(command.provider_id, at)
        if server.state_at(at) not in (ServerState.ACTIVE, ServerState.STOPPED):
            raise CloudBusy(f"{server.name} is in state {server.state_at(at).value}, and cannot be finished")
        given = []
        for provider_id in command.parts:
            part = self.parts.get(provider_id)
            if part is not None and part.there(at) and part.kind is PartKind.ADDRESS:
                given.append(part.show(at).address)
        server.given = given
        self._index_addresses(server)
        self._touch(server)
        return server.truth_at(at)

    def user_of(self, part_id: str, t: float) -> Server | None:
        """The server that really has this part at ``t``."""
        for server in self.living.values():
            if part_id in server.parts and server.state_at(t) is not ServerState.DELETED:
                return server
        return None

    def list_parts(self, t: float) -> tuple[CloudPart, ...]:
        """What a listing of parts shows at ``t``: those with a token, by arrival."""
        self._bury_parts(t)
        return tuple(part.show(t) for part in self.parts.values() if part.token and part.shown(t))

    def give_addresses(self, provider_id: str, addresses: Iterable[str]) -> None:
        """Show these before the server's own, instead of those that it was given. Raises ServerNotFound."""
        server = self.find_real(provider_id, self.advance())
        server.given = list(addresses)
        self._index_addresses(server)
        self._touch(server)

    def lose_part(self, provider_id: str) -> None:
        """A part is gone now, and reads show that at once. Raises ServerNotFound."""
        t = self.advance()
        part = self.parts.get(provider_id)
        if part is None or not part.there(t):
            raise ServerNotFound(f"the simulated cloud has no part {provider_id}")
        part.gone_at = part.gone_seen_at = t
        self._dirty = True

    def _bury_parts(self, t: float) -> None:
        for provider_id in [i for i, part in self.parts.items() if part.gone_at <= t and part.gone_seen_at <= t]:
            self.gone_parts.append(self.parts.pop(provider_id))
            self._dirty = True

    def _tag(self, command: Command) -> CloudServer:
        """Write a token into a server that has none, or the same one."""
        server = self.find_real(command.provider_id, command.at)
        if server.token and server.token != command.token:
            raise CloudRejected(
                f"{server.name} carries the token of another create call already",
                advice="It belongs to another system, or to a record that was lost: see `pelagos orphans list`.",
            )
        if not server.token:
            server.token = command.token
            self._by_token.setdefault(server.token, []).append(server)
            self._touch(server)
        return server.truth_at(command.at)

    def _update(self, command: Command) -> None:
        """Give a server other options; those without a value are what they are by default."""
        server = self.find_real(command.provider_id, command.at)
        self._refuse(server, command)
        options = {**server.options, **command.options}
        server.options = {key: value for key, value in options.items() if value is not None}
        if "health" in command.options:
            server.health = str(server.options.get("health", "ok"))
        server.updates += 1
        self._touch(server)

    def _power(self, command: Command) -> None:
        at = command.at
        server = self.find_real(command.provider_id, at)
        self._refuse(server, command)
        state = server.state_at(at)
        done = at + command.takes
        match command.verb, state:
            case (Verb.START, ServerState.ACTIVE) | (Verb.STOP, ServerState.STOPPED) if not server.in_transit(at):
                return
            case (Verb.START, ServerState.STOPPED) if not server.in_transit(at):
                changes = [Change(done, ServerState.ACTIVE, "start", done)]
            case (Verb.STOP, ServerState.ACTIVE) if not server.in_transit(at):
                changes = [Change(done, ServerState.STOPPED, "stop", done)]
            case (Verb.REBOOT, ServerState.ACTIVE | ServerState.STOPPED) if not server.in_transit(at):
                changes = [
                    Change(at, ServerState.REBOOT, "reboot", at),
                    Change(done, ServerState.ACTIVE, "reboot", done),
                ]
            case _:
                raise CloudBusy(f"{server.name} is in state {state.value}, which does not admit {command.verb}")
        self._replan(server, at, *changes)

    def _refuse(self, server: Server, command: Command) -> None:
        if command.refuse_for:
            server.refuses_until = command.at + command.refuse_for
        if server.refuses_until > command.at:
            raise CloudBusy(f"the provider refuses to {command.verb} {server.name} now")

    # -- servers ---------------------------------------------------------------------------------------------------

    def add_foreign(self, name: str, token: str = "", **options: str) -> Server:
        """A server that somebody else made: without a token, or with one that is nobody's here."""
        t = self.advance()
        number = self._next_server
        changes = [Change(t, ServerState.ACTIVE, "foreign", t)]
        created_at = t + self._wall_offset
        return self._add(Server(number, f"sim-{number:06d}", name, token, created_at, changes, options=dict(options)))

    def befall(self, provider_id: str, state: ServerState, cause: str) -> None:
        """Something happens to a server now, and reads show it at once. Raises ServerNotFound."""
        t = self.advance()
        self._replan(self.find_real(provider_id, t), t, Change(t, state, cause, t))

    def set_health(self, provider_id: str, health: str) -> None:
        """Probes find this from now on. Raises ServerNotFound."""
        self.find_real(provider_id, self.advance()).health = health
        self._dirty = True

    def resize(self, provider_id: str, flavor: str) -> None:
        """Reads show another flavor from now on. Raises ServerNotFound."""
        server = self.find_real(provider_id, self.advance())
        server.options = {**server.options, "flavor": flavor}
        self._touch(server)

    def find_shown(self, provider_id: str) -> Server:
        """A server that reads may still show. Raises ServerNotFound."""
        server = self.living.get(provider_id)
        if server is None:
            raise _no_such(provider_id)
        return server

    def find_real(self, provider_id: str, t: float) -> Server:
        """A server that really exists at ``t``. Raises ServerNotFound."""
        server = self.living.get(provider_id)
        if server is None or server.state_at(t) is ServerState.DELETED:
            raise _no_such(provider_id)
        return server

    def at_address(self, address: str, t: float) -> Server | None:
        """The server that really has this address at ``t``."""
        server = self._by_address.get(address)
        return None if server is None or server.state_at(t) is ServerState.DELETED else server

    def _add(self, server: Server) -> Server:
        self._next_server += 1
        self.living[server.provider_id] = server
        self._index(server)
        self._touch(server)
        return server

    def _index(self, server: Server) -> None:
        if server.token:
            self._by_token.setdefault(server.token, []).append(server)
        self._index_addresses(server)

    def _index_addresses(self, server: Server) -> None:
        for address in (server.address, server.private_address, *server.given):
            self._by_address[address] = server

    def _replan(self, server: Server, at: float, *changes: Change) -> None:
        server.plan(at, *changes)
        self._touch(server)

    def _touch(self, server: Server) -> None:
        self._dirty = True
        self._views.pop(server.provider_id, None)
        self._listing_until = -math.inf
        self._expect_end(server)

    def _expect_end(self, server: Server) -> None:
        last = server.changes[-1]
        if last.state is ServerState.DELETED:
            heapq.heappush(self._endings, (last.seen_at, server.number, server))

    def _bury(self, t: float) -> None:
        """Put away those that are gone and that no read shows any more."""
        while self._endings and self._endings[0][0] <= t:
            _, _, server = heapq.heappop(self._endings)
            last = server.changes[-1]
            if last.state is not ServerState.DELETED or last.seen_at > t or server.provider_id not in self.living:
                continue
            if any(change.seen_at > t for change in server.changes):
                latest = max(change.seen_at for change in server.changes)
                heapq.heappush(self._endings, (latest, server.number, server))
                continue
            del self.living[server.provider_id]
            self._views.pop(server.provider_id, None)
            self.gone.append(server)
            self._dirty = True

    # -- what reads show -------------------------------------------------------------------------------------------

    def listing(self, t: float) -> tuple[CloudServer, ...]:
        """What a listing shows at ``t``: servers with a token, by arrival."""
        if t < self._listing_until:
            return self._listing
        until = math.inf
        views = self._views
        shown: list[CloudServer] = []
        for provider_id, server in self.living.items():
            if not server.token:
                continue
            view = views.get(provider_id)
            if view is None or view[1] <= t:
                view = views[provider_id] = server.seen_at(t)
            if view[1] < until:
                until = view[1]
            if view[0] is not None:
                shown.append(view[0])
        self._listing = tuple(shown)
        self._listing_until = until
        return self._listing

    def foreign(self, t: float) -> tuple[CloudServer, ...]:
        """What a listing of the others shows at ``t``: servers without a token, by arrival."""
        looked = (server.seen_at(t)[0] for server in self.living.values() if not server.token)
        return tuple(shown for shown in looked if shown is not None)

    def seen(self, provider_id: str, t: float) -> CloudServer:
        """What reads show of one server at ``t``. Raises ServerNotFound."""
        server = self.living.get(provider_id)
        shown = None if server is None else server.seen_at(t)[0]
        if shown is None:
            raise _no_such(provider_id)
        return shown

    def find(self, token: str, t: float) -> CloudServer | None:
        """The oldest server with ``token`` that reads show at ``t``."""
        for server in self._by_token.get(token, ()):
            shown = server.seen_at(t)[0]
            if shown is not None:
                return shown
        return None


def _no_such(provider_id: str) -> ServerNotFound:
    return ServerNotFound(f"the simulated cloud has no server {provider_id}")


def _unwanted(command: Command) -> Command:
    return replace(command, wanted=False)
