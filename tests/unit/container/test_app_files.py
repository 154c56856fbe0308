"""App and release files: each mistake with its line and what to do; order, versions, overrides, arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pelagos.container.apps import StartPlan, find_apps, parse_arguments, resolve
from pelagos.container.apps.files import default_name
from pelagos.model.diagnostics import Diagnostic, render
from pelagos.model.errors import DescriptionError, InvalidInput
from pelagos.process import Restart, RestartStrategy


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True, parents=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def app(name: str, *, version: str = "1.0", depends: str = "[]", more: str = "") -> str:
    kind = f"{name}:{name.title()}Service"
    return f'name: {name}\nversion: "{version}"\ndepends: {depends}\nprocesses:\n  - "{kind}"\n{more}'


def plan(directory: Path, *files: str, arguments: tuple[str, ...] = (), search: tuple[Path, ...] = ()) -> StartPlan:
    catalogue = find_apps([directory / f"{name}.yaml" for name in files], search)
    return resolve(catalogue, parse_arguments(arguments))


def mistakes(directory: Path, *files: str, **options: Any) -> list[Diagnostic]:
    with pytest.raises(DescriptionError) as raised:
        plan(directory, *files, **options)
    return list(raised.value.diagnostics)


def place(diagnostic: Diagnostic) -> tuple[str, int, int]:
    at = diagnostic.position
    assert at is not None
    return Path(at.file).name, at.line, at.column


def test_a_whole_app(tmp_path: Path) -> None:
    write(
        tmp_path,
        hello="""
name: hello
version: "1.2"
description: Says hello
processes:
  - name: hello
    class: hello:HelloService
    count: 3
    restart: transient
    shutdown: 2.5
    arguments: {greeting: Ahoy}
  - hello:Rot13Process
supervision: {strategy: one_for_all, max_restarts: 7, period: 60}
config: {level: {deep: 1}}
arguments: {place: pub}
""",
    )
    (made,) = plan(tmp_path, "hello").apps
    assert (made.name, made.version, made.description) == ("hello", "1.2", "Says hello")
    assert (made.strategy, made.max_restarts, made.period) == (RestartStrategy.ONE_FOR_ALL, 7, 60.0)
    assert made.config == {"level": {"deep": 1}} and made.trusted
    first, second = made.processes
    assert (first.name, first.kind, first.count) == ("hello", "hello:HelloService", 3)
    assert (first.restart, first.shutdown) == (Restart.TRANSIENT, 2.5)
    assert {key: value.value for key, value in first.arguments.items()} == {"greeting": "Ahoy", "place": "pub"}
    assert (second.name, second.count, second.restart) == ("rot13", 1, Restart.PERMANENT)


@pytest.mark.parametrize(
    ("text", "line", "column", "summary", "advice"),
    [
        ("name: a\nproceses: []\n", 2, 1, "no key 'proceses'", "Did you mean 'processes'?"),
        ("name: a\nname: b\n", 2, 1, "'name' is there twice", "Delete one"),
        ("version: '1'\nprocesses: []\n", 1, 1, "the file has no key 'name'", "Add it"),
        ("name: a\nversion: 1.10\n", 2, 1, "expected `str`, got `float`", "in quotes"),
        ("name: a\nversion: one\n", 2, 1, "'one' is not a version", "1.2"),
        ("name: a b\n", 1, 1, "contains ' '", ""),
        ("name: a\nprocesses: {}\n", 2, 1, "expected `array`", ""),
        ("name: a\nprocesses:\n  - {class: hello.Hello}\n", 3, 6, "is not a class; write module:Class", ""),
        ("name: a\nprocesses:\n  - {class: 'h:H', count: many}\n", 3, 20, "processes.0.count: expected `int`", ""),
        ("name: a\nprocesses:\n  - {class: 'h:H', count: -1}\n", 3, 20, ">= 0", ""),
        ("name: a\nprocesses:\n  - {class: 'h:H', cuont: 1}\n", 3, 20, "no key 'processes.0.cuont'", "'count'"),
        ("name: a\nprocesses:\n  - {class: 'h:H', restart: often}\n", 3, 20, "invalid enum value", ""),
        ("name: a\nprocesses:\n  - h:H\n  - h:H\n", 4, 5, "'h' is there twice, first at", "`count`"),
        ("name: a\ndepends: ['store >> 1']\n", 2, 11, "is not the name of an app with a range", "store>=1.2,<2"),
        ("name: a\nsupervision: {strategy: none}\n", 2, 15, "supervision.strategy: invalid enum", ""),
        ("name: a\nsupervision: {period: 0}\n", 2, 15, "> 0", ""),
        ("name: a\nconfig: !!python/object:os.system {}\n", 2, 9, "means nothing here", "plain values"),
        ("name: a\n  processes: [\n", 2, 12, "mapping values are not allowed here", ""),
        ("just text\n", 1, 1, "not a mapping", ""),
        ("release: r\napps:\n  - {app: x, version: '>>1'}\n", 3, 14, "no range of versions", ">=1.2,<2"),
        ("release: r\napps:\n  - {app: x, process: {}}\n", 3, 14, "no key 'apps.0.process'", "'processes'"),
        ("release: r\n", 1, 1, "has no key 'apps'", ""),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, text: str, line: int, column: int, summary: str, advice: str
) -> None:
    write(tmp_path, wrong=text)
    found = mistakes(tmp_path, "wrong")
    first = found[0]
    assert summary in first.summary
    assert advice in first.advice
    assert place(first) == ("wrong.yaml", line, column)
    if first.position is not None and first.source:
        assert first.source == text.splitlines()[line - 1]
        assert "^" in render(first)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, a="name: a\nversoin: '1'\ncounfig: {}\n", b="name: b\nprocesses: 7\n")
    found = mistakes(tmp_path, "a", "b")
    assert [place(each)[:2] for each in found] == [("a.yaml", 2), ("a.yaml", 3), ("b.yaml", 2)]


def test_dependencies_start_first_and_are_found(tmp_path: Path) -> None:
    write(tmp_path, web=app("web", depends="[mail, 'store>=1,<2']"), store=app("store"))
    write(tmp_path / "apps", mail=app("mail", depends="[clock]"))
    other = write(tmp_path / "elsewhere", clock=app("clock"))
    made = plan(tmp_path, "web", search=(other,))
    assert [each.name for each in made.apps] == ["clock", "mail", "store", "web"]
    assert made.apps[-1].depends == ("mail", "store")
    write(tmp_path, all="release: all\napps: [store, web]\n")
    assert [each.name for each in plan(tmp_path, "all", search=(other,)).apps] == ["store", "clock", "mail", "web"]


def test_a_circle_is_named_with_its_lines(tmp_path: Path) -> None:
    write(tmp_path, a=app("a", depends="[b]"), b=app("b", depends="[c]"), c=app("c", depends="[a]"))
    (found,) = mistakes(tmp_path, "a")
    assert found.summary == "apps depend on one another in a circle: a -> b -> c -> a"
    assert place(found) == ("c.yaml", 3, 11)
    for name in ("a", "b", "c"):
        assert f"{tmp_path / name}.yaml:3:11" in found.advice
    write(tmp_path, own=app("own", depends="[own]"))
    (found,) = mistakes(tmp_path, "own")
    assert found.summary.endswith("own -> own")


def test_two_circles_are_two_mistakes(tmp_path: Path) -> None:
    write(tmp_path, a=app("a", depends="[b, c]"), b=app("b", depends="[a]"), c=app("c", depends="[a]"))
    assert {each.summary.rpartition(": ")[2] for each in mistakes(tmp_path, "a")} == {"a -> b -> a", "a -> c -> a"}


def test_a_missing_app_is_named_with_what_is_near(tmp_path: Path) -> None:
    write(tmp_path, web=app("web", depends="[stroe]"), store=app("store"))
    (found,) = mistakes(tmp_path, "web")
    assert found.summary == "web depends on the app 'stroe', which is not found"
    assert found.advice == "Did you mean 'store'?"
    assert place(found) == ("web.yaml", 3, 11)
    write(tmp_path, site="release: site\napps:\n  - store\n  - nothing-like-it\n")
    (found,) = mistakes(tmp_path, "site")
    assert "release 'site' has the app 'nothing-like-it'" in found.summary
    assert place(found) == ("site.yaml", 4, 5)


def test_versions_that_do_not_fit_name_both(tmp_path: Path) -> None:
    write(tmp_path, web=app("web", depends="['store>=2']"), store=app("store", version="1.4"))
    (found,) = mistakes(tmp_path, "web")
    assert "web needs store>=2" in found.summary and f"{tmp_path / 'store.yaml'} is store 1.4" in found.summary
    assert place(found) == ("web.yaml", 3, 11)
    write(tmp_path, site="release: site\napps:\n  - {app: store, version: '<1'}\n")
    (found,) = mistakes(tmp_path, "site")
    assert "site needs store<1" in found.summary and place(found) == ("site.yaml", 3, 18)


def test_a_release_overrides_and_runs_one_app_twice(tmp_path: Path) -> None:
    text = """
release: site
version: "3"
apps:
  - store
  - app: store
    name: store-2
    counts: {store: 4}
    processes:
      store: {arguments: {size: 2}, restart: temporary}
    arguments: {color: red, size: 1}
    config: {a: {y: 3}}
  - app: sub/far.yaml
"""
    write(tmp_path, site=text, store=app("store", more="config: {a: {x: 1, y: 2}}\narguments: {color: blue}\n"))
    write(tmp_path / "sub", far=app("far", depends="[store]"))
    made = plan(tmp_path, "site", arguments=("store-2.store.size=9", "store.color=[1, 2]"))
    assert (made.release, made.version) == ("site", "3")
    assert [each.name for each in made.apps] == ["store", "store-2", "far"]
    first, second, far = made.apps
    assert far.depends == ("store", "store-2")
    assert first.config == {"a": {"x": 1, "y": 2}} and second.config == {"a": {"x": 1, "y": 3}}
    assert (first.processes[0].count, second.processes[0].count) == (1, 4)
    assert second.processes[0].restart is Restart.TEMPORARY
    assert {k: v.value for k, v in first.processes[0].arguments.items()} == {"color": [1, 2]}
    assert {k: v.value for k, v in second.processes[0].arguments.items()} == {"color": "red", "size": 9}


def test_the_same_name_twice_and_overrides_of_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        store=app("store"),
        site="release: site\napps:\n  - store\n  - store\n  - {app: store, name: s3, counts: {stor: 2}}\n",
    )
    twice, nothing = mistakes(tmp_path, "site")
    assert "'store' is there twice: first at" in twice.summary and place(twice) == ("site.yaml", 4, 5)
    assert nothing.summary == "app 'store' has no process 'stor'" and nothing.advice == "Did you mean 'store'?"
    assert place(nothing) == ("site.yaml", 5, 37)


def test_a_file_found_by_name_has_that_name(tmp_path: Path) -> None:
    write(tmp_path, web=app("web", depends="[store]"), store=app("stoer"))
    found = mistakes(tmp_path, "web")
    assert "looked for as the app 'store', but its name is 'stoer'" in found[0].summary


def test_lists_of_processes_and_processes_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "my list.yaml").write_text("- hello:HelloService\n- {class: 'hello:Other', count: 2}\n")
    (made,) = resolve(find_apps([tmp_path / "my list.yaml"])).apps
    assert made.name == "my-list" and [p.name for p in made.processes] == ["hello", "other"]
    (made,) = resolve(find_apps([], processes=["hello:HelloService*3", "say=a.b:C.D"])).apps
    assert [(p.name, p.kind, p.count) for p in made.processes] == [
        ("hello", "hello:HelloService", 3),
        ("say", "a.b:C.D", 1),
    ]
    for wrong in ("hello", "hello:Hello*x", "=hello:Hello", "a b:C", "../x:Y"):
        with pytest.raises(InvalidInput, match="is no process to start"):
            find_apps([], processes=[wrong])
    with pytest.raises(InvalidInput, match="twice"):
        find_apps([], processes=["h:H", "h:H"])


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        find_apps([tmp_path / "gone.yaml"])
    write(tmp_path, hello=app("hello"))
    with pytest.raises(InvalidInput, match="no app of that name") as raised:
        find_apps(["helo"], [tmp_path])
    assert raised.value.advice == "Did you mean 'hello'?"
    assert [a.name for a in resolve(find_apps(["hello"], [tmp_path])).apps] == ["hello"]


def test_arguments_are_yaml_and_never_code() -> None:
    found = parse_arguments(['a.x={"b": [1, true]}', "a.y=__import__('os')", "a.p.z=1=2", "b={x: 1, y: z}"])
    assert {key: value.value for key, value in found["a"].items()} == {
        "x": {"b": [1, True]},
        "y": "__import__('os')",
        "p.z": "1=2",
    }
    assert {key: value.value for key, value in found["b"].items()} == {"x": 1, "y": "z"}
    assert parse_arguments(["x=1"], only="hello")["hello"]["x"].value == 1
    with pytest.raises(DescriptionError) as raised:
        parse_arguments(["nothing", "x=1", ".y=2"])
    assert len(raised.value.diagnostics) == 3


def test_arguments_for_what_is_not_started(tmp_path: Path) -> None:
    write(tmp_path, hello=app("hello"))
    (found,) = mistakes(tmp_path, "hello", arguments=("helo.x=1",))
    assert found.summary == "--arg helo.x=1: no app 'helo' is started" and found.advice == "Did you mean 'hello'?"
    (found,) = mistakes(tmp_path, "hello", arguments=("hello.helo.x=1",))
    assert "has no process 'helo'" in found.summary


def test_a_long_chain_is_no_circle(tmp_path: Path) -> None:
    for number in range(300):
        depends = f"[a{number + 1}]" if number < 299 else "[]"
        write(tmp_path, **{f"a{number}": app(f"a{number}", depends=depends)})
    made = plan(tmp_path, "a0")
    assert [each.name for each in made.apps] == [f"a{number}" for number in reversed(range(300))]


def test_names_of_processes_without_one() -> None:
    assert [
        default_name(kind) for kind in ("h:HelloService", "h:Rot13Process", "h:MyBigThing", "h:A.B", "h:Process")
    ] == [
        "hello",
        "rot13",
        "my-big-thing",
        "b",
        "process",
    ]


def test_an_empty_file_is_told_with_its_place(tmp_path: Path) -> None:
    (found,) = mistakes(write(tmp_path, empty="# nothing\n"), "empty")
    assert found.summary == "the app file is empty"
    assert place(found) == ("empty.yaml", 1, 1)
