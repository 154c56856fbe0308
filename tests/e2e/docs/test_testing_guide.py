"""The guide to testing says the truth: its tests are run, and pass, as they stand on the page."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from support.brokers import skip_without_broker
from support.console_pages import (
    check,
    commands,
    environment_in,
    parts_with_and_without_broker,
    run_in_one_shell,
    write_files,
)

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "testing-services.md"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 100
NUMBERS = ((r"\b\d+\.\d+ m?s\b|\b\d+\.\d+s\b", "<time>"), (r"\(\d+ a second", "(<n> a second"))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PAGE.is_file(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the guide needs bash"),
]


def follow(page: str, place: Path, **environ: str) -> None:
    work = commands(page)
    assert work
    check(work, run_in_one_shell(work, environment_in(place, PELAGOS) | environ, place, SECONDS), PAGE.name, NUMBERS)


@pytest.mark.timeout(SECONDS + 30)
def test_in_memory(tmp_path: Path) -> None:
    page, _ = parts_with_and_without_broker(PAGE.read_text())
    write_files(page, tmp_path)
    follow(page, tmp_path)


@pytest.mark.amqp
@pytest.mark.timeout(SECONDS + 30)
def test_with_a_broker(tmp_path: Path) -> None:
    url = skip_without_broker()
    write_files(PAGE.read_text(), tmp_path)
    _, page = parts_with_and_without_broker(PAGE.read_text())
    follow(page, tmp_path, PELAGOS_TEST_AMQP=url)


def test_every_file_is_used_and_every_fixture_listed() -> None:
    text = PAGE.read_text()
    for name in re.findall(r":caption: (\S+)", text):
        assert name == "conftest.py" or f"pytest -q {name}" in text or f"-s {name}" in text or name == "shop.py"
    from pelagos.testing import plugin

    fixtures = set(plugin.__all__) - {"anyio_backend", "pytest_configure", "pytest_runtest_makereport"}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == fixtures
