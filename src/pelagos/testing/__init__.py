"""For tests of users' own services: containers in memory, recorders, stand-ins, the simulated world. See README.md."""

from pelagos.testing.brokers import Broker, broker_problem, broker_url, throw_away_broker
from pelagos.testing.checked import CheckedContainer
from pelagos.testing.fault_proxy import FaultProxy, ProxyFault, fault_proxy
from pelagos.testing.harness import Harness, running_container, world_of_this_loop
from pelagos.testing.http_requests import ProxiedRequest, request_where
from pelagos.testing.load import LoadStatistics, load
from pelagos.testing.recorder import Message, Recorder
from pelagos.testing.simulated import Node, Simulation, simulated
from pelagos.testing.stubs import Call, Spy, Stub, spy, stub

__all__ = [
    "Broker",
    "Call",
    "CheckedContainer",
    "FaultProxy",
    "Harness",
    "LoadStatistics",
    "Message",
    "Node",
    "ProxiedRequest",
    "ProxyFault",
    "Recorder",
    "Simulation",
    "Spy",
    "Stub",
    "broker_problem",
    "broker_url",
    "fault_proxy",
    "load",
    "request_where",
    "running_container",
    "simulated",
    "spy",
    "stub",
    "throw_away_broker",
    "world_of_this_loop",
]
