"""Levels of single packages: from the settings, from the local file over them, and while the program runs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pelagos.model.errors import DescriptionError, InvalidInput
from pelagos.process import get_logger
from pelagos.runtime import Settings, configure_logs, load_settings
from pelagos.runtime.log_levels import LEVELS, LogLevels, package_of, set_log_level


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    LEVELS.configure(30, {})


def lines(out: io.StringIO) -> list[tuple[str, str]]:
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    out.seek(0)
    out.truncate()
    return [(line["logger"], line["level"]) for line in told]


def say() -> None:
    for name in ("pelagos.exchange.memory", "pelagos.process.serving", "hello"):
        for method in ("debug", "info", "warning"):
            getattr(get_logger(name), method)("said")
    structlog.get_logger("pelagos.exchange.amqp.transport").info("said")


def test_each_package_has_its_level_and_it_changes_while_it_runs(tmp_path: Path) -> None:
    out = io.StringIO()
    settings = Settings(
        home=tmp_path, log_format="json", log_level="warning", log_levels={"exchange": "info", "hello": "debug"}
    )
    configure_logs(settings, mode="container", stream=out)
    say()
    exchange = ("pelagos.exchange.memory", "info"), ("pelagos.exchange.memory", "warning")
    hello = tuple(("hello", level) for level in ("debug", "info", "warning"))
    amqp = ("pelagos.exchange.amqp.transport", "info")
    assert lines(out) == [*exchange, ("pelagos.process.serving", "warning"), *hello, amqp]
    set_log_level("exchange", "error")
    set_log_level("hello", "")
    say()
    assert lines(out) == [("pelagos.process.serving", "warning"), *hello]
    set_log_level("exchange.memory", "debug")
    set_log_level("", "error")
    set_log_level("hello", "critical")
    say()
    assert lines(out) == [("pelagos.exchange.memory", level) for level in ("debug", "info", "warning")]
    set_log_level("exchange", "")
    set_log_level("exchange.memory", "")
    set_log_level("", "")
    set_log_level("hello", "")
    say()
    assert lines(out) == [*exchange, ("pelagos.process.serving", "warning"), *hello, amqp]


def test_the_longest_name_counts_and_rooms_have_short_names() -> None:
    levels = LogLevels()
    levels.configure(30, {"pelagos": "error", "exchange.amqp": "debug", "exchanges": "info"})
    assert levels.threshold("pelagos.exchange.amqp.wire") == 10
    assert levels.threshold("pelagos.exchange.memory") == 40
    assert levels.threshold("exchanges.of.mine") == 20
    assert levels.threshold("else") == 30
    assert package_of("exchange") == "pelagos.exchange" and package_of("hello") == "hello" and package_of("") == ""
    with pytest.raises(InvalidInput, match="'loud' is no log level"):
        levels.set("exchange", "loud")


def test_the_local_file_goes_over_levels_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "pelagos.yaml").write_text(
        "system: demo\nlog_levels: {exchange: info, process: error}\nagent: {heartbeat: 1}\n"
        "interceptors: [trace, {deadline: {skew: 3}}]\n"
    )
    (tmp_path / "pelagos.local.yaml").write_text(
        "log_levels: {exchange: debug}\nsystem: mine\nagent: {dead_after: 5}\n"
    )
    settings = load_settings(tmp_path / "pelagos.yaml", tmp_path, {"PELAGOS_CALL_TIMEOUT": "3"})
    assert settings.log_levels == {"exchange": "debug", "process": "error"}
    assert (settings.system, settings.call_timeout) == ("mine", 3.0)
    assert (settings.agent.heartbeat, settings.agent.dead_after) == (1.0, 5.0)
    assert settings.interceptors == ("trace", {"deadline": {"skew": 3}})
    (tmp_path / "pelagos.local.yaml").write_text("log_levels: {exchange: loud}\n")
    with pytest.raises(DescriptionError) as raised:
        load_settings(tmp_path / "pelagos.yaml", tmp_path, {})
    assert str(raised.value.diagnostics[0].position).endswith("pelagos.local.yaml:1:1")
