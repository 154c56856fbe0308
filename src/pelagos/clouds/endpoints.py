"""URLs of providers' APIs, as accounts name them."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["endpoint_problem", "is_loopback"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def endpoint_problem(url: str) -> str | None:
    """What is wrong with the URL of an API to which secrets are sent; None: nothing.

    It begins with ``https://``; plain HTTP is for this machine alone."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
    if not named:
        return "`endpoint` is no URL"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url)):
        return None
    return "`endpoint` is a URL that begins with https://"


def is_loopback(url: str) -> bool:
    """Whether it is an address of this machine, where nobody listens in. Raises ValueError for no URL."""
    return urlsplit(url).hostname in _LOOPBACK
