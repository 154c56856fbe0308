"""Hello, service: one operation, called by the service's name. Where it runs, and how many there are, nobody asks.

Run it::

    pelagos container hello_service.yaml
    pelagos call hello hello --content you
"""

import msgspec

from pelagos.process import ServiceProcess, operation


class Greeting(msgspec.Struct, frozen=True):
    value: str


class HelloService(ServiceProcess):
    name = "hello"

    @operation
    async def hello(self, text: str) -> Greeting:
        return Greeting(f"Hello, {text}")
