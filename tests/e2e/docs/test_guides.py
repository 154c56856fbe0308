"""The guides of the capability container say the truth: their files and commands work as they stand on the page.

A page's captioned blocks are files in an empty directory, its console blocks the commands of one shell there; output is
compared by shape. What comes under a heading with "broker" in it needs one, and runs there under a system's name of its
own.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.brokers import skip_without_broker, throw_away_system
from support.console_pages import (
    SHAPES,
    check,
    commands,
    environment_in,
    parts_with_and_without_broker,
    run_in_one_shell,
    write_files,
)

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 200
BROKER = "amqp://guest:guest@localhost"
PAGES = (
    "clouds",
    "from-occopus",
    "exchange",
    "processes",
    "conversations",
    "apps",
    "releases",
    "repository",
    "services",
    "security",
    "observe",
    "heal-and-scale",
    "drift",
)
ON_A_BROKER = ("exchange", "releases")
DURABLE = ("orders",)
"""Durable services of the pages: their queues outlive them."""
NUMBERS = (
    (r"\b\d\d:\d\d:\d\d\.\d+", "<time>"),
    (r"\b(solo|one|two)\.\d+(-[0-9a-z]+)?", "<process>"),
    (r"\b\d+(\.\d+)? ms", "<ms>"),
    (r"(?<= )/\S*/(?=[a-z-]+\.yaml)", "<directory>/"),
    (r"\bc-[0-9a-f]{8}-[0-9a-f]{4}\b", "<container>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),
    *SHAPES,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not GUIDES.is_dir(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the guides need bash"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="pelagos-guide-") as name:
        yield Path(name)


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_as_it_stands(page: str, place: Path) -> None:
    alone, _ = parts_with_and_without_broker((GUIDES / f"{page}.md").read_text())
    write_files(alone, place)
    work = commands(alone)
    assert work
    check(work, run_in_one_shell(work, environment_in(place, PELAGOS), place, SECONDS), f"{page}.md", NUMBERS)


@pytest.mark.amqp
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("page", ON_A_BROKER)
def test_the_part_with_a_broker_works_as_it_stands(page: str, place: Path) -> None:
    url = skip_without_broker()

    async def run() -> None:
        async with throw_away_system(url, DURABLE) as system:
            alone, together = parts_with_and_without_broker((GUIDES / f"{page}.md").read_text())
            write_files(alone, place)
            write_files(re.sub(r"\bdemo\b", system, together).replace(BROKER, url), place)
            work = commands(re.sub(r"\bdemo\b", system, together).replace(BROKER, url))
            assert work
            said = run_in_one_shell(work, environment_in(place, PELAGOS), place, SECONDS)
            check(work, said, f"{page}.md", NUMBERS)

    asyncio.run(run())


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_is_a_file_that_the_page_runs(page: str) -> None:
    text = (GUIDES / f"{page}.md").read_text()
    assert "```python" not in text
    for name in re.findall(r"```\{code-block\} python\n:caption: (\S+)\n", text):
        module = name.removesuffix(".py")
        assert re.search(
            rf"^\$ .*\b{re.escape(name)}|\"{module}:|\b{module}:\w|import {module}|from {module}", text, re.M
        )
