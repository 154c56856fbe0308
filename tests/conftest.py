"""Fixtures that every test may use; and, for CI, the rule that no test of a service may be skipped."""

import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest

# A shell starts what it runs in the background with SIGINT ignored, which every program that a test starts would
# inherit; and then no Ctrl+C of a test is heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

ABSENT_SERVICE = (
    "no PostgreSQL server answers",
    "psycopg is not installed",
    "no RabbitMQ server answers",
    "aio-pika is not installed",
    "moto is not installed",
    "the Azure SDK is not installed",
    "no Docker engine answers",
    "the docker SDK is not installed",
    "PyYAML has no libyaml",
)
"""How the reason of a skip begins when the service, or the library, that the test needs is not there."""


@pytest.fixture(autouse=True)
def logs_stay_as_they_were() -> Iterator[None]:
    """Capturing logs leaves structlog configured, with lines on standard output for all tests after it."""
    before = sys.modules.get("structlog")
    configured = before is not None and before.is_configured()
    yield
    structlog = sys.modules.get("structlog")
    if structlog is not None and not configured and structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture
def anyio_backend() -> str:
    """Pelagos runs on asyncio alone."""
    return "asyncio"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``PELAGOS_REQUIRE_SERVICES=1`` an absent service fails its tests, so that CI cannot pass without them."""
    report = yield
    if os.environ.get("PELAGOS_REQUIRE_SERVICES") == "1" and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(ABSENT_SERVICE):
            report.outcome = "failed"
            report.longrepr = f"PELAGOS_REQUIRE_SERVICES is set, and this test found: {reason}"
    return report
