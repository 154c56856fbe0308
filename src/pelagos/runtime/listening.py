"""Where the HTTP edge of this program is to listen, and where it does."""

from __future__ import annotations

__all__ = ["Listening"]


class Listening:
    """One a program: the edge writes down its addresses, the program tells them when it is ready."""

    def __init__(self, listen: str = "") -> None:
        self.listen = listen
        """``address:port``, before that of the app and of the settings; empty: theirs."""
        self.addresses: tuple[str, ...] = ()
        """``unix:///…``, ``http://…``; empty while no edge runs here."""
