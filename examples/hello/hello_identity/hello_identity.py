"""Hello, identity: on whose behalf a call is made goes with it, through every service; changing it is an explicit act.

Run it::

    pelagos container hello_identity.yaml
    pelagos call reception ask
"""

import msgspec

from pelagos.process import ServiceProcess, acting_as, client, current_context, operation, use_context


class Answer(msgspec.Struct, frozen=True):
    user: str
    project: str


class Delegated(msgspec.Struct, frozen=True):
    before: Answer
    meanwhile: Answer
    after: Answer


class WhoService(ServiceProcess):
    name = "who"

    @operation
    async def am_i(self) -> Answer:
        scope = current_context().scope
        return Answer(scope.user_id, scope.project_id)


class ReceptionService(ServiceProcess):
    name = "reception"
    depends = ("who",)

    def __init__(self) -> None:
        super().__init__()
        self.who = client(WhoService, self)

    @operation
    async def ask(self) -> Answer:
        """Nothing is said of the user here, and it is the user that the other service sees."""
        return await self.who.am_i()

    @operation
    async def ask_for(self, assertion: bytes) -> Delegated:
        """With another user's signed assertion: for as long as the block lasts."""
        before = await self.who.am_i()
        with use_context(acting_as(current_context(), assertion)):
            meanwhile = await self.who.am_i()
        return Delegated(before, meanwhile, after=await self.who.am_i())
