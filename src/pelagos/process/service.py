"""A service: a process that others call by a name."""

from __future__ import annotations

from typing import Any, ClassVar

from pelagos.exchange import Address, Kind, Receiver
from pelagos.model.errors import InvalidInput
from pelagos.process.messaging import Served
from pelagos.process.process import Process

__all__ = ["ServiceProcess"]


class ServiceProcess(Process):
    """A process with a name that others call it by. Several processes of one name share its requests."""

    service_capacity: ClassVar[int] = 1024
    """Requests that may wait in the service's queue."""
    service_prefetch: ClassVar[int | None] = None
    """Requests that may be in the process's hands; None: twice ``max_concurrent``."""
    durable: ClassVar[bool] = False
    """Whether work sent to it outlives its processes and the broker: see :class:`pelagos.exchange.Receiver`."""
    delivery_limit: ClassVar[int] = 5

    __service: Served | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls) and not cls.name:
            raise TypeError(f"{cls.__qualname__}: a service has a name")

    @property
    def service_address(self) -> str:
        """The full address of the service's queue."""
        return self.container.names.full(Address(Kind.SERVICE, self.name))

    async def _open(self) -> None:
        if self.__service is None:
            if not self.name:
                raise InvalidInput(
                    f"{type(self).__qualname__} has no service name", advice='Give the class name = "...".'
                )
            receiver = Receiver(
                self.service_address,
                prefetch=self.service_prefetch or 2 * self.max_concurrent,
                capacity=self.service_capacity,
                durable=self.durable,
                delivery_limit=self.delivery_limit,
            )
            self.__service = Served(self, receiver, None, events=False, max_concurrent=None)
            self._pelagos_served.append(self.__service)
        await super()._open()
