"""What is told of an answer that is a web page: a proxy's, a load balancer's, or of something that is no cloud."""

from __future__ import annotations

import html
import re

__all__ = ["without_page"]

_PAGE = re.compile(r"<\s*(!doctype|html|head|body|title|h1)\b", re.IGNORECASE)
_HEADING = re.compile(r"<(title|h1)\b[^>]*>(.*?)(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_MARK_UP = re.compile(r"<[^>]*>")
_LONGEST = 80


def without_page(text: str) -> str:
    """The text; of a web page, or the beginning of one, its title alone."""
    if _PAGE.search(text) is None:
        return text
    heading = _HEADING.search(text)
    title = "" if heading is None else " ".join(html.unescape(_MARK_UP.sub(" ", heading.group(2))).split())
    title = title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…"
    return f"a web page answers: {title}" if title else "a web page answers"
