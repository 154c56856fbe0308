"""Counter: a process that fails is started anew by its supervisor, from the beginning; what must last is in a store.

Run it::

    pelagos container counter.yaml
    pelagos call counter add --content 5
    pelagos call counter add --content 0   # exit code 70
    pelagos ps --service counter
"""

from pelagos.process import ServiceProcess, get_logger, operation

log = get_logger(__name__)


class CounterService(ServiceProcess):
    name = "counter"
    fail_fast = True  # whoever has failed in a way nobody foresaw, should not go on with what it has in memory

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.total = start

    async def on_activate(self) -> None:
        log.info("counting", start=self.total)

    @operation
    async def add(self, number: int) -> int:
        self.total += number
        assert number != 0, "adding nothing"
        return self.total
