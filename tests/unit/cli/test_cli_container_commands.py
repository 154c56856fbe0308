"""The commands on processes: call, send, ping, ps, services, nodes, spawn, kill, log-level, dead-letters, observe."""

from __future__ import annotations

import asyncio
import io
import re
import signal
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from pelagos.cli import pinging
from pelagos.cli.exits import Exit
from pelagos.cli.main import ENTRIES
from pelagos.cli.observation import breaches, line
from pelagos.cli.system import System
from pelagos.container import Container
from pelagos.container.control.port import ContainerInfo
from pelagos.container.messages import AllServices, ServiceInfo
from pelagos.exchange import Performative, Status
from pelagos.exchange.observing import Direction, Observation
from pelagos.exchange.sequences import Row
from pelagos.model.errors import NotFound, Unavailable
from pelagos.process import client
from support.container_scene import HelloService, Scene, letter

COMMANDS = [
    ["call", "hello", "hello"],
    ["send", "hello", "hello"],
    ["ping", "hello", "--count", "1"],
    ["ps"],
    ["services"],
    ["nodes"],
    ["spawn", "hello"],
    ["kill", "c-1.5"],
    ["observe", "--last", "5"],
    ["dead-letters", "list"],
    ["log-level"],
    ["shell", "-c", "ps()"],
]


@pytest.fixture
def pelagos(capsys: pytest.CaptureFixture[str]) -> Scene:
    return Scene(capsys)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_a_container_it_is_69_and_says_how_to_start_one(pelagos: Scene, command: list[str]) -> None:
    pelagos.absent = True
    result = pelagos(*command)
    assert (result.code, result.out) == (69, "")
    assert "pelagos container" in result.err


@pytest.mark.parametrize("command", [*COMMANDS[:10], COMMANDS[11]], ids=lambda command: command[0])
def test_the_container_is_asked_for_by_system_and_id_and_let_go(pelagos: Scene, command: list[str]) -> None:
    pelagos(*command, "--system", "demo", "--container", "c-1")
    assert pelagos.asked == [("demo", "c-1")]
    assert pelagos.closed == 1


def test_the_system_comes_from_the_environment(pelagos: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELAGOS_SYSTEM", "demo")
    pelagos("nodes")
    assert pelagos.asked == [("demo", None)]


class TestCall:
    def test_a_text_is_printed_as_it_is(self, pelagos: Scene) -> None:
        result = pelagos("call", "hello", "hello", "--content", "you")
        assert (result.code, result.out, result.err) == (0, "Hello, you\n", "")
        assert pelagos("call", "hello", "hello", "--content", "you", "-o", "json").json == "Hello, you"

    def test_a_mapping_goes_in_and_comes_out(self, pelagos: Scene) -> None:
        result = pelagos("call", "service:hello", "buy", "--content", "{item: lamp, count: 2}")
        assert result.out == "item: lamp\ncount: 3\n"
        assert pelagos("call", "hello", "buy", "--content", "item: lamp", "-o", "json").json == {
            "item": "lamp",
            "count": 2,
        }

    def test_nothing_is_printed_for_nothing(self, pelagos: Scene) -> None:
        assert pelagos("call", "hello", "nothing").out == ""
        assert pelagos("call", "hello", "nothing", "-o", "json").json is None

    def test_content_of_a_file_and_of_stdin(
        self, pelagos: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "basket.yaml"
        file.write_text("item: lamp\ncount: 41\n")
        assert pelagos("call", "hello", "buy", "--content", f"@{file}", "-o", "json").json["count"] == 42
        monkeypatch.setattr("sys.stdin", io.StringIO("you"))
        assert pelagos("call", "hello", "hello", "--content", "-").out == "Hello, you\n"
        assert pelagos("call", "hello", "buy", "--content", f"@{tmp_path}/none").code == 66

    def test_one_process(self, pelagos: Scene) -> None:
        process = pelagos("ps", "--service", "hello", "-o", "json").json[0]["id"]
        assert pelagos("call", "hello", "ping", "--on", process).out == "pong\n"
        assert pelagos("call", process, "ping").out == "pong\n"
        assert pelagos("call", "hello", "ping", "--on", "c-1.99").code == 69

    def test_an_error_of_the_service_has_its_code_and_advice(self, pelagos: Scene) -> None:
        result = pelagos("call", "hello", "lose")
        assert (result.code, result.out) == (66, "")
        assert result.err == "error: it is lost\n  help: Look under the sofa.\n"

    def test_no_answer_in_time_is_75(self, pelagos: Scene) -> None:
        assert pelagos("call", "hello", "wait", "--timeout", "0.05").code == 75

    def test_what_does_not_fit_is_64(self, pelagos: Scene) -> None:
        assert pelagos("call", "hello", "hello", "--content", "{a: 1}").code == 64
        result = pelagos("call", "hello", "hello", "--content", "{a: [")
        assert result.code == 64
        assert "--content is not YAML" in result.err
        assert pelagos("call", "nonsense:hello", "hello").code == 64
        assert pelagos.closed == 1  # the mistakes in arguments were found before a container was asked

    def test_a_service_that_nobody_serves_is_69_with_a_close_name(self, pelagos: Scene) -> None:
        result = pelagos("call", "helo", "hello")
        assert result.code == 69
        assert "Did you mean hello?" in result.err

    def test_one_that_could_be_started_is_advised(self, pelagos: Scene) -> None:
        async def kill(container: Container) -> None:
            await container.terminate(container.processes[-1].id)

        pelagos.before = kill
        assert "pelagos spawn hello" in pelagos("call", "hello", "hello", "--content", "you").err


@pytest.mark.parametrize("address", ["nobody", "c-1.99"])
def test_send_to_nobody_fails(pelagos: Scene, address: str) -> None:
    result = pelagos("send", address, "hello")
    assert result.code == Exit.UNAVAILABLE
    assert "nobody serves" in result.err
    assert "help: " in result.err
    assert "Did you mean hello?" in pelagos("send", "helo", "hello").err
    assert pelagos("send", "fanout:nobody", "event").code == 0
    assert pelagos("send", "topic:nobody.there", "event").code == 0


def test_send_in_the_shell_to_nobody_fails(pelagos: Scene) -> None:
    result = pelagos("shell", "-c", "send('nobody', 'hello')")
    assert result.code == Exit.UNAVAILABLE
    assert "nobody serves" in result.err


def test_send_does_not_wait(pelagos: Scene) -> None:
    assert pelagos("send", "hello", "nothing").code == 0
    assert pelagos("send", "hello", "hello", "--content", "you", "-o", "json").json["sent"] is True


class TestPing:
    def test_each_answer_has_its_time(self, pelagos: Scene) -> None:
        result = pelagos("ping", "hello", "--count", "2", "--interval", "0")
        assert result.code == 0
        assert len(re.findall(r"^service:hello answered in [\d.]+ ms$", result.out, re.MULTILINE)) == 2
        assert result.out.splitlines()[-1].startswith("2 of 2 answered; ")

    def test_no_answer_is_1(self, pelagos: Scene) -> None:
        result = pelagos("ping", "nobody", "--count", "2", "--interval", "0")
        assert result.code == 1
        assert result.out.splitlines()[-1] == "0 of 2 answered"
        document = pelagos("ping", "nobody", "--count", "1", "-o", "json").json
        assert (document["asked"], document["answered"], document["milliseconds"]) == (1, 0, [None])
        assert "nobody" in document["error"]

    def test_sigterm_ends_it_with_the_sum(self, pelagos: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        async def once(*_: object) -> float:
            signal.raise_signal(signal.SIGTERM)
            return 1.0

        monkeypatch.setattr(pinging, "ping_once", once)
        result = pelagos("ping", "hello", "--count", "1000")
        assert result.code == 0
        assert result.out.splitlines()[-1].startswith("1 of 1 answered")

    def test_it_waits_for_one_that_is_not_there_yet(self, pelagos: Scene) -> None:
        async def spawn_later(container: Container) -> None:
            class Late(HelloService):
                name = "late"

                async def on_activate(self) -> None:
                    pelagos.spawned.append(None)  # type: ignore[arg-type]

            async def once_asked() -> None:
                before = container.transport.snapshot().published
                while container.transport.snapshot().published == before:  # noqa: ASYNC110 - a count has no event
                    await asyncio.sleep(0)
                await container.spawn(Late)

            container.edge.start_task(once_asked())

        pelagos.before = spawn_later
        result = pelagos("ping", "late", "--count", "1", "--wait", "30")
        assert (result.code, len(pelagos.spawned)) == (0, 1), result

    def test_one_process(self, pelagos: Scene) -> None:
        assert pelagos("ping", "c-1.2", "--count", "1").code in (0, 1)
        assert pelagos("ping", "c-1.99", "--count", "1").code == 1


class TestPs:
    def test_a_row_a_process(self, pelagos: Scene) -> None:
        result = pelagos("ps")
        rows = [line.split() for line in result.out.splitlines()]
        assert rows[0][:3] == ["ID", "NAME", "STATE"]
        assert {row[1] for row in rows[1:]} >= {"hello", "agent", "observer"}

    def test_filters(self, pelagos: Scene) -> None:
        found = pelagos("ps", "--service", "hello", "-o", "json").json
        assert [one["name"] for one in found] == ["hello"]
        assert found[0]["container"] == "c-1"
        assert [one["name"] for one in pelagos("ps", "--on", "c-1", "--service", "hello", "-o", "json").json] == [
            "hello"
        ]
        none = pelagos("ps", "--service", "moon")
        assert (none.code, none.out) == (0, "")
        assert "no process of service moon" in none.err

    def test_an_unknown_container_is_66_with_close_names(self, pelagos: Scene) -> None:
        result = pelagos("ps", "--on", "c-2")
        assert result.code == 66
        assert "Did you mean c-1?" in result.err


def test_services(pelagos: Scene) -> None:
    rows = {line.split()[0]: line for line in pelagos("services").out.splitlines()}
    assert re.match(r"hello +1\.0 +1 +c-1 +buy, hello, lose, nothing, wait$", rows["hello"])
    assert "hello" in [one["name"] for one in pelagos("services", "-o", "json").json]


class TestOthersWhoAreSilent:
    def test_services_says_so(self, pelagos: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        async def all_services(system: System) -> AllServices:
            return AllServices((ServiceInfo("hello", "1.0", ("c-1.5",), ("c-1",), ("hello",)),), ("c-2",))

        monkeypatch.setattr(System, "all_services", all_services)
        result = pelagos("services")
        assert (result.code, result.err) == (0, "Container c-2 did not answer; see pelagos nodes.\n")
        assert "hello" in result.out
        assert [one["name"] for one in pelagos("services", "-o", "json").json] == ["hello"]

    @pytest.mark.anyio
    async def test_nobody_is_asked_for_advice_after_a_deadline(self) -> None:
        asked: list[str] = []

        class Silent:
            info = ContainerInfo("c-1", "demo", 1, "1", "memory", 0.0)

            async def call(self, address: str, op: str, *_: object, **__: object) -> None:
                asked.append(op)
                raise Unavailable("the broker did not confirm the message within its deadline")

        with pytest.raises(Unavailable, match="did not confirm"):
            await System(Silent()).call("service:hello", "hello", None, timeout=1.0)  # type: ignore[arg-type]
        assert asked == ["hello"]


def test_nodes(pelagos: Scene) -> None:
    rows = [line.split() for line in pelagos("nodes").out.splitlines()]
    assert rows[1][:4] == ["c-1*", "alive", "host", "7"]
    assert "greetings 1.2" in pelagos("nodes").out
    (node,) = pelagos("nodes", "-o", "json").json
    assert (node["id"], node["state"], node["system"]) == ("c-1", "alive", "demo")


class TestSpawn:
    def test_the_ids_are_printed(self, pelagos: Scene) -> None:
        result = pelagos("spawn", "hello", "--count", "2", "--arg", "greeting=Ahoy")
        assert result.code == 0
        assert all(re.fullmatch(r"c-1\.\d+", line) for line in result.out.splitlines())
        assert len(set(result.out.splitlines())) == 2
        assert (pelagos.spawned[0].count, pelagos.spawned[0].arguments) == (2, {"greeting": "Ahoy"})

    def test_placement(self, pelagos: Scene) -> None:
        assert pelagos("spawn", "hello", "-o", "json").json["container"] == "c-1"
        assert pelagos("spawn", "hello", "--on", "c-1").code == 0
        assert [one.on for one in pelagos.spawned] == ["any", "c-1"]
        unknown = pelagos("spawn", "hello", "--on", "c-7")
        assert unknown.code == 66

    def test_mistakes(self, pelagos: Scene) -> None:
        result = pelagos("spawn", "helo")
        assert result.code == 66
        assert "hello" in result.err
        assert pelagos("spawn", "hello", "--arg", "greeting").code == 64
        assert pelagos("spawn", "hello", "--count", "0").code == 64


class TestKill:
    def test_it_has_ended(self, pelagos: Scene) -> None:
        process = pelagos("ps", "--service", "hello", "-o", "json").json[0]["id"]
        result = pelagos("kill", process)
        assert (result.code, result.out) == (0, f"{process} has ended.\n")

    def test_all_are_tried_and_the_first_failure_counts(self, pelagos: Scene) -> None:
        process = pelagos("ps", "--service", "hello", "-o", "json").json[0]["id"]
        result = pelagos("kill", "c-1.99", process, "hello")
        assert (result.code, result.out) == (66, f"{process} has ended.\n")
        assert result.err.count("error: ") == 2
        assert pelagos("kill", process, "-o", "json").json == {"ended": [process]}


class TestLogLevel:
    def test_a_room_by_its_short_and_its_long_name(self, pelagos: Scene) -> None:
        result = pelagos("log-level", "exchange", "debug")
        assert (result.code, result.out) == (0, "pelagos.exchange logs at debug in c-1.\n")
        pelagos("log-level", "pelagos.process.serving", "info")
        pelagos("log-level", "support.container_scene", "WARNING", "--on", "c-1")
        pelagos("log-level", "exchange", "default")
        assert pelagos.levels == [
            ("pelagos.exchange", "debug"),
            ("pelagos.process.serving", "info"),
            ("support.container_scene", "warning"),
            ("pelagos.exchange", ""),
        ]

    def test_without_arguments_it_lists(self, pelagos: Scene) -> None:
        assert pelagos("log-level").out == "PACKAGE           LEVEL\n(all others)      info\npelagos.exchange  debug\n"
        assert pelagos("log-level", "-o", "json").json == {"": "info", "pelagos.exchange": "debug"}

    def test_a_level_that_is_none(self, pelagos: Scene) -> None:
        result = pelagos("log-level", "exchange", "loud")
        assert result.code == 64
        assert "'[LEVEL]': 'loud' is not one of" in result.err

    def test_mistakes(self, pelagos: Scene) -> None:
        result = pelagos("log-level", "exchnge", "debug")
        assert result.code == 66
        assert "Did you mean" in result.err
        assert "exchange" in result.err
        assert pelagos("log-level", "exchange", "loud").code == 64
        assert pelagos("log-level", "exchange").code == 64
        assert pelagos.levels == []


class TestDeadLetters:
    def test_list_and_show(self, pelagos: Scene) -> None:
        assert "no dead letters" in pelagos("dead-letters", "list").err
        pelagos.add(letter("one", content={"user": "eve", "password": "hunter2"}), letter("two"))
        rows = [line.split() for line in pelagos("dead-letters", "list").out.splitlines()]
        assert [row[0] for row in rows] == ["ID", "one", "two"]
        assert [one["id"] for one in pelagos("dead-letters", "list", "--limit", "1", "-o", "json").json] == ["one"]
        shown = pelagos("dead-letters", "show", "one")
        assert "eve" in shown.out
        assert "front" in shown.out
        assert "hunter2" not in shown.out
        assert pelagos("dead-letters", "show", "three").code == 66

    def test_retry(self, pelagos: Scene) -> None:
        pelagos.add(letter("one"), letter("two", "service:pelagos.gone"), letter("three"))
        result = pelagos("dead-letters", "retry", "--all")
        assert (result.code, result.out) == (69, "one is sent again.\nthree is sent again.\n")
        assert (pelagos.retried, list(pelagos.letters)) == (["one", "three"], ["two"])
        assert pelagos("dead-letters", "retry").code == 64
        assert pelagos("dead-letters", "retry", "two", "--all").code == 64

    def test_drop_asks_before_all(self, pelagos: Scene) -> None:
        pelagos.add(letter("one"), letter("two"), letter("three"))
        assert pelagos("dead-letters", "drop", "two", "-o", "json").json == {"dropped": ["two"]}
        assert pelagos("dead-letters", "drop", "--all").code == 64
        pelagos.answer = "n"
        assert pelagos("dead-letters", "drop", "--all").code == 0
        assert list(pelagos.letters) == ["one", "three"]
        assert pelagos("dead-letters", "drop", "--all", "--yes").code == 0
        assert not pelagos.letters


class TestObserve:
    @pytest.fixture
    def talked(self, pelagos: Scene) -> Scene:
        async def talk(container: Container) -> None:
            hello = client(HelloService, container.edge)
            await hello.hello("you")
            try:
                await hello.lose()
            except NotFound:
                pass

        pelagos.before = talk
        return pelagos

    def test_the_last_messages(self, talked: Scene) -> None:
        result = talked("observe", "--last", "10", "--service", "hello")
        words = [line.split() for line in result.out.splitlines()]
        assert [line[1:6] for line in words] == [
            ["edge", "->", "hello", "hello", "request"],
            ["hello", "->", "edge", "hello", "inform_result"],
            ["edge", "->", "hello", "lose", "request"],
            ["hello", "->", "edge", "lose", "failure"],
        ]
        assert words[1][6] == "OK"
        assert words[1][8] == "ms"
        assert words[3][6] == "not_found"

    def test_json_is_a_line_a_message(self, talked: Scene) -> None:
        rows = [msgspec.json.decode(line) for line in talked("observe", "--last", "1", "-o", "json").out.splitlines()]
        assert [(row["op"], row["performative"], row["error"]) for row in rows] == [("lose", "failure", "not_found")]

    def test_filters_and_charts(self, talked: Scene, tmp_path: Path) -> None:
        svg, mmd = tmp_path / "a.svg", tmp_path / "a.mmd"
        result = talked("observe", "--last", "10", "--op", "hello", "--svg", str(svg), "--mermaid", str(mmd))
        assert len(result.out.splitlines()) == 2
        assert "2 messages" in result.err
        text = mmd.read_text()
        assert text.startswith('---\ntitle: "demo: hello"\n---\nsequenceDiagram\n')
        assert "->>" in text
        assert ElementTree.fromstring(svg.read_text()).tag.endswith("svg")
        assert talked("observe", "--last", "10", "--errors").out.count("\n") == 1

    def test_following_shows_what_passes_once(self, pelagos: Scene) -> None:
        async def talk(container: Container) -> None:
            async def go_on() -> None:
                hello = client(HelloService, container.edge)
                while True:
                    await hello.hello("you")
                    await asyncio.sleep(0.05)

            container.edge.start_task(go_on())

        pelagos.before = talk
        result = pelagos("observe", "--seconds", "1.2", "-o", "json")
        rows = [msgspec.json.decode(line) for line in result.out.splitlines()]
        assert result.code == 0
        assert len(rows) >= 2
        assert len({(row["conv_id"], row["performative"]) for row in rows}) == len(rows)
        assert {row["op"] for row in rows} == {"hello"}  # nothing of the observing itself

    def test_follow_goes_on_after_last(self, pelagos: Scene) -> None:
        assert pelagos("observe", "--follow").code == 64

    def test_a_breach_of_the_protocol_is_found_where_the_beginning_was_seen(self) -> None:
        def seen(seq: int, sender: str, receiver: str, performative: Performative, conversation: str) -> Observation:
            values = {"performative": performative, "conv_id": conversation, "conv_seq": seq, "op": "hello"}
            return Observation(
                seq, float(seq), Direction.SENT, "c-1", f"process:{sender}", f"process:{receiver}", **values
            )

        ask, result, agree = Performative.REQUEST, Performative.INFORM_RESULT, Performative.AGREE
        good = [seen(1, "a", "b", ask, "good"), seen(2, "b", "a", result, "good")]
        late = [seen(2, "b", "a", agree, "late")]
        bad = [seen(1, "a", "b", ask, "bad"), seen(2, "b", "a", result, "bad"), seen(3, "b", "a", result, "bad")]
        assert [one.conversation for one in breaches([*good, *late, *reversed(bad), *good])] == ["bad"]

    def test_a_line_has_no_control_characters_of_others(self) -> None:
        row = Row(
            at=0.0,
            source="process:c-1.1",
            target="service:\x1b[2Jx",
            op="\x1b]0;x\x07",
            performative=Performative.REQUEST,
            conv_id="\x1b",
            conv_seq=1,
            trace="",
            status=Status.OK,
            bytes=0,
            took=None,
            error="",
            is_answer=False,
            delivered=True,
        )
        import click

        assert "\x1b" not in click.unstyle(line(row, lambda address: address))


class TestShell:
    def test_one_line(self, pelagos: Scene) -> None:
        result = pelagos("shell", "-c", 'await call("hello", "hello", "you")')
        assert (result.code, result.out, result.err) == (0, "Hello, you\n", "")

    def test_clients_of_the_classes_by_name(self, pelagos: Scene) -> None:
        result = pelagos("shell", "-c", 'hello = client(HelloService); await hello.hello("you")')
        assert result.out == "Hello, you\n"
        assert pelagos("shell", "-c", 'await client("hello").hello("you")').out == "Hello, you\n"
        assert "no class of 'moon'" in pelagos("shell", "-c", 'client("moon")').err

    @pytest.mark.parametrize("line", ["ps()", "await ps()", "found = ps('hello'); found", "print(ps())"])
    def test_lists_with_and_without_await(self, pelagos: Scene, line: str) -> None:
        result = pelagos("shell", "-c", line)
        assert result.code == 0
        assert result.out.splitlines()[0].split()[:3] == ["ID", "NAME", "STATE"]

    def test_lists_are_lists(self, pelagos: Scene) -> None:
        line = "pid = ps('hello')[0].id; len(ps('hello')) == 1 and kill(pid); len(await ps('hello'))"
        result = pelagos("shell", "-c", line)
        assert result.out.splitlines() == [result.out.split()[0] + " has ended", "0"]

    def test_the_other_names(self, pelagos: Scene) -> None:
        lines = (
            "len(await spawn('hello', count=2, greeting='Ahoy'))",
            "svc()[-1].name",
            "nodes()[0].id",
            "apps()",
            "await ping('hello')",
            "log_level('exchange', 'debug')",
            "send('hello', 'hello', 'you')",
            "info().system",
            "control.info.id",
        )
        result = pelagos("shell", "-c", "\n".join(lines))
        said = result.out.splitlines()
        assert result.code == 0, result.err
        assert said[:3] == ["2", "observer", "c-1"]
        assert said[4].split()[:3] == ["greetings", "1.2", "c-1"]
        assert said[5].startswith("service:hello answered in ")
        assert said[6:] == ["pelagos.exchange logs at debug in c-1", "sent", "demo", "c-1"]
        assert pelagos.spawned[0].arguments == {"greeting": "Ahoy"}

    def test_names_of_the_exchange(self, pelagos: Scene) -> None:
        result = pelagos("shell", "-c", "names('hello')")
        lines = result.out.splitlines()
        assert lines[0].split()[:2] == ["ADDRESS", "CONSUMERS"]
        assert lines[1].split() == ["service:demo.hello", "1"]
        assert "published " in lines[-1]
        assert pelagos("shell", "-c", "[one.address for one in names('hello')]").out == "- service:demo.hello\n"
        full = pelagos("shell", "-c", "len(names(full=True)) > len(names())")
        assert (full.out, full.err) == ("true\n", "")

    def test_a_durable_queue_is_removed_when_nobody_serves_it(self, pelagos: Scene) -> None:
        assert pelagos("shell", "-c", "remove_queue('moon')").out == "nothing waited\n"

    def test_observe(self, pelagos: Scene, tmp_path: Path) -> None:
        svg = tmp_path / "a.svg"
        line = f"await call('hello', 'hello', 'you')\nobserve(last=5, op='hello', svg={str(svg)!r})"
        result = pelagos("shell", "-c", line)
        assert [one.split()[4:6] for one in result.out.splitlines()[1:]] == [
            ["hello", "request"],
            ["hello", "inform_result"],
        ]
        assert svg.exists()

    def test_calls_run_side_by_side(self, pelagos: Scene) -> None:
        line = "import asyncio; await asyncio.gather(*[call('hello', 'hello', str(n)) for n in range(3)])"
        assert pelagos("shell", "-c", line, "-o", "json").json == ["Hello, 0", "Hello, 1", "Hello, 2"]

    def test_a_coroutine_is_told_to_want_an_await(self, pelagos: Scene) -> None:
        result = pelagos("shell", "-c", "client('hello').hello('you')")
        assert (result.code, result.out) == (0, "")
        assert "write await before it" in result.err

    def test_nothing_is_shown_for_calls_that_answer_nothing(self, pelagos: Scene) -> None:
        line = "import asyncio; await asyncio.gather(*[call('hello', 'nothing') for _ in range(3)])"
        assert pelagos("shell", "-c", line).out == ""

    def test_errors(self, pelagos: Scene) -> None:
        lost = pelagos("shell", "-c", "await call('hello', 'lose')")
        assert (lost.code, lost.err) == (66, "error: it is lost\n  help: Look under the sofa.\n")
        mine = pelagos("shell", "-c", "1 / 0")
        assert mine.code == 1
        assert "ZeroDivisionError" in mine.err
        assert "pelagos/cli" not in mine.err
        assert pelagos("shell", "-c", "1 +").code == 1
        assert pelagos("shell", "-c", "raise SystemExit(3)").code == 3

    def test_lines_of_a_pipe(self, pelagos: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "sys.stdin", io.StringIO("for name in ('a', 'b'):\n    print(await call('hello', 'hello', name))\n")
        )
        assert pelagos("shell").out == "Hello, a\nHello, b\n"

    def test_a_lost_connection_is_told_and_made_again(self, pelagos: Scene) -> None:
        lines = """
from pelagos.model.errors import Unavailable
await call("hello", "hello", "one")
await control.work(lambda system: lose())
try:
    await call("hello", "hello", "two")
except Unavailable as error:
    print(error.advice)
await call("hello", "hello", "three")
"""

        async def lose() -> None:
            await pelagos.container.stop()

        import builtins

        builtins.lose = lose  # type: ignore[attr-defined]
        try:
            result = pelagos("shell", "-c", lines)
        finally:
            del builtins.lose  # type: ignore[attr-defined]
        said = result.out.splitlines()
        assert (said[0], said[-1], len(pelagos.asked)) == ("Hello, one", "Hello, three", 2), result
        assert "connects again" in said[1]


def test_all_commands_are_listed_under_one_heading() -> None:
    found = [name for name, entry in ENTRIES.items() if entry.section == "Processes of your own"]
    assert found == [
        "container",
        "shell",
        "call",
        "send",
        "ping",
        "ps",
        "services",
        "nodes",
        "spawn",
        "kill",
        "observe",
        "dead-letters",
        "log-level",
    ]
