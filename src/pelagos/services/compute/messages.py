"""What the compute service is asked, and answers. A command never waits for the cloud: it answers with operations."""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.clouds.values import CommandResult, ServerSpec
from pelagos.model.errors import ErrorPayload
from pelagos.model.scope import Fence
from pelagos.model.states import OperationState
from pelagos.operations import Survey

__all__ = [
    "Accepted",
    "AccountSurvey",
    "AdoptServers",
    "CloudRef",
    "CloudServersRequest",
    "ConsoleOutput",
    "ConsoleRequest",
    "CreateServers",
    "DeleteServers",
    "ExecuteRequest",
    "Executed",
    "ListenerCheck",
    "ListenerVerdict",
    "OperationRef",
    "OrphanRef",
    "PowerServers",
    "RefreshAccounts",
    "Refreshed",
    "RemoveOrphans",
    "ServerAdopt",
    "ServerCreate",
    "ServerRef",
    "ServerUpdate",
    "SurveyAccounts",
    "Surveys",
    "UpdatableKeys",
    "UpdateServers",
]


class ServerCreate(msgspec.Struct, frozen=True, kw_only=True):
    """One server to create. The caller chooses both ids beforehand, so that a repeat makes no second one."""

    request_id: str
    server_id: str
    account: str
    spec: ServerSpec
    infrastructure_id: str | None = None
    instance_id: str | None = None
    expires_at: float | None = None
    """Wall-clock time after which no new attempt is made."""


class CreateServers(msgspec.Struct, frozen=True, kw_only=True):
    """Create all or none of the records. The fence, if given, is checked in the same transaction.

    Raises QuotaExceeded, LeaseLost, NotFound (account)."""

    items: tuple[ServerCreate, ...]
    fence: Fence | None = None


class ServerAdopt(msgspec.Struct, frozen=True, kw_only=True):
    """One server that is there already, to be taken on record. The caller chooses both ids beforehand."""

    request_id: str
    server_id: str
    account: str
    provider_id: str
    token: str = ""
    """What it carries already, where its record was lost; empty: it is somebody else's."""
    spec: ServerSpec
    """What is known of it."""
    infrastructure_id: str | None = None
    instance_id: str | None = None


class AdoptServers(msgspec.Struct, frozen=True, kw_only=True):
    """Adopt all or none. They count into the quota, whose limit is not asked: they exist.

    Raises Conflict (one is on record already), LeaseLost, NotFound (account), Unsupported."""

    items: tuple[ServerAdopt, ...]
    fence: Fence | None = None


class OrphanRef(msgspec.Struct, frozen=True, kw_only=True):
    """A server that carries ``token``, which no record knows."""

    request_id: str
    account: str
    provider_id: str
    token: str


class RemoveOrphans(msgspec.Struct, frozen=True, kw_only=True):
    """Delete servers of ours that no record knows. Raises Conflict if one is on record by now, NotFound (account)."""

    items: tuple[OrphanRef, ...]


class AccountSurvey(msgspec.Struct, frozen=True, kw_only=True):
    account: str
    known: tuple[str, ...] = ()
    """The cloud's ids of servers that should be there."""


class SurveyAccounts(msgspec.Struct, frozen=True, kw_only=True):
    """Look at these accounts; nothing is written. ``foreign``: also at servers that are not ours."""

    items: tuple[AccountSurvey, ...]
    foreign: bool = False


class Surveys(msgspec.Struct, frozen=True):
    """One for each item, in the items' order."""

    items: tuple[Survey, ...]


class ServerRef(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    server_id: str
    expires_at: float | None = None
    """Wall-clock time after which no new attempt is made."""


class DeleteServers(msgspec.Struct, frozen=True, kw_only=True):
    """Delete servers. One whose create call has not been sent is cancelled; one whose outcome is not known yet is
    deleted as soon as it is."""

    items: tuple[ServerRef, ...]
    fence: Fence | None = None


class PowerServers(msgspec.Struct, frozen=True, kw_only=True):
    """``verb`` is start, stop or reboot."""

    verb: str
    items: tuple[ServerRef, ...]
    fence: Fence | None = None


class ServerUpdate(ServerRef, frozen=True, kw_only=True):
    """Keys of a server's resource that are to have these values; None is what holds where a key is absent."""

    values: dict[str, Any]
    label: str = ""
    """What whoever asks calls a server with these values: the server's facts tell it again."""
    former: str = ""
    """What whoever asks calls it as it is on record there."""


class UpdateServers(msgspec.Struct, frozen=True, kw_only=True):
    """Change servers in place, while they run. One that is asked for while another of the same server is under way is
    carried out after it.

    Raises NotFound, Conflict (being deleted, or gone), LeaseLost."""

    items: tuple[ServerUpdate, ...]
    fence: Fence | None = None


class UpdatableKeys(msgspec.Struct, frozen=True):
    """The resource keys that a cloud changes in place."""

    keys: frozenset[str]


class OperationRef(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    request_id: str
    server_id: str
    state: OperationState
    error: ErrorPayload | None = None


class Accepted(msgspec.Struct, frozen=True):
    """One operation for each item, in the items' order."""

    operations: tuple[OperationRef, ...]


class RefreshAccounts(msgspec.Struct, frozen=True, kw_only=True):
    """List these accounts once and write what the clouds say, unless that was done less than ``max_age`` seconds ago.

    Answers when it is written. An account that cannot be listed is in ``errors`` of the answer; its servers keep
    their last state."""

    accounts: tuple[str, ...]
    max_age: float = 0.0


class Refreshed(msgspec.Struct, frozen=True):
    observed_at: dict[str, float]
    """Account -> wall-clock time of the listing that is in the store now."""
    errors: dict[str, ErrorPayload] = {}
    doubts: dict[str, float] = {}
    """Servers that their clouds did not list, but were made or changed so shortly before that it means nothing yet ->
    wall-clock time at which it will. Known where this system's compute service looks after the account itself."""


class ConsoleRequest(msgspec.Struct, frozen=True, kw_only=True):
    server_id: str
    max_bytes: int = 65536


class ConsoleOutput(msgspec.Struct, frozen=True):
    server_id: str
    text: str


class ExecuteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Run a command inside the server (a health check). Raises Unsupported where the cloud cannot."""

    server_id: str
    argv: tuple[str, ...]
    timeout: float = 10.0


class Executed(msgspec.Struct, frozen=True):
    result: CommandResult


class ListenerCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Does what listens on this address and port belong to the server? For clouds whose servers share a network."""

    server_id: str
    address: str
    port: int


class ListenerVerdict(msgspec.Struct, frozen=True):
    """``owned`` is None where the cloud has no doubt to clear."""

    owned: bool | None


class CloudRef(msgspec.Struct, frozen=True, kw_only=True):
    """``cloud`` is the name of an account of the pool."""

    cloud: str


class CloudServersRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``foreign``: also servers that Pelagos did not make."""

    cloud: str
    foreign: bool = False
