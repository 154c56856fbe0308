"""Hello, process: no service name, so it is called by its id, by whoever has been told it.

Run it::

    pelagos container hello_process.yaml
    PID=$(pelagos spawn hello-process)
    pelagos call $PID hello --content you
"""

from pelagos.process import Process, operation


class HelloProcess(Process):
    def __init__(self, greeting: str = "Hello") -> None:
        super().__init__()
        self.greeting = greeting
        self.greeted: list[str] = []

    @operation
    async def hello(self, name: str) -> str:
        self.greeted.append(name)
        return f"{self.greeting}, {name}. You are number {len(self.greeted)} here."
