"""Processes: life cycle, typed operations and clients, supervision. See README.md."""

from pelagos.process.child import ChildSnapshot, ChildSpec, ExitKind, ExitReason, Restart, RestartStrategy
from pelagos.process.client import client
from pelagos.process.context import Context, acting_as, current_context, use_context
from pelagos.process.host import Host
from pelagos.process.lifecycle import IllegalTransition, Input, LifeCycle, State, Transition
from pelagos.process.log import Logger, add_context, get_logger
from pelagos.process.messaging import Served
from pelagos.process.operation import operation
from pelagos.process.process import Process
from pelagos.process.service import ServiceProcess
from pelagos.process.statistics import OperationStatistics, ProcessDescription, ProcessSnapshot, ServingSnapshot
from pelagos.process.supervisor import Supervisor
from pelagos.process.worker import WorkerProcess

__all__ = [
    "ChildSnapshot",
    "ChildSpec",
    "Context",
    "ExitKind",
    "ExitReason",
    "Host",
    "IllegalTransition",
    "Input",
    "LifeCycle",
    "Logger",
    "OperationStatistics",
    "Process",
    "ProcessDescription",
    "ProcessSnapshot",
    "Restart",
    "RestartStrategy",
    "Served",
    "ServiceProcess",
    "ServingSnapshot",
    "State",
    "Supervisor",
    "Transition",
    "WorkerProcess",
    "acting_as",
    "add_context",
    "client",
    "current_context",
    "get_logger",
    "operation",
    "use_context",
]
