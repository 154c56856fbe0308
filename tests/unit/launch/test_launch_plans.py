"""Launch plans as files: what they may say, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pelagos.launch import RecordFile, read_plan
from pelagos.launch.plan import (
    ContainerPart,
    InfrastructurePart,
    LaunchPlan,
    Level,
    Part,
    ProgramPart,
    Ready,
)
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
        ("program: {boot", "programm: {boot", 6, "programm"),
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


@pytest.mark.parametrize(
    ("old", "new", "place", "says", "advice"),
    [
        ("ready: {command: [./db.sh, ping, \"{{ db.port }}\"]}", "ready: {timeout: 9}", "7:17",
         "'ready' knows no key 'timeout'", "'timeout' is a key of a part. Its keys are command, url and interval."),
        ("program: {boot", "programm: {boot", "6:9", "a part knows no key 'programm'",
         "Did you mean 'program'? Its keys"),
        ("stop: [./db.sh, stop]", "stopp: [./db.sh, stop]", "6:54", "'program' knows no key 'stopp'",
         "Did you mean 'stop'? Its keys are boot, run, stop and stop_timeout."),
        ("levels:", "lvls:", "2:1", "the plan knows no key 'lvls'",
         "Did you mean 'levels'? Its keys are launch and levels."),
        ("levels:", "lvls:", "1:1", "the plan lacks 'levels'", "Its keys are"),
        ("launch: site", "launch: Site!", "1:1", "'launch' must be a name, not the text 'Site!'", "small letters"),
        ("      - name: db", "      - name: 3", "5:9", "'name' must be text, not 3", ""),
        ("run: [./db.sh], ", "run: ./db.sh, ", "6:38", "'run' must be a list, not the text './db.sh'", ""),
        ("run: [./db.sh], ", "run: [5433], ", "6:38", "'run' holds a whole number where text must be", ""),
        ("outputs: {", "timeout: 0\n        outputs: {", "8:9", "'timeout' must be more than 0, not 0", ""),
        ("files: [i.yaml, n.yaml]", "files: []", "11:26", "'files' is empty", ""),
        ("container: {files: [w.yaml], arguments: {w.db: \"{{ db.url }}\"}}", "container: x", "13:9",
         "'container' must be a mapping, not the text 'x'", "Its keys are files"),
    ],
)  # fmt: skip
def test_mistakes_say_in_words_what_may_be_there(
    tmp_path: Path, old: str, new: str, place: str, says: str, advice: str
) -> None:
    assert GOOD.count(old) == 1, old
    with pytest.raises(DescriptionError) as raised:
        read_plan(write(tmp_path, GOOD.replace(old, new)))
    told = [(f"{one.position.line}:{one.position.column}", one.summary) for one in raised.value.diagnostics]
    assert (place, says) in told, told
    assert advice in raised.value.diagnostics[told.index((place, says))].advice


def test_all_mistakes_of_the_form_are_told_together(tmp_path: Path) -> None:
    text = GOOD.replace("stop: [./db.sh, stop]", "stopp: [x]").replace("container:", "contain:")
    told = mistakes(tmp_path, text.replace("launch: site", "launch: [site]"))
    assert [one.partition(":")[0] for one in told] == ["1", "6", "13"], told


@pytest.mark.parametrize(
    "text", ["launch: a\nlevels: []\n", "launch: a\nlevels: [{parts: }]\n", "launch: a\nlevels: x\n"]
)
def test_levels_and_parts_are_lists_with_something_in_them(tmp_path: Path, text: str) -> None:
    (told,) = mistakes(tmp_path, text)
    assert told.startswith("2: ") and "Each of its items is a" in told


def test_the_guide_has_all_keys_of_plans() -> None:
    """A row a key, with its default."""
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "launch.md").read_text()
    structs = (LaunchPlan, Level, Part, InfrastructurePart, ProgramPart, ContainerPart, Ready)
    for struct, of in zip(
        structs, ("", "level", "part", "infrastructure", "program", "container", "ready"), strict=True
    ):
        for field in msgspec.structs.fields(struct):
            row = next((line for line in guide.splitlines() if line.startswith(f"| {of} | `{field.name}` |")), None)
            assert row is not None, (of, field.name)
            assert ("required" in row) == field.required, row
            if isinstance(field.default, float):
                assert f"({field.default:g} s)" in row, row


def test_two_mistakes_are_told_together(tmp_path: Path) -> None:
    told = mistakes(tmp_path, GOOD.replace("{{ db.url }}", "{{ dbb.url }}"))
    assert len(told) == 2 and all("db" in one.partition("|")[2] for one in told)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "[]\n", "launch: ]\n", "a" * 5_000_000])
def test_mistakes_of_the_whole_file_name_it(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DescriptionError) as raised:
        read_plan(path)
    for one in raised.value.diagnostics:
        assert one.position is not None
        assert (one.position.file, one.position.line) == (str(path), 1)
        assert "configuration" not in str(one)


def test_an_empty_plan_lacks_all(tmp_path: Path) -> None:
    told = mistakes(tmp_path, "")
    assert told == [f"1: the plan lacks {key!r} | Its keys are launch and levels." for key in ("launch", "levels")]


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
