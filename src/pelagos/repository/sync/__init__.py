"""Pull and push between containers: a service, and the two functions that talk with it."""

from pelagos.repository.sync.client import Pulled, Pushed, pull, push
from pelagos.repository.sync.service import RepositoryService

__all__ = ["Pulled", "Pushed", "RepositoryService", "pull", "push"]
