"""What can go wrong here, as members of the closed family: each says whether asking again helps, and how."""

from __future__ import annotations

from typing import ClassVar

from pelagos.model.errors import Conflict, NotFound, PelagosError, Retry

__all__ = ["CorruptObject", "Diverged", "HeadMoved", "MergeConflicts", "MissingObjects"]


class CorruptObject(PelagosError):
    """Bytes that are not what their digest says."""

    code = "corrupt_object"
    status = 500
    default_advice: ClassVar[str] = "Restore the object from a backup, or pull it from another container that has it."


class MissingObjects(NotFound):
    """Objects that are linked to but not there; ``details['digests']`` names the first of them."""

    code = "missing_objects"


class HeadMoved(Conflict):
    """Compare-and-set failed: somebody else committed first. Nothing was written; ``details`` has both heads."""

    code = "head_moved"
    default_advice = "Check the branch out again, merge your change, and commit anew."


class Diverged(Conflict):
    """Two heads, neither of which is an ancestor of the other."""

    code = "diverged"
    default_advice = "Pull the other side, merge it, and push the merge."


class MergeConflicts(Conflict):
    """Both sides changed the same; ``details['conflicts']`` lists what and where. Nothing was written."""

    code = "merge_conflicts"
    retry = Retry.NEVER
    default_advice = "Say for each path which side counts: ours, theirs, base, or another value."
