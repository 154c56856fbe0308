"""The control socket: a remote edge for other programs of this user. See :mod:`pelagos.container.control.port`."""

from pelagos.container.control.client import connect_control, running_containers
from pelagos.container.control.port import ContainerInfo, Control, RemoteCaller
from pelagos.container.control.server import ControlProcess

__all__ = [
    "ContainerInfo",
    "Control",
    "ControlProcess",
    "RemoteCaller",
    "connect_control",
    "running_containers",
]
