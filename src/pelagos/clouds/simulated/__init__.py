"""The simulated cloud: the reference driver, and the cloud of simulation and benchmarks."""

from pelagos.clouds.simulated.cloud import SimulatedCloud
from pelagos.clouds.simulated.driver import SimulatedDriver
from pelagos.clouds.simulated.faults import Fault, Faults, Verb
from pelagos.clouds.simulated.options import Delay, SimulatedOptions, SimulatedResource
from pelagos.clouds.simulated.plugin import DRIVER, SimulatedPlugin
from pelagos.clouds.simulated.records import Happening

__all__ = [
    "DRIVER",
    "Delay",
    "Fault",
    "Faults",
    "Happening",
    "SimulatedCloud",
    "SimulatedDriver",
    "SimulatedOptions",
    "SimulatedPlugin",
    "SimulatedResource",
    "Verb",
]
