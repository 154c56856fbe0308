"""Apps that run: order, unwinding, scoped settings, arguments checked before anything starts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pelagos.cli.exits import Exit, exit_of
from pelagos.container import Container, ContainerConfig
from pelagos.container.apps import AppManager, Resources, find_apps, parse_arguments, process_factory, resolve
from pelagos.container.messages import AppRequest, SpawnRequest
from pelagos.model.errors import (
    Conflict,
    DescriptionError,
    InternalError,
    InvalidInput,
    NotFound,
    PelagosError,
    ProcessFailed,
)
from pelagos.process import Process, ServiceProcess, client, operation
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio

EVENTS: list[str] = []
HERE = __name__


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    EVENTS.clear()
    path = list(sys.path)
    yield
    sys.path[:] = path


class Noted(Process):
    def __init__(self, tag: str = "noted", fail: bool = False, numbers: list[int] | None = None) -> None:
        self.tag = tag
        super().__init__()
        self.fail = fail
        self.numbers = numbers

    async def on_activate(self) -> None:
        if self.fail:
            raise OSError(f"{self.tag} does not start")
        EVENTS.append(f"{self.tag} up")

    async def on_terminate(self) -> None:
        EVENTS.append(f"{self.tag} down")


class Unmakable(Process):
    def __init__(self, well: bool = False) -> None:
        super().__init__()
        if well:
            raise InvalidInput("on purpose")
        raise ValueError("not like this")


class Asked(ServiceProcess):
    name = "asked"

    @operation
    async def settings(self) -> dict[str, Any]:
        return dict(self.container.settings)

    @operation
    async def crash(self) -> None:
        async def fail() -> None:
            raise OSError("on request")

        self.start_task(fail())


class Needy(Process):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Disk:
    pass


@process_factory(needs=(Disk,))
def on_disk(resources: Resources, *, tag: str = "disk") -> Process:
    assert isinstance(resources.get(Disk), Disk)
    return Noted(tag)


@process_factory
def nothing_good(resources: Resources) -> Process:
    return "no process"  # type: ignore[return-value]


class Opened:
    def __init__(self) -> None:
        self.opened: list[type] = []

    async def open(self, kind: type) -> None:
        self.opened.append(kind)

    def get(self, kind: Any) -> Any:
        assert kind in self.opened
        return kind()


@asynccontextmanager
async def manager(resources: Resources | None = None, **options: Any) -> AsyncIterator[AppManager]:
    config = ContainerConfig(id="c", system="test", settings={"color": "blue", "deep": {"a": 1, "b": 2}})
    async with Container(SimulatedWorld(), config) as container:
        made = AppManager(container, resources, **options)
        made.container = container  # type: ignore[attr-defined]
        yield made


def container_of(made: AppManager) -> Container:
    container: Container = made.container  # type: ignore[attr-defined]
    return container


def files(directory: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (directory / f"{name}.yaml").write_text(text.replace("HERE", HERE))
    return directory


async def start(made: AppManager, directory: Path, *names: str, arguments: tuple[str, ...] = ()) -> None:
    catalogue = find_apps([directory / f"{name}.yaml" for name in names])
    await made.start(resolve(catalogue, parse_arguments(arguments)))


def noted(name: str, more: str = "", arguments: str = "") -> str:
    extra = f", {arguments}" if arguments else ""
    return f'name: {name}\nprocesses:\n  - {{class: "HERE:Noted", arguments: {{tag: {name}{extra}}}}}\n{more}'


async def test_in_order_and_in_reverse(tmp_path: Path) -> None:
    files(tmp_path, a=noted("a"), b=noted("b", "depends: [a]"), c=noted("c"), all="release: all\napps: [b, c]")
    async with manager() as made:
        await start(made, tmp_path, "all")
        assert EVENTS == ["a up", "b up", "c up"]
        assert [(app.name, len(app.processes)) for app in made.running()] == [("a", 1), ("b", 1), ("c", 1)]
        with pytest.raises(Conflict, match="b depend on the app a"):
            await made.stop("a")
        await made.stop("b")
        await made.stop("a")
        assert EVENTS[3:] == ["b down", "a down"]
        with pytest.raises(NotFound):
            await made.stop("a")
        await made.stop_all()
        assert made.running() == () and EVENTS[-1] == "c down"
        assert {child.name for child in container_of(made).root.children()} == {"edge"}


async def test_a_start_that_fails_is_unwound_and_says_why(tmp_path: Path) -> None:
    files(
        tmp_path,
        a=noted("a"),
        b=noted("b"),
        c='name: c\nprocesses:\n  - {name: one, class: "HERE:Noted", arguments: {tag: c1}}\n'
        '  - {name: two, class: "HERE:Noted", arguments: {tag: c2, fail: true}}\n',
        d=noted("d"),
        all="release: all\napps: [a, b, c, d]",
    )
    async with manager() as made:
        with pytest.raises(ProcessFailed, match="c2 does not start") as raised:
            await start(made, tmp_path, "all")
        assert "while starting the app c" in raised.value.__notes__
        assert EVENTS == ["a up", "b up", "c1 up", "c2 down", "c1 down", "b down", "a down"]
        assert made.running() == () and made.startable == {}
        assert [process.label for process in container_of(made).processes] == ["root", "edge"]
        await start(made, tmp_path, "a", "d")
        assert EVENTS[-2:] == ["a up", "d up"]


async def test_an_error_of_the_apps_own_code_is_told_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files(
        tmp_path,
        made='name: made\nprocesses:\n  - {name: one, class: "HERE:Unmakable", count: 2}\n',
        hook='name: hook\nprocesses:\n  - {name: one, class: "HERE:Noted", arguments: {tag: h, fail: true}}\n',
        said='name: said\nprocesses:\n  - {name: one, class: "HERE:Unmakable", arguments: {well: true}}\n',
        well='name: well\nprocesses:\n  - {name: one, class: "HERE:Unmakable", count: 0}\n',
    )
    async with manager() as made:
        for app, kind, said in (
            ("made", "Unmakable", "ValueError: not like this"),
            ("hook", "Noted", "OSError: h does"),
        ):
            with pytest.raises(ProcessFailed) as raised:
                await start(made, tmp_path, app)
            told = raised.value
            assert f"{HERE}:{kind} of the app {app} ({tmp_path / app}.yaml) did not start: {said}" in told.message
            assert "test_running_apps.py:" in told.advice and "Pelagos" not in told.advice
            assert exit_of(told) is Exit.FAILED
            log = capsys.readouterr().err
            assert "app failed" in log and "Traceback" in log and said in log
        with pytest.raises(InvalidInput, match="on purpose"):
            await start(made, tmp_path, "said")
        assert "Traceback" not in capsys.readouterr().err
        await start(made, tmp_path, "well")
        with pytest.raises(ProcessFailed, match="Unmakable of the app well"):
            await made.spawn(SpawnRequest(name="one"))
        assert "ValueError: not like this" in capsys.readouterr().err


class Dying(Process):
    """It fails as often as it is made."""

    async def on_activate(self) -> None:
        async def fail() -> None:
            raise OSError("the sensor is gone")

        self.start_task(fail())


def dying(name: str, more: str = "") -> str:
    return f'name: {name}\nsupervision: {{{more}}}\nprocesses: ["HERE:Dying"]\n'


async def test_an_app_that_cannot_be_kept_alive_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path, good=noted("good"), bad=dying("bad"), all="release: all\napps: [good, bad]")
    told: list[tuple[str, str]] = []
    failed = asyncio.Event()

    def note(app: str, state: str, version: str) -> None:
        told.append((app, state))
        if state == "failed":
            failed.set()

    async with manager(on_change=note) as made:
        await start(made, tmp_path, "all")
        async with asyncio.timeout(30):
            await failed.wait()
        assert told == [("good", "started"), ("bad", "started"), ("bad", "failed")]
        log = capsys.readouterr().err
        assert "app failed" in log and "the sensor is gone" in log
        await asyncio.sleep(1)
        assert [app.name for app in made.running()] == ["good"]
        assert EVENTS == ["good up"]
        await start(made, tmp_path, "bad")  # somebody has mended it, and it may be started again


@pytest.mark.parametrize("others", [True, False])
async def test_without_its_last_app_or_a_vital_one_a_container_ends_with_the_cause(
    tmp_path: Path, others: bool
) -> None:
    more = "vital: true" if others else ""
    files(tmp_path, good=noted("good"), bad=dying("bad", more), both="release: both\napps: [good, bad]")
    container = Container(SimulatedWorld(), ContainerConfig(id="c", system="test"))
    async with container:
        await start_in(container, tmp_path, "both" if others else "bad")
        with pytest.raises(PelagosError, match="gave up"):
            async with asyncio.timeout(60):
                await container.wait()
    assert (["good up", "good down"] if others else []) == EVENTS


async def start_in(container: Container, directory: Path, name: str) -> None:
    await AppManager(container).start(resolve(find_apps([directory / f"{name}.yaml"])))


async def test_nothing_starts_while_anything_is_wrong_with_classes_or_arguments(tmp_path: Path) -> None:
    (tmp_path / "broken_module_of_mine.py").write_text("x = 1\nraise RuntimeError('at import')\n")
    files(
        tmp_path,
        good=noted("good"),
        bad="""name: bad
processes:
  - {name: p1, class: "HERE:Noteed"}
  - {name: p2, class: "no_such_module:X"}
  - {name: p3, class: "os.path:join"}
  - {name: p4, class: "HERE:Disk"}
  - {name: p5, class: "HERE:Needy"}
  - {name: p6, class: "HERE:Noted", arguments: {tga: x}}
  - {name: p7, class: "HERE:Noted", arguments: {numbers: [1, x]}}
  - {name: p8, class: "broken_module_of_mine:X"}
  - {name: p9, class: "HERE:Needy", count: 0}
""",
    )
    async with manager() as made:
        with pytest.raises(DescriptionError) as raised:
            await start(made, tmp_path, "good", "bad")
        found = {d.position.line: d for d in raised.value.diagnostics if d.position is not None}
        assert EVENTS == [] and made.running() == ()
        assert sorted(found) == [3, 4, 5, 6, 7, 8, 9, 10]
        assert "has no 'Noteed'" in found[3].summary and found[3].advice == "Did you mean 'Noted'?"
        assert "no module 'no_such_module'" in found[4].summary and "no_such_module.py" in found[4].advice
        assert "but not a process" in found[5].summary and "but not a process" in found[6].summary
        assert "needs the argument size" in found[7].summary
        assert "takes no argument 'tga'" in found[8].summary and found[8].advice == "Did you mean 'tag'?"
        assert "expected `int`, got `str`" in found[9].summary.lower().replace("expected `array | null`", "")
        assert "RuntimeError: at import" in found[10].summary
        assert found[10].advice.endswith("broken_module_of_mine.py:2.")


async def test_arguments_later_ones_win_and_each_takes_its_own(tmp_path: Path) -> None:
    files(
        tmp_path,
        app="""name: app
arguments: {tag: of-app}
processes:
  - {name: one, class: "HERE:Noted"}
  - {name: two, class: "HERE:Noted", arguments: {tag: of-process}}
  - {name: none, class: "HERE:Asked"}
""",
        rel="release: rel\napps:\n  - {app: app, arguments: {tag: of-release}}\n",
    )
    async with manager() as made:
        await start(made, tmp_path, "app")
        assert EVENTS == ["of-app up", "of-process up"]
        await made.stop("app")
        EVENTS.clear()
        await start(made, tmp_path, "rel")
        assert EVENTS == ["of-release up", "of-release up"]
        await made.stop("app")
        EVENTS.clear()
        await start(made, tmp_path, "rel", arguments=("app.tag=flag", "app.two.tag=own"))
        assert EVENTS == ["flag up", "own up"]
        await made.stop("app")
        with pytest.raises(DescriptionError) as raised:
            await start(made, tmp_path, "rel", arguments=("app.tgg=1",))
        assert raised.value.advice == "Did you mean 'tag'?"


async def test_settings_are_the_apps_own_and_end_with_it(tmp_path: Path) -> None:
    asked = 'name: NAME\nprocesses: ["HERE:Asked"]\n'
    files(
        tmp_path,
        a=asked.replace("NAME", "a") + "config: {color: red, deep: {b: 3}, own: 1}\n",
        b=asked.replace("NAME", "b"),
    )
    async with manager() as made:
        await start(made, tmp_path, "a", "b")
        edge = container_of(made).edge
        by_app = {made.app_of(p.id): p for p in container_of(made).processes if p.name == "asked"}
        in_a = client(Asked, edge, address=f"process:{by_app['a'].id}")
        in_b = client(Asked, edge, address=f"process:{by_app['b'].id}")
        assert await in_a.settings() == {"color": "red", "deep": {"a": 1, "b": 3}, "own": 1}
        assert await in_b.settings() == {"color": "blue", "deep": {"a": 1, "b": 2}}
        assert container_of(made).settings == {"color": "blue", "deep": {"a": 1, "b": 2}}
        supervisor = container_of(made).tree()[by_app["a"].id][0]
        assert made.app_of(supervisor.id) == "a" and supervisor.label == "app a"


async def test_a_crashed_process_comes_back_with_its_arguments_and_settings(tmp_path: Path) -> None:
    files(tmp_path, a='name: a\nprocesses: ["HERE:Asked"]\nconfig: {own: 1}\n')
    async with manager() as made:
        await start(made, tmp_path, "a")
        asked = client(Asked, container_of(made).edge)
        (before,) = made.running()[0].processes
        await asked.crash()
        await asyncio.sleep(0.1)
        settings = await asked.settings()
        (after,) = made.running()[0].processes
        assert after != before and settings["own"] == 1 and made.app_of(after) == "a"


async def test_counts_and_spawned_ones_belong_to_the_app(tmp_path: Path) -> None:
    files(tmp_path, a='name: a\nprocesses:\n  - {name: n, class: "HERE:Noted", count: 3, arguments: {tag: n}}\n')
    async with manager() as made:
        await start(made, tmp_path, "a")
        assert made.startable == {"n": f"{HERE}:Noted"}
        ids = await made.spawn(SpawnRequest("n", count=2, arguments={"tag": "extra"}))
        assert {*ids} <= {*made.running()[0].processes} and len(made.running()[0].processes) == 5
        with pytest.raises(ProcessFailed, match="does not start"):
            await made.spawn(SpawnRequest("n", count=2, arguments={"fail": True}))
        assert len(made.running()[0].processes) == 5
        await container_of(made).terminate(ids[0])
        assert EVENTS[-1] == "extra down" and len(made.running()[0].processes) == 4
        with pytest.raises(NotFound):
            await container_of(made).terminate(ids[0])
        await made.stop("a")
        assert sorted(EVENTS[-4:]) == ["extra down", "n down", "n down", "n down"]


async def test_factories_get_what_they_need_opened_and_nobody_else_does(tmp_path: Path) -> None:
    files(
        tmp_path,
        plain=noted("plain"),
        disk='name: disk\nprocesses: ["HERE:on_disk"]\narguments: {tag: spinning}\n',
        wrong='name: wrong\nprocesses: ["HERE:nothing_good"]\n',
    )
    opened = Opened()
    async with manager(opened) as made:
        await start(made, tmp_path, "plain")
        assert opened.opened == []
        await start(made, tmp_path, "disk")
        assert opened.opened == [Disk] and EVENTS == ["plain up", "spinning up"]
        with pytest.raises(InternalError, match="which is no process"):
            await start(made, tmp_path, "wrong")
    async with manager() as made:
        with pytest.raises(InternalError, match="has no Disk"):
            await start(made, tmp_path, "disk")


async def test_apps_by_name_from_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, a=noted("a"), b=noted("b", "depends: [a]"))
    async with manager(search=[tmp_path]) as made:
        told = await made.start_app(AppRequest("b", arguments={"tag": "given"}, config={"x": 1}))
        assert told.name == "b" and EVENTS == ["a up", "given up"]
        with pytest.raises(Conflict, match="runs already"):
            await made.start_app(AppRequest("b"))
        await made.stop_app("b")
        assert (await made.start_app(AppRequest("b"))).name == "b"
        assert EVENTS == ["a up", "given up", "given down", "b up"]  # a runs on
        again = await made.reload_app("b")
        assert len(again.processes) == 1 and EVENTS[-2:] == ["b down", "b up"]
        (tmp_path / "here.txt").write_text(noted("here"))
        monkeypatch.chdir(tmp_path)
        for path in ("../b.yaml", str(tmp_path / "b.yaml"), "here.txt"):
            with pytest.raises(Exception, match="is a path"):
                await made.start_app(AppRequest(path))


async def test_two_apps_with_processes_of_one_name(tmp_path: Path) -> None:
    files(
        tmp_path,
        a=noted("a"),
        two="release: two\napps:\n  - {app: a, name: a1, arguments: {tag: first}}\n"
        "  - {app: a, name: a2, arguments: {tag: second}}\n",
    )
    async with manager() as made:
        await start(made, tmp_path, "two")
        assert EVENTS == ["first up", "second up"]
        assert set(made.startable) == {"noted", "a2.noted"}
        await made.spawn(SpawnRequest("a2.noted"))
        assert EVENTS[-1] == "second up"
        with pytest.raises(Conflict, match="runs already"):
            await start(made, tmp_path, "two")


async def test_modules_beside_a_file_are_imported_only_if_the_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "module_of_my_own.py").write_text(
        "from pelagos.process import Process\nclass Mine(Process):\n    pass\n"
    )
    files(tmp_path, mine='name: mine\nprocesses: ["module_of_my_own:Mine"]\n')
    async with manager(search=[tmp_path]) as made:
        with pytest.raises(DescriptionError, match="there is no module 'module_of_my_own'"):
            import msgspec

            from pelagos.container.apps.resolving import StartPlan

            plan = resolve(find_apps([tmp_path / "mine.yaml"]))
            untrusted = msgspec.structs.replace(plan.apps[0], trusted=False)
            await made.start(StartPlan("", "", (untrusted,)))
        await start(made, tmp_path, "mine")
        assert made.startable == {"mine": "module_of_my_own:Mine"}
    sys.modules.pop("module_of_my_own")
