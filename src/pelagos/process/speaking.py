"""What every process has of conversations: opening one, and the one being served. The rest is made at its first use.

Most processes never speak anything but ``rpc``, which needs none of this (see :mod:`pelagos.process.calling`): ten
thousand idle processes pay for one class attribute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pelagos.model.errors import Conflict

if TYPE_CHECKING:
    from pelagos.exchange import Address
    from pelagos.process.conversations.conversation import Conversation
    from pelagos.process.conversations.manager import Conversations
    from pelagos.process.conversations.protocol import Protocol

__all__ = ["Speaker"]


class Speaker:
    """The part of :class:`pelagos.process.Process` that takes part in conversations."""

    protocols: ClassVar[tuple[Protocol, ...]] = ()
    """Protocols it speaks beside the built-in ones; checked when the class is made."""
    max_conversations: ClassVar[int] = 10_000
    """Open at once, as initiator and participant together; more are refused as ``overloaded``."""

    _pelagos_conversations: Conversations | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if vars(cls).get("protocols"):
            from pelagos.process.conversations.registry import Protocols

            Protocols(cls.protocols)

    @property
    def conversations(self) -> Conversations:
        """All of this process, made at first use. Raises :class:`Conflict` before the process is hosted."""
        if self._pelagos_conversations is None:
            from pelagos.process.conversations.manager import Conversations
            from pelagos.process.process import Process

            assert isinstance(self, Process)
            self._pelagos_conversations = Conversations(self)
        return self._pelagos_conversations

    @property
    def conversation(self) -> Conversation:
        """The conversation that the running handler takes part in. Raises :class:`Conflict` outside of one."""
        from pelagos.process.conversations.conversation import CURRENT

        current = CURRENT.get()
        if current is None:
            raise Conflict(
                "this code serves no conversation",
                advice="Operations called by rpc have none: open one with converse().",
            )
        return current

    async def converse(
        self,
        protocol: Protocol | str,
        address: Address | str,
        op: str,
        content: object = None,
        *,
        timeout: float | None = None,
        buffer: int = 256,
        drop_oldest: bool = False,
    ) -> Conversation:
        """Open a conversation with a service or process by a message for its operation ``op``; returns it once sent.

        ``timeout`` is in seconds and bounds the whole conversation, as the remaining deadline of the code that calls
        does. If it is None, protocols whose states all have their own time-outs are not bounded otherwise, others get
        the container's default for calls. ``buffer`` messages may wait to be received; ``drop_oldest`` says that more
        of them push out the oldest (counted), instead of holding up the sender.

        Raises :class:`Unavailable` if nobody serves the address, its queue stays full or too many conversations are
        open, and :class:`NotFound` for an unknown protocol.
        """
        return await self.conversations.open(
            protocol, address, op, content, timeout=timeout, buffer=buffer, drop_oldest=drop_oldest
        )
