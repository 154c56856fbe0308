"""User data becomes steps: the order, the encodings, the warnings."""

from __future__ import annotations

import base64

import pytest

from pelagos.clouds import CloudRejected
from pelagos.clouds.local.cloudconfig import parse_user_data


def test_nothing_is_nothing() -> None:
    assert parse_user_data("").steps == []
    assert parse_user_data("#cloud-config\n").steps == []


def test_a_script_is_one_step() -> None:
    (step,) = parse_user_data("#!/bin/sh\necho hello\n").steps
    assert step["kind"] == "script"
    assert base64.b64decode(step["content"]) == b"#!/bin/sh\necho hello\n"


def test_the_order_is_that_of_the_stages_and_not_of_the_document() -> None:
    data = parse_user_data(
        "#cloud-config\n"
        "runcmd: [a]\npackages: [p]\nwrite_files: [{path: /f}]\nusers: [u]\ngroups: [g]\nbootcmd: [b]\nhostname: h\n"
    )
    assert [step["kind"] for step in data.steps] == ["shell", "shell", "user", "write", "packages", "shell"]
    assert [data.steps[0]["label"], data.steps[-1]["label"]] == ["bootcmd", "runcmd"]
    assert (data.hostname, data.written, data.warnings) == ("h", ("/f",), [])


@pytest.mark.parametrize(
    ("written", "mode"), [("'0640'", 0o640), ("0640", 0o640), ("'755'", 0o755), ('"0o600"', 0o600)]
)
def test_permissions_are_octal_quoted_or_not(written: str, mode: int) -> None:
    (step,) = parse_user_data(f"#cloud-config\nwrite_files: [{{path: /f, permissions: {written}}}]\n").steps
    assert step["mode"] == mode


def test_the_owner_root_needs_no_change() -> None:
    text = "#cloud-config\nwrite_files: [{path: /f, owner: 'root:root'}, {path: /g, owner: 'app:app'}]\n"
    assert [step["owner"] for step in parse_user_data(text).steps] == ["", "app:app"]


def test_unknown_keys_are_warned_of_with_their_line() -> None:
    data = parse_user_data("#cloud-config\nruncmd: [a]\n\nmounts: []\n")
    assert data.warnings == ["line 4: cloud-config key 'mounts' is not known here: ignored"]


def test_words_of_a_list_are_quoted() -> None:
    (step,) = parse_user_data("#cloud-config\nruncmd:\n  - [echo, 'a b', $HOME, 7]\n").steps
    assert "echo '\"'\"'a b'\"'\"'" in step["text"]


@pytest.mark.parametrize(
    "text", ["#include\nhttp://x\n", "{}", "MIME-Version: 1.0\n", "#cloud-config\nwrite_files: {}\n"]
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(CloudRejected) as caught:
        parse_user_data(text)
    assert caught.value.advice
