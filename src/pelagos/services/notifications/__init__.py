"""Notifications: sinks (webhook, e-mail, command) that are told of what happens.

The settings of every program import this; the service itself, which only a daemon runs, is in ``service``.
"""

from pelagos.services.notifications.messages import Notification, SetRoutes, SinkInfo, SinkRef, TestResult
from pelagos.services.notifications.settings import CommandSink, EmailSink, SinkSettings, WebhookSink
from pelagos.services.notifications.signing import SIGNATURE, sign, verify_webhook

__all__ = [
    "SIGNATURE",
    "CommandSink",
    "EmailSink",
    "Notification",
    "SetRoutes",
    "SinkInfo",
    "SinkRef",
    "SinkSettings",
    "TestResult",
    "WebhookSink",
    "sign",
    "verify_webhook",
]
