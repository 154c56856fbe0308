"""Compute: create, list, read, start, stop, reboot and delete servers on any cloud of the pool."""

from __future__ import annotations

from pelagos.services.compute.queries import (
    PartRow,
    ServerRow,
    get_operation,
    get_server,
    list_parts,
    list_servers,
    operations_of_infrastructure,
    operations_of_server,
    parts_of_server,
    servers_by_id,
    servers_of,
)
from pelagos.services.compute.service import ComputeService

__all__ = [
    "ComputeService",
    "PartRow",
    "ServerRow",
    "get_operation",
    "get_server",
    "list_parts",
    "list_servers",
    "operations_of_infrastructure",
    "operations_of_server",
    "parts_of_server",
    "servers_by_id",
    "servers_of",
]
