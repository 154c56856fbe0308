"""A launch plan as values.

    launch: observatory
    levels:
      - parts:
          - name: database
            program: {run: [./database.sh, "5433"], stop: [./database.sh, stop]}
            ready: {command: [./database.sh, ping]}
            outputs: {url: "db://127.0.0.1:5433"}
      - parts:
          - name: site
            infrastructure: {files: [site.yaml, nodes.yaml], variables: {database: "{{ database.url }}"}}
            ready: {url: "http://{{ site.address.lb }}:8080/"}
          - name: workers
            container: {files: [workers.yaml], arguments: {workers.database: "{{ database.url }}"}}

Texts are templates over the outputs of earlier levels' parts, by the parts' names; in ``ready`` and ``outputs`` also
over the part's own. (The idea of run levels with a boot, a readiness and a termination step is cloudinit.d's.)
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = ["ContainerPart", "InfrastructurePart", "LaunchPlan", "Level", "Part", "ProgramPart", "Ready"]

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Argv = tuple[str, ...]


class InfrastructurePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An infrastructure: booted by what ``pelagos up`` does, ready when all its nodes are, terminated by ``down``."""

    files: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Description and node definitions, seen from the plan's file."""
    variables: dict[str, Any] = {}
    """Go over the description's own ``variables``."""


class ProgramPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Programs of this host, started in the plan's directory; no shell. ``boot``, ``run`` or both are given."""

    boot: Argv = ()
    """Runs to its end; a JSON object on its last line of output are outputs. It must bear being run again."""
    run: Argv = ()
    """Is started after ``boot`` and goes on; its output goes to a log file."""
    stop: Argv = ()
    """Runs at the termination. Then what ``run`` started is asked to end, and after ``stop_timeout`` made to."""
    stop_timeout: Seconds = 10.0


class ContainerPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container of processes on this host (``pelagos container``); ready when all its apps run."""

    files: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """App and release files seen from the plan's file, or names of apps."""
    system: str = ""
    id: str = ""
    """Empty: the launch's name and the part's."""
    broker: str = ""
    arguments: dict[str, Any] = {}
    """``app.key`` -> value, as ``--arg``."""
    stop_timeout: Seconds = 30.0


class Ready(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must succeed before the part counts as ready, besides its boot. All that is given must hold."""

    command: Argv = ()
    """Exit code 0; a JSON object on its last line of output are outputs."""
    url: str = ""
    """Answers with 2xx or 3xx."""
    interval: Seconds = 1.0


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``infrastructure``, ``program`` and ``container``."""

    name: Name
    infrastructure: InfrastructurePart | None = None
    program: ProgramPart | None = None
    container: ContainerPart | None = None
    ready: Ready = Ready()
    timeout: Seconds = 600.0
    """From the boot until it is ready."""
    outputs: dict[str, str] = {}
    """Templates over its own outputs and those of earlier levels; later ones see the results."""
    environment: dict[str, str] = {}
    """Of its programs, over this command's own."""

    @property
    def kind(self) -> str:
        return "infrastructure" if self.infrastructure else "container" if self.container else "program"


class Level(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts that boot at the same time; the next level begins when all are ready."""

    parts: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1)]
    name: str = ""


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    launch: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Its name; what is launched is remembered under it."""
    levels: Annotated[tuple[Level, ...], msgspec.Meta(min_length=1)]

    def parts(self) -> list[Part]:
        """All, in the order of their levels."""
        return [part for level in self.levels for part in level.parts]
