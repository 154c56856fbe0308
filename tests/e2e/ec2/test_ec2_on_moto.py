"""Infrastructures of EC2 instances built, healed, changed and taken down by commands, asked of moto itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.moto_server import MotoServer, moto_server

pytestmark = pytest.mark.e2e

INFRASTRUCTURE = """\
infra_name: shop
user_id: test
nodes:
  - &STORE {name: store, type: store_node}
  - &WEB {name: web, type: web_node, scaling: {min: 2, max: 4}}
dependencies:
  - connection: [*WEB, *STORE]
"""
NODES = """\
'node_def:store_node':
  - resource:
      type: ec2
      endpoint: "%(endpoint)s"
      regionname: us-east-1
      image_id: ami-12c6146b
      instance_type: t3.small
      tags: {role: store}
      volumes: [{size: 2}, {size: 1, type: gp3}]
      elastic_ip: true
      security_group: {ingress: [{ports: 5432}]}
    contextualisation:
      type: cloudinit
      context_template: |
        #cloud-config
        hostname: store
    health_check: {ping: false}
'node_def:web_node':
  - resource:
      type: ec2
      endpoint: "%(endpoint)s"
      regionname: us-east-1
      image_id: ami-12c6146b
      instance_type: t3.micro
      key_pair: {name: shop, public_key: "%(key)s"}
    contextualisation:
      type: cloudinit
      context_template: |
        #cloud-config
        runcmd: [["echo", "{{getprivip('store')}}"]]
    health_check: {ping: false}
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2bVwqEYc0WgJ9S5k7m0oVh1m3oG1WmQmN5yTtq3b4E tester"
POOL = """\
pool:
  - name: aws
    driver: ec2
    options:
      endpoint: "%(endpoint)s"
      region: us-east-1
      access_key: testing
      secret_key: very-secret-indeed
      settle: 1.0
      poll_interval: 0.2
"""


@dataclass
class Desk:
    """A directory with an infrastructure, its nodes and a configuration, and a way to run commands there."""

    directory: Path
    environ: dict[str, str]
    moto: MotoServer

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pelagos", *arguments],
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def types(self) -> list[str]:
        """The instance types of what runs in the cloud, sorted."""
        said = self.moto.ask(
            "DescribeInstances", **{"Filter.1.Name": "instance-state-name", "Filter.1.Value.1": "running"}
        )
        return sorted(re.findall("<instanceType>(.*?)</instanceType>", said))

    def store(self) -> str:
        """The instance of the node `store` that runs."""
        said = self.moto.ask(
            "DescribeInstances",
            **{"Filter.1.Name": "tag:role", "Filter.1.Value.1": "store"},
            **{"Filter.2.Name": "instance-state-name", "Filter.2.Value.1": "running"},
        )
        (one,) = re.findall("<instanceId>(.*?)</instanceId>", said)
        return str(one)

    def assert_the_store_has_its_parts(self) -> str:
        """Two volumes besides its root's, an address and a security group; nobody else has any. The address."""
        store = self.store()
        volumes = self.moto.ask(
            "DescribeVolumes", **{"Filter.1.Name": "attachment.instance-id", "Filter.1.Value.1": store}
        )
        assert sorted(re.findall("<size>(.*?)</size>", volumes)) == ["1", "2", "8"]
        said = self.moto.ask("DescribeInstances", **{"InstanceId.1": store})
        there = self.moto.beside()
        (group,) = there["groups"]
        assert f"<groupName>{group}</groupName>" in said
        assert len(there["volumes"]) == len(self.types()) + 2
        addresses = self.moto.ask("DescribeAddresses")
        assert re.findall("<instanceId>(.*?)</instanceId>", addresses) == [store]
        (address,) = re.findall("<publicIp>(.*?)</publicIp>", addresses)
        assert f"<ipAddress>{address}</ipAddress>" in said
        return str(address)


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, moto: MotoServer) -> Desk:
    moto.reset()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PELAGOS_", "AWS_"))}
    environ |= {"PELAGOS_HOME": str(tmp_path / "home"), "PELAGOS_CONFIG": str(tmp_path / "pelagos.yaml")}
    values = {"endpoint": moto.url, "key": KEY}
    (tmp_path / "pelagos.yaml").write_text(POOL % values)
    (tmp_path / "shop.yaml").write_text(INFRASTRUCTURE)
    (tmp_path / "nodes.yaml").write_text(NODES % values)
    return Desk(tmp_path, environ, moto)


def test_built_healed_changed_and_nothing_left(desk: Desk) -> None:
    built = desk("up", "shop.yaml", "nodes.yaml")
    assert built.returncode == 0, built.stderr
    assert desk.types() == ["t3.micro", "t3.micro", "t3.small"]
    tags = desk.moto.ask("DescribeTags")
    for text in (
        "<key>role</key>",
        "<value>store</value>",
        "<key>pelagos:token</key>",
        "<key>pelagos:infrastructure</key>",
    ):
        assert text in tags
    assert desk.moto.beside()["key pairs"] == {"shop"}
    address = desk.assert_the_store_has_its_parts()
    status = json.loads(desk("status", "shop", "-o", "json").stdout)
    assert address in json.dumps(status["nodes"]["store"]["instances"])
    first = desk.moto.beside()

    (victim, *_) = re.findall(
        "<instanceId>(.*?)</instanceId>",
        desk.moto.ask("DescribeInstances", **{"Filter.1.Name": "instance-type", "Filter.1.Value.1": "t3.micro"}),
    )
    victims = {victim, desk.store()}
    for one in victims:
        desk.moto.ask("TerminateInstances", **{"InstanceId.1": one})
    assert desk.types() == ["t3.micro"]
    healed = desk("maintain", "shop", "--once")
    assert healed.returncode in (0, 3), healed.stderr
    assert desk.types() == ["t3.micro", "t3.micro", "t3.small"]
    assert not victims & set(desk.moto.instances())
    told = desk("maintain", "shop", "--once")
    assert told.returncode == 3, "what was told the address of the store that is gone is not as described"
    assert "getprivip('store') was" in told.stdout
    refreshed = desk("up", "shop.yaml", "nodes.yaml", "--yes")
    assert refreshed.returncode == 0, refreshed.stderr
    assert desk("maintain", "shop", "--once").returncode == 0
    desk.assert_the_store_has_its_parts()
    assert not first["addresses"] & desk.moto.beside()["addresses"], "the parts went with their server"

    grown = desk("scale", "shop", "web", "3")
    assert grown.returncode == 0, grown.stderr
    assert desk.types() == ["t3.micro"] * 3 + ["t3.small"]

    down = desk("down", "shop", "--yes")
    assert (down.returncode, down.stdout) == (0, "shop is gone.\n"), down.stderr
    assert desk.moto.instances() == {}
    assert desk.moto.beside() == {"volumes": set(), "addresses": set(), "groups": set(), "key pairs": set()}
    for one in (built, healed, grown, down):
        assert "very-secret-indeed" not in one.stdout + one.stderr


def test_the_files_of_the_reference_are_built_as_they_stand(desk: Desk) -> None:
    """But for the endpoint and the key."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "ec2.md").read_text()
    files = dict(re.findall(r"```\{code-block\} yaml\n:caption: (\S+)\n(.*?)```", page, re.DOTALL))
    assert sorted(files) == ["node-definitions.yaml", "pelagos.yaml", "shop.yaml"]
    for name, text in files.items():
        text = text.replace("https://ec2.eu-west-1.amazonaws.com", desk.moto.url)
        text = re.sub(r"\{env: \w+\}", "testing", text)
        text = text.replace(
            "      region:", f'      endpoint: "{desk.moto.url}"\n      poll_interval: 0.2\n      region:'
        )
        (desk.directory / name).write_text(text)
    built = desk("up", "shop.yaml", "node-definitions.yaml")
    assert built.returncode == 0, built.stderr
    assert desk.moto.ask("DescribeInstances", region="eu-west-1").count("<key>team</key>") == 2
    assert desk("down", "shop", "--yes").returncode == 0
    assert "<name>running</name>" not in desk.moto.ask("DescribeInstances", region="eu-west-1")


def test_a_wrong_key_of_a_resource_is_told_with_its_line(desk: Desk) -> None:
    nodes = desk.directory / "nodes.yaml"
    nodes.write_text(nodes.read_text().replace("instance_type: t3.small", "instance_typ: t3.small"))
    planned = desk("plan", "shop.yaml", "nodes.yaml")
    assert planned.returncode == 65
    assert "nodes.yaml:7:" in planned.stderr
    assert "did you mean 'instance_type'" in planned.stderr
    assert desk.moto.instances() == {}
