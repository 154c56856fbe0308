"""Chef and Puppet as contextualisation: what user data becomes; attributes that are declared, mapped, looked up."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from pelagos.clouds.values import CommandResult
from pelagos.model.errors import DescriptionError
from pelagos.model.world import SystemWorld
from pelagos.services.infrastructure.attributes import (
    FILE,
    MISSING,
    declared_in,
    look_up,
    place,
    reported_by,
    told_at_once,
)
from pelagos.services.infrastructure.health import NetworkProber, ProbeTarget
from pelagos.services.infrastructure.templates import TemplateData, render_implementation
from pelagos.services.infrastructure.values import Contextualisation, HealthCheck, Implementation

CHEF = {"type": "chef", "endpoint": "https://chef.example.org/organizations/shop", "run_list": ["recipe[wordpress]"]}
PUPPET = {
    "type": "puppet_solo",
    "manifests": ["https://example.org/site.pp", "file { '/etc/made': content => 'x' }", "/opt/image/base.pp"],
    "modules": ["puppetlabs-stdlib", "https://example.org/own.tar.gz"],
    "attributes": [{"role": "{{ variables.role }}"}, {"port": 80}],
}


def rendered(
    config: dict[str, Any], template: Any = "", *, attributes: dict[str, Any] | None = None, kind: str = "cloudinit"
) -> str:
    text, mapping = (template, None) if isinstance(template, str) else ("", template)
    own = {"wordpress": {"db": {"name": "{{ variables.database }}"}}}
    implementation = Implementation(
        resource_type="simulated",
        contextualisation=Contextualisation(
            type=kind, context_template=text, context_mapping=mapping, attributes=own, env=("A=b",), command="run"
        ),
        config_management=config,
    )
    data = TemplateData(
        infra_id="infra",
        infra_name="shop",
        node_id="node-1",
        name="web",
        type="web_node",
        variables={"database": "wp", "role": "front"},
        attributes=attributes or {},
    )
    return render_implementation(implementation, data).user_data


def document(user_data: str) -> dict[str, Any]:
    assert user_data.startswith("#cloud-config\n")
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 1)
    found: dict[str, Any] = reader.load(io.StringIO(user_data))
    return found


def written(user_data: str) -> dict[str, str]:
    return {one["path"]: one["content"] for one in document(user_data)["write_files"]}


def test_chef_gets_run_list_and_attributes_as_json() -> None:
    user_data = rendered(CHEF, attributes={"wordpress": {"db": {"host": "db-1"}}})
    files = written(user_data)
    assert json.loads(files["/var/lib/pelagos/chef/dna.json"]) == {
        "run_list": ["recipe[wordpress]"],
        "wordpress": {"db": {"name": "wp", "host": "db-1"}},
    }
    assert f"chef_server_url '{CHEF['endpoint']}'" in files["/var/lib/pelagos/chef/client.rb"]
    assert "--local-mode" not in files["/var/lib/pelagos/configure.sh"]
    assert document(user_data)["runcmd"] == [["sh", "/var/lib/pelagos/configure.sh"]]
    assert {one["permissions"] for one in document(user_data)["write_files"]} == {"0600"}


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://example.org/cookbooks.tar.gz", "--local-mode --recipe-url https://example.org/cookbooks.tar.gz"),
        ("file:///srv/cookbooks", "--local-mode"),
    ],
)
def test_chef_without_a_server(endpoint: str, expected: str) -> None:
    files = written(rendered({**CHEF, "endpoint": endpoint}))
    assert expected in files["/var/lib/pelagos/configure.sh"]
    directory = "/srv/cookbooks" if endpoint.startswith("file") else "/var/lib/pelagos/chef/cookbooks"
    assert f"cookbook_path '{directory}'" in files["/var/lib/pelagos/chef/client.rb"]


def test_a_template_with_a_chef_section_is_given_what_it_lacks() -> None:
    template = {"chef": {"server_url": "https://chef.example.org"}, "runcmd": [["chef-client"]]}
    found = document(rendered(CHEF, template, attributes={"a": 1}))
    assert found["chef"] == {
        "server_url": "https://chef.example.org",
        "run_list": ["recipe[wordpress]"],
        "initial_attributes": {"a": 1, "wordpress": {"db": {"name": "wp"}}},
    }
    assert found["runcmd"] == [["chef-client"]]
    assert "write_files" not in found


def test_puppet_applies_manifests_with_modules_and_facts() -> None:
    template = "#cloud-config\nruncmd: [first]\nwrite_files:\n- {path: /a, permissions: 0755, content: yes}\n"
    user_data = rendered(PUPPET, template, attributes={"db": {"host": "db-1"}})
    files = written(user_data)
    assert json.loads(files["/etc/facter/facts.d/pelagos.json"]) == {
        "role": "front",
        "port": 80,
        "wordpress": {"db": {"name": "wp"}},
        "db": {"host": "db-1"},
    }
    assert files["/var/lib/pelagos/puppet/manifests/01.pp"] == "file { '/etc/made': content => 'x' }\n"
    lines = files["/var/lib/pelagos/configure.sh"].splitlines()
    applied = [line.rpartition(" ")[2] for line in lines if line.startswith("puppet apply ")]
    assert applied == [
        "/var/lib/pelagos/puppet/manifests/00.pp",
        "/var/lib/pelagos/puppet/manifests/01.pp",
        "/opt/image/base.pp",
    ]
    installed = [line.rpartition(" ")[2] for line in lines if line.startswith("puppet module install ")]
    assert installed == ["puppetlabs-stdlib", "/var/lib/pelagos/puppet/module-1.tar.gz"]
    assert document(user_data)["runcmd"] == ["first", ["sh", "/var/lib/pelagos/configure.sh"]]
    theirs = next(one for one in document(user_data)["write_files"] if one["path"] == "/a")
    assert (theirs["permissions"], theirs["content"]) == (0o755, True)


def test_a_template_that_runs_puppet_itself_is_left_to_it() -> None:
    template = "#cloud-config\nruncmd:\n- \"run '{{ puppet.manifests }}' '{{ puppet.attributes }}'\"\n"
    found = document(rendered({**PUPPET, "manifests": ["a.pp", "b.pp"]}, template))
    assert found == {"runcmd": ["run 'a.pp b.pp' 'role: front port: 80'"]}


def test_a_script_runs_before_the_manager() -> None:
    found = document(rendered(CHEF, "#!/bin/sh\necho {{ name }}\n"))
    assert found["runcmd"] == [["/var/lib/pelagos/user-script"], ["sh", "/var/lib/pelagos/configure.sh"]]
    script = next(one for one in found["write_files"] if one["path"] == "/var/lib/pelagos/user-script")
    assert (script["content"], script["permissions"]) == ("#!/bin/sh\necho web\n", "0700")


@pytest.mark.parametrize("user_data", ["Content-Type: multipart/mixed\n", "#cloud-config\n[1]\n"])
def test_what_nothing_can_be_added_to_is_a_mistake(user_data: str) -> None:
    with pytest.raises(DescriptionError):
        rendered(CHEF, user_data)


def test_nothing_is_added_where_there_is_no_manager_or_no_user_data() -> None:
    assert rendered({}, "#!/bin/sh\n") == rendered({"type": "dummy"}, "#!/bin/sh\n") == "#!/bin/sh\n"
    assert rendered(CHEF, kind="docker") == ""


def test_mapped_attributes_are_known_to_every_template() -> None:
    text = rendered({}, "#!/bin/sh\necho {{ attributes.app.db.host }}\n", attributes={"app": {"db": {"host": "d"}}})
    assert text == "#!/bin/sh\necho d\n"
    with pytest.raises(DescriptionError, match="app"):
        rendered({}, "#!/bin/sh\necho {{ attributes.app.db.host }}\n")


def test_dotted_names() -> None:
    values = {"a": {"b": {"c": 1}}, "x.y": {"z": 2}, "n": None}
    assert [look_up(values, name) for name in ("a.b.c", "x.y", "x.y.z", "n")] == [1, {"z": 2}, 2, None]
    assert all(look_up(values, name) is MISSING for name in ("a.c", "a.b.c.d", "b", "", "x"))
    placed: dict[str, Any] = {"a": 1}
    place(placed, "a.b", 2)
    place(placed, "c", 3)
    assert placed == {"a": {"b": 2}, "c": 3}


def test_what_is_known_without_asking() -> None:
    implementation = Implementation(
        resource_type="local",
        contextualisation=Contextualisation(attributes={"mysql": {"port": 3306}}),
        config_management={"type": "puppet_solo", "attributes": [{"role": "db"}, {"mysql": {"user": "u"}}]},
    )
    told = [told_at_once(name, implementation) for name in ("fqdn", "mysql.port", "mysql.user", "role", "password")]
    assert told == [True, True, True, True, False]
    assert declared_in({"mysql": {"port": 3306}}, implementation.config_management) == {
        "mysql": {"port": 3306, "user": "u"},
        "role": "db",
    }
    assert told_at_once("ip", None) and not told_at_once("mysql.port", None)
    stand_in = Implementation(resource_type="ec2", built_on="rehearsal")
    assert told_at_once("password", stand_in), "what stands in for it never reports anything"


def test_what_an_instance_reports_is_an_object() -> None:
    assert reported_by('{"a": 1}') == {"a": 1}
    for text in ("", "[]", "{", "3"):
        with pytest.raises(ValueError, match="not a JSON object"):
            reported_by(text)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("result", "healthy", "reason"),
    [
        (CommandResult(0, '{"secret": {"password": "x"}, "token": null}'), True, ""),
        (CommandResult(0, '{"secret": {}, "token": 1}'), False, "it has not reported secret.password yet"),
        (CommandResult(1, "cat: no such file"), False, "it has not reported secret.password, token yet"),
        (CommandResult(0, "[]"), False, "is not a JSON object"),
    ],
)
async def test_an_instance_is_not_well_before_it_has_reported(
    result: CommandResult, healthy: bool, reason: str
) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    async def execute(server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        asked.append((server_id, argv))
        return result

    async def owns(server_id: str, address: str, port: int) -> bool | None:
        return None

    prober = NetworkProber(SystemWorld(), execute, owns)
    check = HealthCheck(ping=False, attributes=("secret.password", "token"))
    verdict = await prober.check(check, ProbeTarget(server_id="server-1", address="192.0.2.1"))
    assert verdict.healthy is healthy
    assert reason in verdict.reason
    assert asked == [("server-1", ("cat", FILE))]
