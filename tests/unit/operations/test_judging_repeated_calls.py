"""What an error means for a create that was sent before: nothing is known of the first call by the second's failure."""

from __future__ import annotations

import msgspec
import pytest

from pelagos.clouds.errors import CloudAuthFailed, CloudCapacity, CloudRateLimited, CloudRejected, CloudUnreachable
from pelagos.clouds.values import Capabilities, TokenLookup
from pelagos.model import DEFAULT_SCOPE, PelagosError
from pelagos.model.errors import Unavailable
from pelagos.operations.calls import judge
from pelagos.operations.claims import Due, Rules, decide
from pelagos.operations.records import Call, Failed, Retry, Uncertain

ERRORS = [
    CloudRejected("no"),
    CloudAuthFailed("who"),
    CloudCapacity("full"),
    CloudUnreachable("away"),
    CloudRateLimited("slow", retry_after=3.0),
    Unavailable("the lease waits for its renewal"),
]
CREATE = Call(
    operation_id="o", kind="server.create", step=0, verb="create", scope=DEFAULT_SCOPE, server_id="s", token="t"
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_repeat_that_fails_leaves_the_first_call_uncertain(error: PelagosError) -> None:
    assert isinstance(judge(CREATE, error, 0.0, 1.0), Failed | Retry)
    for call in (msgspec.structs.replace(CREATE, resent=True), msgspec.structs.replace(CREATE, verb="lookup")):
        result = judge(call, error, 0.0, 1.0)
        assert isinstance(result, Uncertain)
        assert result.next_at == max(1.0, error.retry_after or 0.0)


@pytest.mark.parametrize(
    ("lookup", "error", "verb"),
    [
        (TokenLookup.IDEMPOTENT, None, "create"),
        (TokenLookup.IDEMPOTENT, CloudUnreachable("away"), "create"),
        (TokenLookup.IDEMPOTENT, CloudRejected("no"), "lookup"),
        (TokenLookup.TAG, None, "lookup"),
    ],
)
def test_a_create_whose_outcome_is_unknown(lookup: TokenLookup, error: PelagosError | None, verb: str) -> None:
    due = Due(
        id="o",
        project_id="p",
        user_id="u",
        kind="server.create",
        state="uncertain",
        step=0,
        attempts=1,
        expires_at=None,
        cancel_requested=False,
        created_at=0.0,
        updated_at=0.0,
        target_id="s",
        infrastructure_id=None,
        parameters_blob=b"",
        error_blob=None if error is None else msgspec.msgpack.encode(error.payload()),
        provider_id=None,
        server_state="build",
        spec_blob=b"",
        instance_id=None,
        server_deleted_at=None,
        token="t",
        sent_at=1.0,
        not_after=20.0,
    )
    call = decide(due, Rules(Capabilities(token_lookup=lookup, settle=5.0), 3600.0), 10.0, "fresh")
    assert isinstance(call, Call)
    assert (call.verb, call.token, call.resent) == (verb, "t", verb == "create")
