"""The ancestor's manager (reference, section 2.2): a table of infrastructures that this program keeps alive.

A thin sync face: what it did in the caller's process and in children of it, the services do. Deviations, each of which
was a defect there: a start with an id that is unknown fails at once; what is managed by a daemon survives this program;
``tear_down`` removes an infrastructure from the store too, in the order of its dependencies, and says what a cloud did
not delete.

A description that was submitted and not yet started is kept in the state directory, so that another program of the same
user may start it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pelagos.compat.connecting import Services, default_services
from pelagos.compat.errors import (
    InfrastructureIDNotFoundException,
    InfrastructureIDTakenException,
    InfrastructureManaged,
    SchemaError,
    as_ancestor,
)
from pelagos.compat.maintenance import InfrastructureMaintenanceProcess, strategy_of
from pelagos.compat.submitted import Submitted
from pelagos.model.errors import Ambiguous, from_payload
from pelagos.wire.infrastructures import InfrastructureSummary, PlanRequest, RunRequest

__all__ = [
    "InfrastructureIDNotFoundException",
    "InfrastructureIDTakenException",
    "InfrastructureMaintenanceProcess",
    "InfrastructureManager",
    "SchemaError",
]

Description = Mapping[str, Any] | str | bytes | Path
"""A description as a mapping (dependencies name nodes, or are the very same mappings), as YAML text, or a file."""

_FILE = "description.yaml"
_WAIT = 60.0
_INTERVAL = 10.0


class InfrastructureManager:
    """``process_strategy``: ``sequential`` or ``parallel``. ``services``: whom to ask; by default those of this
    program, see :mod:`pelagos.compat.connecting`."""

    def __init__(self, process_strategy: str = "sequential", *, services: Services | None = None) -> None:
        self.process_strategy = strategy_of(process_strategy)
        self.process_table: dict[str, InfrastructureMaintenanceProcess] = {}
        self._services = services or default_services()

    @property
    def _submitted(self) -> Submitted:
        return Submitted(self._services.home)

    # -- building ----------------------------------------------------------------------------------------------------

    def add(self, infra_desc: Description) -> str:
        """Submit it and start; answers its id while it is being built. Raises as the two."""
        infra_id = self.submit_infrastructure(infra_desc)
        self.start_provisioning(infra_id)
        return infra_id

    def submit_infrastructure(self, infra_desc: Description) -> str:
        """Check a description and keep it; answers the id that it will have when it is started, by this program or
        another. Nothing is built.

        Raises SchemaError with all mistakes, also for what is no description."""
        sources, entries = _bundle(infra_desc)
        with as_ancestor():
            try:
                self._services.client.plan(
                    PlanRequest(sources=sources, entries=entries, strategy=self.process_strategy)
                )
            except Ambiguous:
                pass  # its name is that of several; it is to be a new one, and its description has been checked
        infra_id = self._services.world.new_id()
        request = RunRequest(
            kind="up",
            sources=sources,
            entries=entries,
            new=True,
            id=infra_id,
            keep=True,
            request_id=infra_id,  # two programs that start it at once start one run
        )
        self._submitted.put(infra_id, request)
        return infra_id

    def start_provisioning(self, infra_id: str) -> None:
        """Build it, if that is not done, and keep it alive from now on. Answers before it is built.

        Raises InfrastructureIDTakenException if it is managed already, InfrastructureIDNotFoundException if there is
        none."""
        known = self.process_table.get(infra_id)
        if known is not None and known.is_alive():
            raise InfrastructureIDTakenException(
                f"infrastructure {infra_id!r} is managed already", advice="stop_provisioning ends that."
            )
        first = self._first(infra_id)
        process = InfrastructureMaintenanceProcess(
            infra_id, _INTERVAL, self.process_strategy, services=self._services, first=first
        )
        process.start()
        self._submitted.forget(infra_id)
        self.process_table[infra_id] = process

    def attach(self, infra_id: str) -> str:
        """:meth:`start_provisioning`, for an infrastructure that is there."""
        self.start_provisioning(infra_id)
        return infra_id

    def stop_provisioning(self, infra_id: str, wait_timeout: float = _WAIT) -> None:
        """Keep it alive no longer; its instances stay. A pass under way has ``wait_timeout`` seconds to end.

        Raises InfrastructureIDNotFoundException if it is not managed."""
        process = self.process_table.get(infra_id)
        if process is None and not self._services.embedded and self._summary(infra_id).maintained:
            # The daemon keeps it alive, whoever asked for that.
            process = InfrastructureMaintenanceProcess(infra_id, services=self._services)
        if process is None:
            raise InfrastructureIDNotFoundException(
                f"infrastructure {infra_id!r} is not managed", advice="start_provisioning or attach begins that."
            )
        process.graceful_terminate(wait_timeout)
        self.process_table.pop(infra_id, None)

    def detach(self, infra_id: str) -> str:
        """:meth:`stop_provisioning` with 60 seconds."""
        self.stop_provisioning(infra_id)
        return infra_id

    def get(self, infra_id: str) -> InfrastructureMaintenanceProcess:
        """What maintains it. Raises InfrastructureIDNotFoundException if this manager does not."""
        process = self.process_table.get(infra_id)
        if process is None:
            raise InfrastructureIDNotFoundException(
                f"infrastructure {infra_id!r} is not managed", advice="start_provisioning or attach begins that."
            )
        return process

    def tear_down(self, infra_id: str) -> None:
        """Destroy it, confirmed by its clouds. Answers when it is gone.

        Raises ValueError while it is managed, InfrastructureIDNotFoundException if there is none, and Conflict, which
        lists what remains, where a cloud refuses."""
        process = self.process_table.get(infra_id)
        if process is not None and process.is_alive():
            raise InfrastructureManaged(
                f"infrastructure {infra_id!r} is managed", advice="Call stop_provisioning or detach first."
            )
        if self._first(infra_id) is not None:
            self._submitted.forget(infra_id)
            return
        self.process_table.pop(infra_id, None)
        client = self._services.client
        with as_ancestor():
            run = client.runs.start(RunRequest(kind="down", infrastructure=infra_id))
            for _ in client.runs.follow(run.id, after=run.position):
                pass
            final = client.runs.get(run.id)
        if final.error is not None:
            raise from_payload(final.error)

    # -- its own life --------------------------------------------------------------------------------------------------

    def close(self, wait_timeout: float = _WAIT) -> None:
        """Let go of all that this program maintains itself; a daemon goes on with what it maintains."""
        for process in self.process_table.values():
            process.let_go(wait_timeout)
        self.process_table.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def snapshot(self) -> dict[str, Any]:
        """For people and tests."""
        return {
            "submitted": self._submitted.ids(),
            "processes": {infra_id: process.snapshot() for infra_id, process in self.process_table.items()},
        }

    def _first(self, infra_id: str) -> RunRequest | None:
        """The run that is to build it; None if that began. Raises InfrastructureIDNotFoundException."""
        first = self._submitted.get(infra_id)
        if first is not None and all(one.id != infra_id for one in self._services.client.infrastructures.list()):
            return msgspec.structs.replace(
                first, strategy=self.process_strategy, maintained=not self._services.embedded
            )
        self._summary(infra_id)
        return None

    def _summary(self, infra_id: str) -> InfrastructureSummary:
        known: tuple[InfrastructureSummary, ...] = self._services.client.infrastructures.list()
        for one in known:
            if one.id == infra_id:
                return one
        raise InfrastructureIDNotFoundException(
            f"there is no infrastructure {infra_id!r}", advice="`pelagos list` shows those there are."
        )


def _bundle(description: Description) -> tuple[dict[str, str], tuple[str, ...]]:
    """(name -> text, the entries) of a description in any of its forms. Raises SchemaError, InvalidInput."""
    if isinstance(description, Path):
        from pelagos.clients.bundle import read_bundle

        with as_ancestor():
            sources, entries = read_bundle([description])
        return sources, tuple(entries)
    if isinstance(description, bytes):
        try:
            text = description.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SchemaError("the description is not UTF-8") from error
    elif isinstance(description, str):
        text = description
    elif isinstance(description, Mapping):
        text = _as_yaml(description)
    else:
        raise SchemaError(
            f"a description is a mapping, YAML text or a path, not {type(description).__name__}",
            advice="Give what the description's file holds.",
        )
    return {_FILE: text}, (_FILE,)


def _as_yaml(description: Mapping[str, Any]) -> str:
    """Mappings that occur twice are written as aliases, so that dependencies mean the nodes they are."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    stream = io.StringIO()
    try:
        YAML(typ="safe", pure=True).dump(dict(description), stream)
    except YAMLError as error:
        raise SchemaError(
            f"the description is not plain data: {error}", advice="Use mappings, lists, texts and numbers alone."
        ) from error
    return stream.getvalue()
