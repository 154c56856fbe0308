"""Launch plans as files: what they may say, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.launch import RecordFile, read_plan
from pelagos.launch.record import PartRecord, PartState
from pelagos.launch.texts import render
from pelagos.model.errors import DescriptionError, InvalidInput, LeaseHeld, StoreUnavailable

GOOD = """launch: site
levels:
  - name: base
    parts:
      - name: db
        program: {boot: [./make.sh], run: [./db.sh], stop: [./db.sh, stop]}
        ready: {command: [./db.sh, ping, "{{ db.port }}"]}
        outputs: {url: "db://here:{{ db.port }}"}
  - parts:
      - name: shop
        infrastructure: {files: [i.yaml, n.yaml], variables: {db: "{{ db.url }}"}}
      - name: workers
        container: {files: [w.yaml], arguments: {w.db: "{{ db.url }}"}}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return path


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(DescriptionError) as raised:
        read_plan(write(tmp_path, text))
    return [
        f"{one.position.line if one.position else 0}: {one.summary} | {one.advice}" for one in raised.value.diagnostics
    ]


def test_a_plan_is_read(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD))
    assert [(part.name, part.kind) for part in plan.parts()] == [
        ("db", "program"),
        ("shop", "infrastructure"),
        ("workers", "container"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("launch: site", "launch: Site!", 1, "launch"),
        ("levels:", "level:", 1, "level"),
        ("program: {boot", "programm: {boot", 5, "programm"),
        ("      - name: workers", "      - name: shop", 12, "two parts are called 'shop'"),
        ("{{ db.url }}\"}}\n      - name: w", "{{ dbs.url }}\"}}\n      - name: w", 11, "no part 'dbs'"),
        ("{{ db.url }}\"}}\n      - name: w", "{{ shop.id }}\"}}\n      - name: w", 11, "no part 'shop'"),
        ("{{ db.url }}\"}}\n      - name: w", "{{ db.url \"}}\n      - name: w", 11, "not a template"),
        ("[./db.sh, ping, \"{{ db.port }}\"]", "[./db.sh, \"{{ shop.id }}\"]", 7, "no part 'shop'"),
        ("boot: [./make.sh], run: [./db.sh], stop: [./db.sh, stop]", "stop: [x]", 6, "nothing to"),
        ("        container: {", "        program: {run: [x]}\n        container: {", 12, "program and container"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert GOOD.count(old) == 1, old
    told = mistakes(tmp_path, GOOD.replace(old, new))
    assert any(one.startswith(f"{line}: ") and says in one for one in told), told


def test_two_mistakes_are_told_together(tmp_path: Path) -> None:
    told = mistakes(tmp_path, GOOD.replace("{{ db.url }}", "{{ dbb.url }}"))
    assert len(told) == 2 and all("db" in one.partition("|")[2] for one in told)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_plan(tmp_path / "none.yaml")


def test_templates_are_strict_and_sandboxed() -> None:
    outputs = {"db": {"url": "x"}}
    assert render({"a": ["{{ db.url }}", 3]}, outputs, "w") == {"a": ["x", 3]}
    for text in ("{{ db.port }}", "{{ other }}", "{{ ''.__class__.__mro__ }}", "{{ db.url.foo() }}"):
        with pytest.raises(InvalidInput, match="w:"):
            render(text, outputs, "w")


def test_the_record_is_kept_whole_and_held_by_one(tmp_path: Path) -> None:
    part = PartRecord(name="db", level=1, kind="program", state=PartState.BOOTING, token="t")
    with RecordFile(tmp_path, "site") as record:
        record.put(part, "/plan.yaml")
        with pytest.raises(LeaseHeld, match="somebody else works"), RecordFile(tmp_path, "site"):
            pass
    with RecordFile(tmp_path, "site") as record:
        assert record.parts == [part]
        assert record.path.stat().st_mode & 0o777 == 0o600
        record.remove("db")
        assert not record.path.exists()
    record.path.write_text("{")
    with pytest.raises(StoreUnavailable, match="cannot be read"), RecordFile(tmp_path, "site"):
        pass
