"""Hello, message: messages are Structs, which hold others. What does not fit is refused before the operation runs.

Run it::

    pelagos container hello_message.yaml
    pelagos call hello-message move --content '{"person": {"name": "Ann", "home": {"city": "Bari"}}, "city": "Oslo"}'
"""

import msgspec

from pelagos.process import ServiceProcess, operation


class Home(msgspec.Struct, frozen=True):
    city: str
    street: str = ""


class Person(msgspec.Struct, frozen=True):
    name: str
    home: Home
    friends: tuple["Person", ...] = ()


class Move(msgspec.Struct, frozen=True):
    person: Person
    city: str


class HelloMessage(ServiceProcess):
    name = "hello-message"

    @operation
    async def move(self, request: Move) -> Person:
        """The reply is the request's person, at a new home."""
        return msgspec.structs.replace(request.person, home=Home(request.city))

    @operation
    async def cities(self, person: Person) -> set[str]:
        """Of a person, and of all friends of friends."""
        return {person.home.city}.union(*[await self.cities(friend) for friend in person.friends])
