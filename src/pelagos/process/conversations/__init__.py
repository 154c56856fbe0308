"""Conversations: protocols as tables, run by a pure machine on both sides. See ../README.md."""

from pelagos.process.conversations.builtin import BUILT_IN, GENERIC, REQUEST, RPC, SUBSCRIBE
from pelagos.process.conversations.conversation import Conversation
from pelagos.process.conversations.diagram import mermaid
from pelagos.process.conversations.handling import decides, subscription
from pelagos.process.conversations.machine import Event, Said, TimedOut, Violation, step
from pelagos.process.conversations.manager import Conversations, ConversationsSnapshot
from pelagos.process.conversations.message import ConversationError, Line, Message
from pelagos.process.conversations.monitor import Breach, Monitor, MonitorSnapshot
from pelagos.process.conversations.protocol import After, Lease, Outcome, Protocol, Says
from pelagos.process.conversations.registry import Protocols

__all__ = [
    "BUILT_IN",
    "GENERIC",
    "REQUEST",
    "RPC",
    "SUBSCRIBE",
    "After",
    "Breach",
    "Conversation",
    "ConversationError",
    "Conversations",
    "ConversationsSnapshot",
    "Event",
    "Lease",
    "Line",
    "Message",
    "Monitor",
    "MonitorSnapshot",
    "Outcome",
    "Protocol",
    "Protocols",
    "Said",
    "Says",
    "TimedOut",
    "Violation",
    "decides",
    "mermaid",
    "step",
    "subscription",
]
