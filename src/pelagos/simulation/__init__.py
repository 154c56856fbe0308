"""The simulation: the real program on virtual time, one seed a universe. See README.md."""

from __future__ import annotations

from pelagos.simulation.loop import (
    Deadlock,
    Forbidden,
    Livelock,
    SimulationError,
    VirtualLoop,
    VirtualProcess,
    run_virtual,
)
from pelagos.simulation.world import EPOCH, SimulatedWorld

__all__ = [
    "EPOCH",
    "Deadlock",
    "Forbidden",
    "Livelock",
    "SimulatedWorld",
    "SimulationError",
    "VirtualLoop",
    "VirtualProcess",
    "run_virtual",
]
