"""Workers: some share the jobs of a queue, others each get every announcement of a fan-out.

Run it::

    pelagos container workers.yaml
    pelagos call service:sums work --content '{"number": 4}'
"""

import msgspec

from pelagos.process import WorkerProcess, operation


class Job(msgspec.Struct, frozen=True):
    number: int


class Done(msgspec.Struct, frozen=True):
    number: int
    worker: str


class Squarer(WorkerProcess):
    """Spawn it with ``queue="sums"`` to share jobs, with ``fanout="sums"`` to get all, or with both."""

    def __init__(self, queue: str = "", fanout: str = "") -> None:
        super().__init__(queue=queue, fanout=fanout, max_concurrent=1)
        self.worked = 0

    @operation
    async def work(self, job: Job) -> Done:
        self.worked += 1
        return Done(job.number**2, self.id)
