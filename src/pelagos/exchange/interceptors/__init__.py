"""What stands between processes and a transport. See README.md."""

from pelagos.exchange.interceptors.assertions import Assertion, AssertionVerifier, issue_assertion, read_assertion
from pelagos.exchange.interceptors.building import DEFAULT_STACK, Stack, StackEntry, Surroundings, build_stack
from pelagos.exchange.interceptors.deadline import Deadline, DeadlineOptions
from pelagos.exchange.interceptors.identity import Identity, IdentityOptions
from pelagos.exchange.interceptors.keyring import (
    KeyRing,
    create_identity,
    ensure_keyring,
    load_keyring,
    revoke,
    trust,
)
from pelagos.exchange.interceptors.policy import OwnerLookup, PolicyInterceptor, PolicyOptions
from pelagos.exchange.interceptors.policy_file import load_policy, parse_policy
from pelagos.exchange.interceptors.port import (
    Done,
    Drop,
    Interceptor,
    Undecided,
    unchanged_inbound,
    unchanged_outbound,
)
from pelagos.exchange.interceptors.service_names import ServiceNames
from pelagos.exchange.interceptors.sessions import Sessions
from pelagos.exchange.interceptors.signature import Mode, Signature, SignatureOptions
from pelagos.exchange.interceptors.statistics import OperationStatistics, Statistics, StatisticsOptions
from pelagos.exchange.interceptors.tracing import Hop, Trace, TraceOptions
from pelagos.exchange.interceptors.transport import InterceptedTransport

__all__ = [
    "DEFAULT_STACK",
    "Assertion",
    "AssertionVerifier",
    "Deadline",
    "DeadlineOptions",
    "Done",
    "Drop",
    "Hop",
    "Identity",
    "IdentityOptions",
    "InterceptedTransport",
    "Interceptor",
    "KeyRing",
    "Mode",
    "OperationStatistics",
    "OwnerLookup",
    "PolicyInterceptor",
    "PolicyOptions",
    "ServiceNames",
    "Sessions",
    "Signature",
    "SignatureOptions",
    "Stack",
    "StackEntry",
    "Statistics",
    "StatisticsOptions",
    "Surroundings",
    "Trace",
    "TraceOptions",
    "Undecided",
    "build_stack",
    "create_identity",
    "ensure_keyring",
    "issue_assertion",
    "load_keyring",
    "load_policy",
    "parse_policy",
    "read_assertion",
    "revoke",
    "trust",
    "unchanged_inbound",
    "unchanged_outbound",
]
