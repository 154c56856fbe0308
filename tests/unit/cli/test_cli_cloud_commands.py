"""The cloud commands: each output, each exit code."""

from __future__ import annotations

import pytest

from pelagos.cli import clouds as clouds_shown
from pelagos.clouds.errors import CloudUnreachable
from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, ErrorPayload, Unavailable, Unsupported
from pelagos.model.states import ServerState
from pelagos.wire.clouds import CloudCheck, CloudServerView, CloudView, FlavorView, ImageView, PoolChangeView
from support.fake_client import CREATED, FakeServer, Terminal

AWAY = ErrorPayload(code="cloud_unreachable", message="lab does not answer", advice="Look at its network.")
EAST = CloudView(
    name="east",
    driver="ec2",
    endpoint="https://east.example",
    default=True,
    source="the configuration",
    state="ok",
    opened=True,
    served="here",
    servers=3,
    operations={"pending": 2, "uncertain": 1},
    answered_at=CREATED,
    latency=0.0421,
    details={"capabilities": {"settle": 60.0}, "driver": {"threads": 4}},
)
LAB = CloudView(name="lab", driver="openstack", state="unreachable", error=AWAY, error_at=CREATED)


@pytest.fixture(autouse=True)
def clouds(server: FakeServer) -> None:
    server.clouds = (EAST, LAB)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


class TestList:
    def test_a_row_a_cloud(self, pelagos: Terminal) -> None:
        header, east, lab = rows(pelagos("cloud", "list").out)
        assert header[:4] == ["NAME", "DRIVER", "STATE", "ANSWERED"]
        assert east[:4] == ["east", "*", "ec2", "ok"]
        assert "2m" in east and "42" in east and "3" in east
        assert "2 pending, 1 uncertain" in pelagos("cloud", "list").out
        assert lab[:3] == ["lab", "openstack", "unreachable"]
        assert " ".join(lab).endswith("lab does not answer")

    def test_each_is_asked_once_where_nobody_has(self, pelagos: Terminal, server: FakeServer) -> None:
        for output in ("table", "json"):
            assert pelagos("cloud", "list", "-o", output).err == ""
        assert pelagos("cloud", "show", "lab").code == 0
        assert server.asked_of_clouds == [("check", ""), ("check", ""), ("check", "lab")]

    def test_a_daemon_knows_and_asks_none(self, pelagos: Terminal, server: FakeServer) -> None:
        pelagos.embedded = False
        assert pelagos("cloud", "list").code == pelagos("cloud", "show", "lab").code == 0
        assert server.asked_of_clouds == []

    def test_who_does_not_answer_in_time_is_named(
        self, pelagos: Terminal, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clouds_shown, "LOOK", 0.0)
        server.clouds = (EAST, CloudView(name="far", driver="ec2", state="unknown"))
        server.clouds_hang = True
        result = pelagos("cloud", "list")
        assert result.code == 0 and rows(result.out)[2][:3] == ["far", "ec2", "unknown"]
        assert "no answer within 0 s of far: pelagos cloud check waits longer" in result.err

    def test_json_is_the_views(self, pelagos: Terminal) -> None:
        found = pelagos("cloud", "list", "-o", "json").json
        assert [one["name"] for one in found] == ["east", "lab"]
        assert found[1]["error"]["code"] == "cloud_unreachable"


class TestShow:
    def test_all_that_is_known(self, pelagos: Terminal) -> None:
        text = pelagos("cloud", "show", "east").out
        facts = {line.split("  ", 1)[0]: line.split("  ", 1)[1].strip() for line in text.splitlines()}
        assert facts["endpoint"] == "https://east.example"
        assert facts["can.settle"] == "60.0"
        assert facts["driver.threads"] == "4"
        assert "last error" not in facts
        assert "lab does not answer (2m ago)" in pelagos("cloud", "show", "lab").out

    def test_an_unknown_one_is_66(self, pelagos: Terminal) -> None:
        result = pelagos("cloud", "show", "nowhere")
        assert (result.code, result.out) == (66, "")
        assert "nowhere" in result.err


class TestCheck:
    def test_all_well_is_0(self, pelagos: Terminal, server: FakeServer) -> None:
        server.checks = (CloudCheck(cloud="east", ok=True, seconds=0.03, error=None),)
        result = pelagos("cloud", "check")
        assert result.code == 0
        assert rows(result.out)[1] == ["east", "ok", "30", "ms"]
        assert server.asked_of_clouds == [("check", "")]

    def test_one_that_fails_is_1_and_says_what_to_do(self, pelagos: Terminal, server: FakeServer) -> None:
        at = Diagnostic("the account 'lab': sed is not known", Position("pelagos.yaml", 3, 5))
        wrong = ErrorPayload(code="invalid_input", message="wrong options", diagnostics=(at,))
        server.checks = (
            CloudCheck(cloud="lab", ok=False, seconds=None, error=AWAY),
            CloudCheck(cloud="odd", ok=False, seconds=None, error=wrong),
        )
        result = pelagos("cloud", "check", "lab")
        assert result.code == 1
        assert "failed" in result.out and "lab does not answer" in result.out
        assert "lab: Look at its network." in result.err
        assert "pelagos.yaml:3:5" in result.err
        assert server.asked_of_clouds == [("check", "lab")]
        result = pelagos("cloud", "check", "-o", "json")
        assert result.code == 1
        assert [one["ok"] for one in result.json] == [False, False]


class TestOffers:
    def test_images(self, pelagos: Terminal, server: FakeServer) -> None:
        server.offers["images"] = (ImageView(id="ami-1", name="debian", size_bytes=2**30, created_at=CREATED),)
        assert rows(pelagos("cloud", "images", "east").out)[1] == ["ami-1", "debian", "1.0", "GiB", CREATED[:10]]

    def test_flavors_with_prices(self, pelagos: Terminal, server: FakeServer) -> None:
        flavor = {"vcpus": 2.0, "ram_mb": 4096, "disk_gb": None, "price_per_hour": 0.04, "currency": "EUR"}
        server.offers["flavors"] = (FlavorView(id="m1", name="m1", **flavor),)
        assert rows(pelagos("cloud", "flavors", "east").out)[1] == ["m1", "m1", "2", "4096", "MiB", "0.04", "EUR"]
        assert pelagos("cloud", "flavors", "east", "-o", "json").json[0]["price_per_hour"] == 0.04

    def test_nothing_is_said_and_leaves_stdout_empty(self, pelagos: Terminal) -> None:
        result = pelagos("cloud", "images", "east")
        assert (result.code, result.out) == (0, "")
        assert "east shows no image" in result.err
        assert pelagos("cloud", "images", "east", "-o", "json").json == []

    @pytest.mark.parametrize("what", ["images", "flavors", "servers"])
    def test_a_cloud_that_does_not_answer_is_69(self, pelagos: Terminal, server: FakeServer, what: str) -> None:
        server.offers[what] = CloudUnreachable("the connection was refused")
        result = pelagos("cloud", what, "east")
        assert (result.code, result.out) == (69, "")
        assert result.err == "error: the connection was refused\n"

    def test_servers_of_others_when_asked_for(self, pelagos: Terminal, server: FakeServer) -> None:
        view = CloudServerView(
            provider_id="i-1",
            name="theirs",
            state=ServerState.ACTIVE,
            ours=False,
            addresses=("192.0.2.1",),
            server_id=None,
            infrastructure_id=None,
            instance_id=None,
            created_at=None,
        )
        server.offers["servers"] = (view,)
        assert rows(pelagos("cloud", "servers", "east", "--all").out)[1][:4] == ["i-1", "theirs", "active", "no"]
        assert server.asked_of_clouds == [("servers", "east", True)]

    def test_a_driver_that_cannot_is_69(self, pelagos: Terminal, server: FakeServer) -> None:
        server.offers["images"] = Unsupported("it does not tell its images", advice="Look elsewhere.")
        result = pelagos("cloud", "images", "east")
        assert result.code == 69
        assert "Look elsewhere." in result.err


class TestReload:
    def test_says_what_changed(self, pelagos: Terminal, server: FakeServer) -> None:
        server.pool_change = PoolChangeView(added=("new",), changed=("east", "lab"), kept=("local",))
        pelagos.embedded = False
        result = pelagos("cloud", "reload", "east")
        assert result.out.splitlines() == ["added: new", "changed: east, lab", "1 cloud as before"]
        assert server.asked_of_clouds == [("reload", "east")]
        assert pelagos("cloud", "reload", "-o", "json").json["changed"] == ["east", "lab"]

    def test_a_broken_configuration_is_65_with_its_place(self, pelagos: Terminal, server: FakeServer) -> None:
        at = Diagnostic("there is no setting 'pol'", Position("pelagos.yaml", 1, 1))
        server.pool_change = DescriptionError("a mistake in the configuration", diagnostics=(at,))
        pelagos.embedded = False
        result = pelagos("cloud", "reload")
        assert result.code == 65
        assert "pelagos.yaml:1:1" in result.err

    def test_without_a_daemon_there_is_nothing_to_do(self, pelagos: Terminal, server: FakeServer) -> None:
        result = pelagos("cloud", "reload")
        assert result.code == 0
        assert "each command reads the configuration itself" in result.err
        assert server.asked_of_clouds == []


def test_nobody_who_serves_them_is_69(pelagos: Terminal, server: FakeServer) -> None:
    server.pool_change = Unavailable("no container of this system serves the clouds of the pool now")
    pelagos.embedded = False
    assert pelagos("cloud", "reload").code == 69
