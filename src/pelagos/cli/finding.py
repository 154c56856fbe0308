"""Names that are not found, with the ones that look alike."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pelagos.cli.texts import join
from pelagos.model.errors import NotFound

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["suggesting"]


@asynccontextmanager
async def suggesting(session: Session, reference: str) -> AsyncIterator[None]:
    """Within it, an infrastructure that is not found is told with close names, or with where to see them all."""
    try:
        yield
    except NotFound as error:
        known = await session.client.infrastructures.list()
        if any(reference in (one.name, one.id) for one in known):
            raise  # the infrastructure is there; something in it is not
        near = difflib.get_close_matches(reference, [one.name for one in known], n=3)
        if near:
            advice = f"Did you mean {join(near, 'or')}?"
        elif known:
            advice = "See pelagos list."
        else:
            advice = "There is none yet; build one with pelagos up FILE…"
        raise NotFound(error.message, advice=advice, details=error.details) from error
