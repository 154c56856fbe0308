"""Who owns what, for the policy's rules for owners: the registry knows, wherever in the system it runs.

The answer is asked for on behalf of the system itself, not of the user: whether a user may see a resource is not what
is in question. A registry that is served by nobody, or does not answer in time, makes the request fail with that
error: a rule that cannot be checked allows nothing.
"""

from __future__ import annotations

import asyncio

from pelagos.model.errors import PelagosError
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.process import Context, Process, client
from pelagos.services.registry import Ownership, RegistryService

__all__ = ["RegistryOwners"]

_TIMEOUT = 2.0
"""Seconds: a message is kept waiting for so long."""


class RegistryOwners(Process):
    """An owner look-up (:class:`pelagos.exchange.interceptors.OwnerLookup`) that is a process, since it makes calls."""

    vital = True

    def owns(self, scope: Scope, kind: str, ids: tuple[str, ...]) -> bool | asyncio.Future[bool]:
        """Whether the scope's user owns all of these resources of the registry."""
        if not ids or not hasattr(self, "container"):  # nothing is named, or it is asked before the start
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        question = Ownership(project_id=scope.project_id, user_id=scope.user_id, ids=ids, type=kind)
        self.start_task(self._ask(question, answer), name="who owns")
        return answer

    async def _ask(self, question: Ownership, answer: asyncio.Future[bool]) -> None:
        registry = client(RegistryService, self, timeout=_TIMEOUT, context=Context(DEFAULT_SCOPE))
        try:
            owned = await registry.owns(question)
        except PelagosError as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(owned)
        finally:
            answer.cancel()  # of no effect on one that is done
