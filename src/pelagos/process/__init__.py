"""Processes: life cycle, typed operations and clients, supervision. See README.md."""

from pelagos.process.client import client
from pelagos.process.context import Context, current_context, use_context
from pelagos.process.host import Host
from pelagos.process.lifecycle import IllegalTransition, Input, LifeCycle, State, Transition
from pelagos.process.log import Logger, add_context, get_logger
from pelagos.process.operation import operation
from pelagos.process.process import Process, ProcessSnapshot, ServiceProcess
from pelagos.process.serving import ServingSnapshot
from pelagos.process.supervisor import ChildSnapshot, ChildSpec, Restart, RestartStrategy, Supervisor

__all__ = [
    "ChildSnapshot",
    "ChildSpec",
    "Context",
    "Host",
    "IllegalTransition",
    "Input",
    "LifeCycle",
    "Logger",
    "Process",
    "ProcessSnapshot",
    "Restart",
    "RestartStrategy",
    "ServiceProcess",
    "ServingSnapshot",
    "State",
    "Supervisor",
    "Transition",
    "add_context",
    "client",
    "current_context",
    "get_logger",
    "operation",
    "use_context",
]
