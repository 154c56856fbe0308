"""How to reach a broker: URLs, credential files, certificates, and that no credential shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pelagos.exchange.amqp import AmqpConfig
from pelagos.model.errors import InvalidInput, Unsupported


def config(url: str = "amqp://ann:s3cret@broker.example/site", **settings: object) -> AmqpConfig:
    return AmqpConfig(url, "demo", "c-1", **settings)  # type: ignore[arg-type]


def test_credentials_do_not_show() -> None:
    made = config()
    assert "s3cret" not in f"{made!r} {made} {made.place}"
    assert made.place == "amqp://broker.example:5672/site"
    assert made.connection_url().startswith("amqp://ann:s3cret@broker.example:5672/site?")


@pytest.mark.parametrize(
    "url",
    [
        "amqp://ann:s3c/ret@h",
        "amqp://ann:12/s3c@h",
        "amqp://ann:s3c#ret@h/site",
        "amqp://ann:1?s3c@h",
        "amqp://h:s3c/",
        "amqp://h:99999/s3c",
        "amqp://[s3c",
    ],
)
def test_a_password_that_cuts_the_url_is_told_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"port that is no number") as raised:
        config(url)
    assert "s3c" not in f"{raised.value} {raised.value.advice} {raised.value.details}"


@pytest.mark.parametrize(
    ("url", "vhost", "expected"),
    [
        ("amqp://h", None, "/"),
        ("amqp://h/", None, "/"),
        ("amqp://h/%2F", None, "/"),
        ("amqp://h/site", None, "site"),
        ("amqp://guest:guest@h/a@b", None, "a@b"),
        ("amqp://h/site", "a/b c", "a/b c"),
    ],
)
def test_the_virtual_host(url: str, vhost: str | None, expected: str) -> None:
    made = config(url, vhost=vhost)
    assert made.virtual_host == expected
    assert "//guest:guest@h:5672/" in made.connection_url()


def test_a_credential_file_overrides_the_url(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("bob\tp@ss/word\n")
    made = config(credential_file=str(file))
    assert made.connection_url().startswith("amqp://bob:p%40ss%2Fword@broker.example:5672/")


@pytest.mark.parametrize("content", ["", "one", "one two three", None])
def test_a_credential_file_that_is_none(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "credentials"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidInput) as raised:
        config(credential_file=str(file)).connection_url()
    assert "three" not in str(raised.value)


def test_tls_is_configured_by_files(tmp_path: Path) -> None:
    assert config().tls() is None
    context = config("amqps://h").tls()
    assert context is not None
    assert context.check_hostname
    unchecked = config("amqps://h", verify=False).tls()
    assert unchecked is not None
    assert not unchecked.check_hostname
    assert config("amqps://h").place == "amqps://h:5671/%2F"
    (tmp_path / "ca.pem").write_text("nonsense")
    for settings in ({"ca_file": str(tmp_path / "ca.pem")}, {"certificate_file": str(tmp_path / "absent.pem")}):
        with pytest.raises(InvalidInput, match="certificates"):
            config("amqps://h", **settings).tls()


@pytest.mark.parametrize("url", ["", "http://h", "amqp://", "broker:5672"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidInput):
        config(url)


@pytest.mark.parametrize("name", ["", "a b", "a*", "#", "x" * 65])
def test_names_that_cannot_be_on_a_broker(name: str) -> None:
    with pytest.raises(InvalidInput):
        AmqpConfig("amqp://h", name, "c-1")
    with pytest.raises(InvalidInput):
        AmqpConfig("amqp://h", "demo", name)


def test_without_the_library_there_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pelagos.exchange.amqp.")]:
        if not name.endswith(".config"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("aiormq", "pamqp", "pamqp.commands"):
        monkeypatch.setitem(sys.modules, name, None)
    import pelagos.exchange.amqp as room

    with pytest.raises(Unsupported) as raised:
        room.AmqpTransport  # noqa: B018 - asking for it is what imports it
    assert "pelagos[amqp]" in raised.value.advice
