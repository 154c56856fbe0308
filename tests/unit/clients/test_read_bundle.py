"""Files become a bundle under the names their user knows them by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelagos.clients import bundle as module
from pelagos.clients.bundle import read_bundle
from pelagos.model.errors import DescriptionError, InvalidInput


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work" / "nodes" / "init").mkdir(parents=True)
    work = tmp_path / "work"
    (work / "infra.yaml").write_text("infra_name: a\nnodes: []\n")
    (work / "nodes" / "defs.yaml").write_text(
        "# !text_import {url: 'file://commented-out'}\n"
        "a: !text_import\n  url: file://init/web.sh\n"
        'b: !yaml_import {url: "file://../more.yaml"}\n'
        "c: 'mentions !text_import {url: file://nothing}'\n"
    )
    (work / "nodes" / "init" / "web.sh").write_text("echo !text_import {url: 'file://web2.sh'}\n")
    (work / "more.yaml").write_text("x: !text_import { url: file://infra.yaml }\n")
    (tmp_path / "secret").write_text("s")
    monkeypatch.chdir(work)
    return work


def test_named_files_and_what_they_import(here: Path) -> None:
    sources, entries = read_bundle(["infra.yaml", Path("./nodes/defs.yaml")])
    assert entries == ["infra.yaml", "nodes/defs.yaml"]
    assert sorted(sources) == ["infra.yaml", "more.yaml", "nodes/defs.yaml", "nodes/init/web.sh"]


def test_absolute_names_stay_absolute(here: Path) -> None:
    sources, entries = read_bundle([str(here / "infra.yaml")])
    assert entries == [str(here / "infra.yaml")] == list(sources)


def test_names_above_the_working_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "nodes")
    sources, entries = read_bundle(["../infra.yaml", "defs.yaml"])
    assert entries == ["../infra.yaml", "defs.yaml"]
    assert sorted(sources) == ["../infra.yaml", "../more.yaml", "defs.yaml", "init/web.sh"]


def test_a_file_named_twice_is_one(here: Path) -> None:
    assert read_bundle(["infra.yaml", "./infra.yaml"])[1] == ["infra.yaml"]


@pytest.mark.parametrize(("name", "message"), [("no.yaml", "there is no file no.yaml"), ("nodes", "is a directory")])
def test_a_named_file_that_cannot_be_read(here: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_bundle([name])


def test_a_file_that_is_not_text(here: Path) -> None:
    (here / "bad.yaml").write_bytes(b"a: b\nc: \xff\n")
    with pytest.raises(InvalidInput, match=r"bad\.yaml:2: this is not UTF-8"):
        read_bundle(["bad.yaml"])


def test_a_file_that_is_too_large(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 10)
    with pytest.raises(InvalidInput, match=r"infra\.yaml is larger"):
        read_bundle(["infra.yaml"])


def test_missing_imports_are_named_at_their_places_all_at_once(here: Path) -> None:
    (here / "x.yaml").write_text(
        "a: !text_import {url: 'file://no.sh'}\nb:\n- !yaml_import\n  url: file://nodes/none\n"
    )
    with pytest.raises(DescriptionError) as caught:
        read_bundle(["x.yaml"])
    assert [str(item) for item in caught.value.diagnostics] == [
        "x.yaml:1:23: there is no file no.sh",
        "x.yaml:4:8: there is no file nodes/none",
    ]
    assert caught.value.diagnostics[0].source == "a: !text_import {url: 'file://no.sh'}"


def test_nothing_outside_of_the_common_directory_is_read(here: Path) -> None:
    (here / "link").symlink_to(here.parent / "secret")
    (here / "x.yaml").write_text("a: !text_import {url: 'file://../secret'}\nb: !text_import {url: 'file://link'}\n")
    with pytest.raises(DescriptionError) as caught:
        read_bundle(["x.yaml"])
    assert [item.position.line for item in caught.value.diagnostics if item.position] == [1, 2]
    assert all("leads out of" in item.summary for item in caught.value.diagnostics)


def test_what_the_compiler_refuses_is_left_to_it(here: Path) -> None:
    (here / "x.yaml").write_text(
        "a: !text_import {url: 'file:///etc/passwd'}\nb: !text_import {url: 'http://x/y'}\nc: [unclosed\n"
    )
    assert list(read_bundle(["x.yaml"])[0]) == ["x.yaml"]


def test_only_regular_files_are_read(here: Path) -> None:
    os.mkfifo(here / "pipe")
    with pytest.raises(InvalidInput, match="pipe is not a regular file"):
        read_bundle(["pipe"])
    with pytest.raises(InvalidInput, match="/dev/zero is not a regular file"):
        read_bundle(["/dev/zero"])
    (here / "importing.yaml").write_text("a: !text_import {url: file://pipe}\n")
    with pytest.raises(DescriptionError, match="pipe is not a regular file"):
        read_bundle(["importing.yaml"])
