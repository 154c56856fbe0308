"""How a cloud account is, as far as its calls tell: nobody asks a cloud for its health but by asking it for something.

An answer that refuses one thing (a bad image, a full quota) is an answer: the cloud is reached and the account let in.
What is asked of the account itself, its servers, has no reason to be refused: whoever refuses that is no such cloud, or
one that is ill. Then only a call that succeeds says that it is well again.
"""

from __future__ import annotations

import enum
from typing import Any

from pelagos.clouds.errors import (
    CloudAuthFailed,
    CloudError,
    CloudRateLimited,
    CloudUncertain,
    CloudUnreachable,
    ServerNotFound,
)
from pelagos.model.errors import ErrorPayload, PelagosError
from pelagos.model.world import World

__all__ = ["AccountHealth", "AccountState"]

_WEIGHT = 0.2


class AccountState(enum.StrEnum):
    """What the last calls said of an account."""

    UNKNOWN = "unknown"
    """It was not asked for anything yet."""
    OK = "ok"
    """It answers."""
    LIMITED = "limited"
    """It wants to be left alone for a while: too many requests."""
    UNREACHABLE = "unreachable"
    """It does not answer."""
    REFUSED = "refused"
    """It does not accept the account's credentials."""
    FAILING = "failing"
    """It answers, and not as such a cloud does: what is asked of the account itself fails."""
    BROKEN = "broken"
    """The account cannot be opened: wrong options, a secret that cannot be read, a driver that is not installed."""


class AccountHealth:
    """Of one account, in this process. Times in wall-clock seconds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.state = AccountState.UNKNOWN
        self.answered_at: float | None = None
        self.error: ErrorPayload | None = None
        """The last one, whether or not the account has answered since."""
        self.error_at: float | None = None
        self.seconds: float | None = None
        """How long its answers take, the last ones counting more."""

    def answered(self, seconds: float) -> None:
        """A call came back with what was asked for."""
        self.state = AccountState.OK
        self.answered_at = self._world.now()
        self.seconds = seconds if self.seconds is None else self.seconds + _WEIGHT * (seconds - self.seconds)

    def failed(self, error: PelagosError, *, of_account: bool = False) -> None:
        """A call came back with an error of the cloud's, or not at all. ``of_account``: it asked for nothing that may
        be refused by itself."""
        if isinstance(error, ServerNotFound) and not of_account:
            self._refused_one()
            return  # an answer like others
        self._note(error)
        match error:
            case CloudAuthFailed():
                self.state = AccountState.REFUSED
            case CloudRateLimited():
                self.state = AccountState.LIMITED
            case CloudUnreachable() | CloudUncertain():
                self.state = AccountState.UNREACHABLE
            case _ if of_account or type(error) is CloudError:
                self.state = AccountState.FAILING
            case _:
                self._refused_one()

    def not_opened(self, error: PelagosError) -> None:
        """The driver could not be opened."""
        self.failed(error, of_account=True)
        if self.state is AccountState.FAILING:
            self.state = AccountState.BROKEN

    def snapshot(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "answered_at": self.answered_at,
            "seconds": self.seconds,
            "error": None if self.error is None else self.error.message,
            "error_at": self.error_at,
        }

    def _refused_one(self) -> None:
        """A call was refused for what it asked."""
        if self.state not in (AccountState.FAILING, AccountState.BROKEN):
            self.state, self.answered_at = AccountState.OK, self._world.now()

    def _note(self, error: PelagosError) -> None:
        self.error, self.error_at = error.payload(), self._world.now()
