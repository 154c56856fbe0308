"""Hello, resource: what is stored has versions, what exists is registered, and of two who change it both count.

Run it::

    pelagos container registry hello_resource.yaml
    pelagos call profiles create --content '{"name": "Ann", "town": "Bari"}'
    pelagos call profiles change --content '{"branch": "mine", "profile": {"name": "Ann", "town": "Oslo"}}'
    pelagos call profiles merge --content '{"name": "Ann", "branch": "mine"}'
"""

import msgspec

from pelagos import repository as versions
from pelagos.container.apps import Resources, process_factory
from pelagos.model.errors import NotFound
from pelagos.process import ServiceProcess, client, operation
from pelagos.services.registry import Register, RegistryService, Resource
from pelagos.store import Store


@versions.stored("examples.profile")
class Profile(msgspec.Struct, frozen=True):
    name: str
    town: str = ""
    hobby: str = ""


class Change(msgspec.Struct, frozen=True):
    profile: Profile
    branch: str = "main"


class Merge(msgspec.Struct, frozen=True):
    name: str
    branch: str
    prefer: dict[str, str] = {}  # for fields that both have changed: ours, theirs or base


class ProfileService(ServiceProcess):
    name = "profiles"
    depends = ("registry",)

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.registry = client(RegistryService, self)

    @operation
    async def create(self, profile: Profile) -> Resource:
        """Its first version, and a resource whose life begins. Raises Conflict if there is one of that name."""
        scope, new_id, now = self.context.scope, self.world.new_id(), self.world.now()

        def work(connection):  # a transaction: a plain function, which may be run again
            made = versions.create_repository(connection, scope, "profile", profile.name, id=new_id, at=now)
            versions.commit(connection, made, "main", profile, author=scope, at=now)

        await self.store.run(work)
        return await self.registry.register(Register(type="profile", name=profile.name))

    @operation
    async def change(self, change: Change) -> None:
        """One more version on a branch, which begins at main if it is new."""
        scope, now = self.context.scope, self.world.now()

        def work(connection):
            found = find(connection, scope, change.profile.name)
            if versions.head(connection, found, change.branch) is None:
                versions.set_branch(connection, found, change.branch, "main", by=scope, at=now)
            versions.commit(connection, found, change.branch, change.profile, author=scope, at=now)

        await self.store.run(work)

    @operation
    async def merge(self, merge: Merge) -> Profile:
        """A branch into main, field by field. Raises MergeConflicts, with paths, for what nobody decided."""
        scope, now = self.context.scope, self.world.now()

        def work(connection):
            found = find(connection, scope, merge.name)
            versions.merge_branch(
                connection, found, "main", merge.branch, author=scope, at=now, resolve_with=merge.prefer
            )
            return versions.checkout(connection, found).root

        return await self.store.run(work)


def find(connection, scope, name: str) -> versions.Repository:
    found = versions.find_repository(connection, scope, "profile", name)
    if found is None:
        raise NotFound(f"there is no profile of {name}", advice="Create it.")
    return found


@process_factory(needs=(Store,))
def profiles(resources: Resources) -> ProfileService:
    """What the app file names: the service with the program's store."""
    return ProfileService(resources.get(Store))
