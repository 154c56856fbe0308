"""Settings: where they are found, how they are merged, how mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pelagos.clouds import AccountConfig
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import DescriptionError, InvalidInput
from pelagos.runtime import HttpSettings, Settings, load_settings
from pelagos.services.notifications import CommandSink


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistakes(*args: Any, **options: Any) -> tuple[Diagnostic, ...]:
    with pytest.raises(DescriptionError) as caught:
        load_settings(*args, **options)
    return caught.value.diagnostics


def test_without_anything_there_are_defaults(tmp_path: Path) -> None:
    settings = load_settings(environ={"HOME": str(tmp_path)})
    assert settings == Settings(home=tmp_path / ".local/state/pelagos")
    assert settings.store_target == f"sqlite:///{tmp_path}/.local/state/pelagos/pelagos.db"
    assert settings.socket_path == tmp_path / ".local/state/pelagos/pelagos.sock"
    environ = {"HOME": "/nowhere", "XDG_STATE_HOME": str(tmp_path)}
    assert load_settings(environ=environ).home == tmp_path / "pelagos"


def test_the_order_of_layers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "log_level: info\nmaintain_interval: 1\nhttp: {drain: 1, heartbeat: 1}\n")
    write(tmp_path / "a.local.yaml", "maintain_interval: 2\nhttp: {heartbeat: 2, drain: 2}\n")
    environ = {"HOME": "/x", "PELAGOS_HTTP__HEARTBEAT": "3", "PELAGOS_HOME": str(tmp_path / "env")}
    settings = load_settings(file, environ=environ)
    assert settings.log_level == "info"
    assert settings.maintain_interval == 2
    assert (settings.http.drain, settings.http.heartbeat) == (2, 3)
    assert settings.home == tmp_path / "env"
    flags = {"http": {"heartbeat": 4, "listen": None}, "log_level": None}
    settings = load_settings(file, tmp_path / "flag", environ, flags)
    assert (settings.home, settings.http.heartbeat, settings.log_level) == (tmp_path / "flag", 4, "info")


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pelagos.yaml", "commands: allowed\n")  # of the directory that was entered: never taken
    own = {"HOME": str(tmp_path / "user")}
    assert load_settings(environ=own).commands == "off"
    write(tmp_path / "user/.config/pelagos/pelagos.yaml", "maintain_interval: 7\n")
    assert load_settings(environ=own).maintain_interval == 7
    write(tmp_path / "xdg/pelagos/pelagos.yaml", "maintain_interval: 8\n")
    xdg = {**own, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert load_settings(environ=xdg).maintain_interval == 8
    named = {**xdg, "PELAGOS_CONFIG": str(write(tmp_path / "named.yaml", "maintain_interval: 9\n"))}
    assert load_settings(environ=named).maintain_interval == 9
    assert load_settings(write(tmp_path / "flag.yaml", ""), environ=named).maintain_interval == 10
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_settings(tmp_path / "missing.yaml", environ=own)


def test_accounts_are_merged_by_name(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.yaml",
        "pool:\n- {name: one, driver: simulated, options: {a: 1, b: 1}}\n- {name: two, driver: local}\n",
    )
    write(tmp_path / "p.local.yaml", "pool:\n- {name: one, options: {b: 2}}\n- {name: three, driver: local}\n")
    assert load_settings(file, environ={"HOME": "/x"}).pool == (
        AccountConfig(name="one", driver="simulated", options={"a": 1, "b": 2}),
        AccountConfig(name="two", driver="local"),
        AccountConfig(name="three", driver="local"),
    )


def test_variables_take_the_settings_types() -> None:
    settings = load_settings(
        environ={
            "HOME": "/x",
            "PELAGOS_SIMULATED": "true",
            "PELAGOS_LOG_FILES": "7",
            "PELAGOS_STORE": "postgresql://u:p@h/d",
            "PELAGOS_HTTP__HOSTS": "[a.example, b.example]",
            "PELAGOS_POOL": "[{name: x, driver: local}]",
            "PELAGOS_LOG_LEVEL": "",
            "PELAGOS_URL": "http://x",
            "PELAGOS_TOKEN": "x",
            "PELAGOS_TEST_POSTGRESQL": "x",
        }
    )
    assert settings == Settings(
        home=Path("/x/.local/state/pelagos"),
        simulated=True,
        log_files=7,
        store="postgresql://u:p@h/d",
        http=HttpSettings(hosts=("a.example", "b.example")),
        pool=(AccountConfig(name="x", driver="local"),),
    )


def test_all_mistakes_are_told_with_their_places(tmp_path: Path) -> None:
    file = write(
        tmp_path / "m.yaml",
        "maintain_intervall: 5\n"
        "http:\n"
        "  listen: 5\n"
        "  body_bytes: 1\n"
        "  nonsense: 1\n"
        "pool:\n"
        "- name: a\n"
        "  drivr: local\n"
        "log_level: loud\n",
    )
    write(tmp_path / "m.local.yaml", "retention_days: -1\n")
    found = mistakes(file, environ={"HOME": "/x", "PELAGOS_LOG_LEVLE": "info", "PELAGOS_HTTP__DRAIN": "x"})
    told = {str(d.position) if d.position else d.summary.split(":")[0]: d for d in found}
    local = tmp_path / "m.local.yaml"
    assert set(told) == {
        f"{file}:1:1",
        f"{file}:3:3",
        f"{file}:4:3",
        f"{file}:5:3",
        f"{file}:8:3",
        f"{file}:7:3",
        f"{file}:9:1",
        f"{local}:1:1",
        "PELAGOS_LOG_LEVLE",
        "PELAGOS_HTTP__DRAIN",
    }
    assert told[f"{file}:1:1"].advice == "Did you mean 'maintain_interval'?"
    assert told[f"{file}:1:1"].source == "maintain_intervall: 5"
    assert told[f"{file}:8:3"].advice == "Did you mean 'driver'?"
    assert told["PELAGOS_LOG_LEVLE"].advice == "Did you mean PELAGOS_LOG_LEVEL?"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1\nb: 2\n", "2:2", "expected"),
        ("- a\n", "1:1", "not a mapping"),
        ("home: x\nhome: y\n", "2:1", "twice"),
        ("1: x\n", "1:1", "must be text"),
        ("home: !!python/object/apply:os.system [id]\n", "1:7", "means nothing"),
        ("home: &a [*a]\n", "1:7", "contains itself"),
        ("home: !env HOME\n", "1:7", "means nothing"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, place: str, words: str) -> None:
    file = write(tmp_path / "x.yaml", text)
    first = mistakes(file, environ={"HOME": "/x"})[0]
    assert str(first.position) == f"{file}:{place}"
    assert words in first.summary


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"home: \xff\n")
    assert "UTF-8" in mistakes(tmp_path / "x.yaml", environ={"HOME": "/x"})[0].summary


def test_flags_are_named_in_mistakes() -> None:
    [only] = mistakes(environ={"HOME": "/x"}, overrides={"http": {"body_bytes": 1}})
    assert only.summary.startswith("--http-body-bytes: ")


SINKS = """
sinks:
  - {name: ops, type: webhook, url: "https://ops.example/", secret: {env: KEY}}
  - name: hook
    type: webhook
    url: ftp://ops.example
    secret: none
  - name: mail
    type: email
    host: mail.example
    sendr: pelagos@example
    recipients: [ann@example]
    port: many
  - name: ops
    type: comand
  - {name: typeless}
  - name: ops
    type: command
    argv: [cat]
  - name: page
    type: command
    argv: [cat]
    events:
      - run_failed
      - a..b
"""


def test_a_mistake_of_a_sink_is_told_of_its_key(tmp_path: Path) -> None:
    file = write(tmp_path / "p.yaml", SINKS)
    found = mistakes(file, environ={})
    told = [(one.position.line if one.position else 0, one.summary) for one in found]
    assert told == [
        (6, "sinks.1.url: expected `str` matching regex '^https?://[^\\\\s]+$'"),
        (11, "there is no setting 'sinks.2.sendr'"),
        (13, "sinks.2.port: expected `int | null`, got `str`"),
        (8, "the key 'sender' is missing"),
        (15, "there is no type of sinks 'comand'"),
        (16, "sinks.4: the key 'type' is missing"),
        (17, "another sink is called 'ops'"),
        (25, "sinks.6.events: 'a..b' is not a pattern of events"),
    ]
    advice = {one.position.line: one.advice for one in found if one.position}
    assert advice[11] == "Did you mean 'sender'?" and advice[15] == "Did you mean 'command'?"
    assert all(one.position and one.position.file == str(file) for one in found)


def test_sinks_are_given_by_a_variable_and_by_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "p.yaml", "sinks:\n  - {name: page, type: command, argv: [cat], attempts: 3}\n")
    assert load_settings(file, environ={}).sinks == (CommandSink(name="page", argv=("cat",), attempts=3),)
    environ = {"PELAGOS_SINKS": "[{name: page, type: command, argv: [cat]}]"}
    assert load_settings(environ=environ).sinks == (CommandSink(name="page", argv=("cat",)),)
    (one,) = mistakes(environ={"PELAGOS_SINKS": "[{name: page, type: command, argv: []}]"})
    assert one.summary.startswith("PELAGOS_SINKS: sinks.0.argv: ")
    (one,) = mistakes(write(tmp_path / "q.yaml", "sinks: {name: page}\n"), environ={})
    assert one.summary == "sinks is not a list"
