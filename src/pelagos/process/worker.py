"""Workers: processes that share the jobs of a queue, or each get all announcements, under names chosen at run time.

A subclass has the operations; where its work comes from is an argument. Results are the replies to calls; a job that
nobody waits for is sent one-way. A job is cancelled by its request id: at one worker with ``cancel``, at whichever has
it by announcing ``cancel`` on the workers' fan-out.

    class Adder(WorkerProcess):
        @operation
        async def work(self, job: Job) -> Done: ...

    await container.spawn(lambda: Adder(queue="jobs"))
    await container.edge.call("service:jobs", "work", Job(...), result=Done)
"""

from __future__ import annotations

from pelagos.exchange import Address, Kind
from pelagos.model.errors import InvalidInput
from pelagos.process.operation import operation
from pelagos.process.process import Process

__all__ = ["WorkerProcess"]


class WorkerProcess(Process):
    """Competes on the service address ``queue`` and hears the fan-out ``fanout``; at least one of them.

    ``max_concurrent`` jobs run at once, and ``prefetch`` are in the worker's hands (as many as run if None), so that a
    slow worker does not keep jobs from an idle one. Announcements have slots of their own: they come through
    while all jobs' slots are taken. ``durable`` and what follows are those of :class:`pelagos.exchange.Receiver`.
    """

    def __init__(
        self,
        *,
        queue: str = "",
        fanout: str = "",
        max_concurrent: int = 1,
        prefetch: int | None = None,
        durable: bool = False,
        capacity: int = 1024,
        delivery_limit: int = 5,
    ) -> None:
        if not queue and not fanout:
            raise InvalidInput(f"{type(self).__name__}: a worker has a queue, a fan-out or both")
        super().__init__()
        self.queue = queue
        self.fanout = fanout
        self.__jobs_at_once = max_concurrent
        self.__jobs_in_hand = prefetch or max_concurrent
        self.__durable = durable
        self.__capacity = capacity
        self.__delivery_limit = delivery_limit

    @operation
    async def cancel(self, request_id: str) -> bool:
        """Cancel a job: its caller gets :class:`Cancelled`. False if it does not run here."""
        return self.cancel_request(request_id) > 0

    async def _before_init(self) -> None:
        if self.fanout:
            await self.serve(
                self.fanout if ":" in self.fanout else Address(Kind.FANOUT, self.fanout),
                max_concurrent=self.__jobs_at_once,
                capacity=self.__capacity,
            )
        if self.queue:
            await self.serve(
                self.queue if ":" in self.queue else Address(Kind.SERVICE, self.queue),
                max_concurrent=self.__jobs_at_once,
                prefetch=self.__jobs_in_hand,
                durable=self.__durable,
                capacity=self.__capacity,
                delivery_limit=self.__delivery_limit,
            )
