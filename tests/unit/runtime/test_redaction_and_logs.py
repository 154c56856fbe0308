"""No secret reaches a log."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pelagos.api import new_token
from pelagos.container import Container, ContainerConfig
from pelagos.model import Scope
from pelagos.model.errors import InvalidInput
from pelagos.model.redaction import redact, redact_text
from pelagos.process import Context, ServiceProcess, client, get_logger, operation, use_context
from pelagos.runtime import Settings, configure_logs
from pelagos.simulation import SimulatedWorld


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    before = list(logging.getLogger().handlers)
    yield tmp_path
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = before


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer [hidden]"),
        ("postgresql://user:pa$$w0rd@host/db", "postgresql://user:[hidden]@host/db"),
        ("password=hunter2, x=1", "password=[hidden], x=1"),
        ("token: 'a b'", "token: [hidden]"),
        ("nothing to hide", "nothing to hide"),
        ("http://host:80/path", "http://host:80/path"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_our_tokens_and_keys_anywhere() -> None:
    token = new_token()
    key = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"
    assert redact_text(f"x {token} y {key} z") == "x [hidden] y [hidden] z"


def test_values_by_name_however_deep() -> None:
    value = {"password": "x", "db_password": 1, "nested": [{"api_key": "y", "name": "n"}], "token": "", "keyboard": "k"}
    assert redact(value) == {
        "password": "[hidden]",
        "db_password": "[hidden]",
        "nested": [{"api_key": "[hidden]", "name": "n"}],
        "token": "",
        "keyboard": "k",
    }


def test_the_daemons_log_goes_to_both_places_without_secrets(home: Path) -> None:
    out = io.StringIO()
    settings = Settings(home=home, log_format="json")
    close = configure_logs(settings, mode="serve", stream=out)
    log = get_logger("here")
    try:
        raise ValueError("password=hunter2")
    except ValueError as error:
        log.error("failed", token="abc", where="postgresql://u:hunter2@h/d", exc_info=error)
    logging.getLogger("library").warning("secret: %s", "hunter2")
    log.debug("not shown")
    close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["failed", "secret: [hidden]"]
    assert lines[0]["logger"] == "here"
    assert "ValueError" in lines[0]["exception"]
    file = home / "logs" / "pelagos.log"
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["failed", "secret: [hidden]"]
    assert "hunter2" not in out.getvalue() + file.read_text()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_file_is_rotated_and_bounded(home: Path) -> None:
    settings = Settings(home=home, log_file_bytes=65_536, log_files=2)
    close = configure_logs(settings, mode="serve", stream=io.StringIO())
    log = get_logger("here")
    for _ in range(300):
        log.info("x" * 1000)
    close()
    files = sorted(p.name for p in (home / "logs").iterdir())
    assert files == ["pelagos.log", "pelagos.log.1"]
    assert all(p.stat().st_size <= 65_536 and p.stat().st_mode & 0o077 == 0 for p in (home / "logs").iterdir())


def test_levels(home: Path) -> None:
    for mode, flag, shown in (("embedded", None, 1), ("serve", None, 2), ("embedded", "debug", 3)):
        out = io.StringIO()
        close = configure_logs(Settings(home=home), mode=mode, stream=out, level=flag)
        log = get_logger("here")
        log.debug("d")
        log.info("i")
        log.warning("w")
        close()
        assert len(out.getvalue().splitlines()) == shown


def test_a_level_that_is_none_is_told(home: Path) -> None:
    with pytest.raises(InvalidInput, match="loud"):
        configure_logs(Settings(home=home), mode="embedded", level="loud")


class Talker(ServiceProcess):
    name = "talker"

    @operation
    async def talk(self) -> None:
        get_logger("test").info("hello", answer=42)


@pytest.mark.anyio
async def test_lines_carry_process_conversation_and_trace(home: Path) -> None:
    out = io.StringIO()
    configure_logs(Settings(home=home, log_format="json"), mode="embedded", stream=out, level="info")
    async with Container(SimulatedWorld(), ContainerConfig(id="c", system="test")) as container:
        await container.spawn(Talker)
        with use_context(Context(Scope("p", "u"), trace="t-9")):
            await client(Talker, container.edge).talk()
    [line] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (line["event"], line["answer"], line["logger"], line["level"]) == ("hello", 42, "test", "info")
    assert (line["process"], line["trace"]) == ("c.3", "t-9")
    assert re.fullmatch(r"c\.2-\w+#1", line["conversation"])
