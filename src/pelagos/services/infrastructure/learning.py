"""What instances report of themselves, asked for whenever somebody is made who is told it.

To ask once and remember is not enough: an instance that is restarted may report another password, and who is made
afterwards must not be told the one of before. So it is asked each time; that is a command in one instance for each node
that is made of, and little beside the making of a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

from pelagos.model.errors import PelagosError
from pelagos.services.infrastructure.attributes import FILE, reported_by
from pelagos.services.infrastructure.health import Execute
from pelagos.services.infrastructure.nodes import Instance

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Learning"]

_log = structlog.get_logger("pelagos.infrastructure")


class Learning:
    """For one maintainer. ``execute``: how a command is run inside an instance; None: nobody can."""

    def __init__(self, maintainer: Maintainer, execute: Execute | None) -> None:
        self._maintainer = maintainer
        self._execute = execute

    async def ask(self, creates: Iterable[Instance]) -> None:
        """Ask instances for what those to be made are told of them. What cannot be asked is as it was told last; what
        was never learned is missing when their templates are rendered, which says so."""
        if self._execute is None:
            return
        maintainer = self._maintainer
        reality, patience = maintainer.reality, maintainer.settings.command_patience
        asked: set[str] = set()
        for name in dict.fromkeys(instance.row.node for instance in creates):
            for source in maintainer.renderer.reporters(reality, reality.nodes[name]):
                if source.row.id in asked:
                    continue
                asked.add(source.row.id)
                try:
                    result = await self._execute(source.row.server_id, ("cat", FILE), patience)
                    if result.exit_code == 0:
                        self._take_in(source, reported_by(result.output))
                except (PelagosError, ValueError) as error:
                    _log.warning("attributes not read", instance=source.row.id, error=str(error))

    def _take_in(self, instance: Instance, reported: dict[str, Any]) -> None:
        """Where it is another than before, names are told, and no values: those may be secrets."""
        before, instance.attributes = instance.attributes, reported
        changed = sorted(key for key in {*before, *reported} if before.get(key) != reported.get(key))
        if before and changed:
            self._maintainer.event("instance.attributes_changed", instance.row, names=changed)
