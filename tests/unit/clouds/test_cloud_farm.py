"""The ancestor's ``CLOUD_FARM``: each entry is an account with the driver that speaks to the same cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pelagos.clouds.cloudfarm import ENGINES, read_cloud_farm
from pelagos.model.diagnostics import Diagnostic

FARM = """\
CLOUD_FARM:
  default:
    ENGINE: openstack
    USER: svc
    PASSWORD: {env: LAB_PASSWORD}
    EXTRA_PARAMS:
      ex_force_auth_url: http://keystone.example:5000
      ex_force_auth_version: 2.0_password
      ex_tenant_name: lab
      ex_force_service_region: RegionOne
  fake_driver: {ENGINE: dummy}
  euca: {ENGINE: eucalyptus, USER: AK, PASSWORD: SK, EXTRA_PARAMS: {host: euca.example, port: 8773, secure: false}}
  dublin: {ENGINE: ec2_eu_west, USER: AK, PASSWORD: SK}
"""


def read(path: Path, text: str) -> tuple[list, list[Diagnostic]]:
    path.write_text(text)
    mistakes: list[Diagnostic] = []
    return read_cloud_farm(path, mistakes), mistakes


def test_each_entry_becomes_an_account(tmp_path: Path) -> None:
    accounts, mistakes = read(tmp_path / "farm.yaml", FARM)
    assert mistakes == []
    default, fake, euca, dublin = accounts
    assert (default.name, default.driver, default.default) == ("default", "openstack", True)
    assert default.credentials == {"username": "svc", "password": {"env": "LAB_PASSWORD"}}
    assert default.options == {
        "project_name": "lab",
        "region": "RegionOne",
        "endpoint": "http://keystone.example:5000",
    }
    assert (fake.name, fake.driver, fake.options, fake.credentials) == ("fake-driver", "dummy", {}, {})
    assert euca.driver == "eucalyptus"
    assert euca.options["endpoint"] == "http://euca.example:8773/services/Eucalyptus"
    assert dublin.options == {"region": "eu-west-1"}
    assert dublin.credentials == {"access_key": "AK", "secret_key": "SK"}
    assert [account.provenance.source for account in accounts] == ["the cloud farm farm.yaml"] * 4


def test_json_without_the_name_around_it_does_too(tmp_path: Path) -> None:
    text = json.dumps({"sandbox": {"ENGINE": "dummy"}})
    [account], mistakes = read(tmp_path / "farm.json", text)
    assert mistakes == []
    assert account.name == "sandbox"


@pytest.mark.parametrize("label", sorted(ENGINES))
def test_every_engine_of_the_ancestor_has_a_driver(tmp_path: Path, label: str) -> None:
    [account], mistakes = read(tmp_path / "farm.yaml", f"one: {{ENGINE: {label}, USER: u, PASSWORD: p}}\n")
    assert mistakes == []
    assert account.driver in ("dummy", "openstack", "ec2", "eucalyptus", "rackspace")
    assert set(account.credentials.values()) == ({"u", "p"} if label != "dummy" else set())


def test_mistakes_have_places_and_show_no_line(tmp_path: Path) -> None:
    text = (
        "a: {ENGINE: openstak, PASSWORD: hunter2}\nb: {USER: x}\nc: 3\n"
        "d: {ENGINE: dummy, PASWORD: hunter2}\ne: {ENGINE: ec2_us_east, EXTRA_PARAMS: {proxy: x}}\n"
    )
    _, mistakes = read(tmp_path / "farm.yaml", text)
    assert [str(one.position).rpartition("farm.yaml:")[2] for one in mistakes] == [
        "1:5",
        "2:1",
        "3:1",
        "4:20",
        "5:41",
    ]
    assert "Did you mean 'openstack'?" in mistakes[0].advice
    assert "Did you mean 'PASSWORD'?" in mistakes[3].advice
    assert all(one.source == "" for one in mistakes)


def test_a_file_makes_no_objects(tmp_path: Path) -> None:
    _, mistakes = read(tmp_path / "farm.yaml", "a: !!python/object/apply:os.system [true]\n")
    assert any("means nothing here" in one.summary for one in mistakes)


ASSIGNED = """\
# The clouds of the laboratory.
CLOUD_FARM = {
    "default": {"ENGINE": "openstack", "USER": "svc", "PASSWORD": {"env": "LAB_PASSWORD"},
                "EXTRA_PARAMS": {"ex_force_auth_url": "http://keystone.example" + "",
                                 "ex_tenant_name": "lab"}},
    'fake': {'ENGINE': 'dummy'},
}
"""


def places(mistakes: list[Diagnostic]) -> list[tuple[int, int]]:
    return [(one.position.line, one.position.column) for one in mistakes if one.position is not None]


def place(text: str, part: str) -> tuple[int, int]:
    """Where the last of such a part begins."""
    before = text[: text.rindex(part)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@pytest.mark.parametrize("name", ["CLOUD_FARM =", "CLOUD_FARM=", "\ufeffCLOUD_FARM: dict[str, dict] ="])
def test_the_assignment_of_the_ancestors_settings_is_read(tmp_path: Path, name: str) -> None:
    text = ASSIGNED.replace(' + ""', "").replace("CLOUD_FARM =", name).removeprefix("# The clouds of the laboratory.\n")
    (default, fake), mistakes = read(tmp_path / "settings.py", text)
    assert mistakes == []
    assert (default.name, default.driver) == ("default", "openstack")
    assert default.options == {"project_name": "lab", "endpoint": "http://keystone.example"}
    assert default.credentials == {"username": "svc", "password": {"env": "LAB_PASSWORD"}}
    assert (fake.name, fake.driver) == ("fake", "dummy")
    assert fake.provenance.diagnostic("driver", "x").position is not None


def test_mistakes_in_an_assignment_have_places(tmp_path: Path) -> None:
    text = (
        "CLOUD_FARM = {\n  'é': {'ENGINE': 'openstak', 'PASSWORD': 'hunter2'},\n  'b': {'ENGINE': 'dummy', 'USR': 1}}\n"
    )
    _, mistakes = read(tmp_path / "settings.py", text)
    assert places(mistakes) == [place(text, "'ENGINE': 'openstak'"), place(text, "'USR'")]
    assert "Did you mean 'openstack'?" in mistakes[0].advice
    assert all(one.source == "" for one in mistakes)


def test_nothing_of_an_assignment_is_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    text = (
        f"import os\nos.mkdir({str(made)!r})\nCLOUD_FARM = {{\n"
        f"  'a': {{'ENGINE': 'ec2_us_east', 'USER': os.environ['AK'], 'PASSWORD': os.mkdir({str(made)!r})}},\n"
        "  'b': {'ENGINE': 'dummy', 'USER': b'bytes'}, **more, 'a': {},\n}\nCLOUD_FARM = {}\n"
    )
    _, mistakes = read(tmp_path / "settings.py", text)
    assert not made.exists()
    assert places(mistakes) == [
        (1, 1),
        (2, 1),
        *(place(text, part) for part in ("os.environ", "os.mkdir", "b'bytes'", "more", "'a'", "CLOUD_FARM")),
    ]
    assert "alone to a file of its own" in mistakes[0].advice
    assert '{"env": "NAME"}' in mistakes[2].advice
    assert all(one.source == "" and one.advice for one in mistakes)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("CLOUD_FARM = {\n  'a': {'ENGINE': 'dummy' 'USER': 1}}\n", 2),
        ("CLOUD_FARM = {'a': " + "[" * 500 + "]" * 500 + "}", 1),
        ("CLOUD_FARM = " + "-" * 100_000 + "1", 1),
        ("CLOUD_FARM = 3", 1),
        ("CLOUD_FARM = ''\0", 1),
    ],
)
def test_an_assignment_that_cannot_be_read_is_a_mistake(tmp_path: Path, text: str, line: int) -> None:
    accounts, mistakes = read(tmp_path / "settings.py", text)
    assert accounts == []
    assert len(mistakes) == 1
    assert [place[0] for place in places(mistakes)] == [line]


def test_an_expression_is_no_literal(tmp_path: Path) -> None:
    _, mistakes = read(tmp_path / "settings.py", ASSIGNED)
    assert places(mistakes) == [place(ASSIGNED, '"http://keystone')]
