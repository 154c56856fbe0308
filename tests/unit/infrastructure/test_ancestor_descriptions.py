"""Descriptions that other people wrote for the ancestor compile and render as they are.

They are read where a checkout of them is found (``PELAGOS_TEST_OCCOPUS`` names its directory), and never copied here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pelagos.clients.bundle import read_bundle
from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_definitions, compile_description
from pelagos.services.infrastructure.templates import (
    InstanceInfo,
    TemplateData,
    render_health_check,
    render_implementation,
)
from support.usable_types import only

CORPUS = Path(
    os.environ.get("PELAGOS_TEST_OCCOPUS", Path(__file__).parents[4] / "shared" / "corpus" / "occopus")
).resolve()
NAMES = [
    *(
        "autoscaling-dataavenue",
        "azure-aci-nginx",
        "chef-wordpress",
        "docker-helloworld",
        "docker-ping",
        "ec2-helloworld",
    ),
    *("ec2-ping", "flowbster-autodock-vina", "nova-ping", "spark-cluster-with-r"),
]
TYPES = ("ec2", "nova", "azure_aci", "docker")

pytestmark = [
    pytest.mark.usefixtures("parser"),
    pytest.mark.skipif(
        not CORPUS.is_dir(), reason=f"the ancestor's examples are not at {CORPUS} (set PELAGOS_TEST_OCCOPUS)"
    ),
]


def bundle(name: str) -> tuple[dict[str, str], list[str]]:
    (infra,) = (CORPUS / name).glob("infra*.yaml")
    return read_bundle([infra, CORPUS / name / "nodes" / "node_definitions.yaml"])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_compiles_without_a_warning_of_ours(name: str) -> None:
    sources, entries = bundle(name)
    result = compile_description(sources, entries, unusable=only(*TYPES))
    assert result.compiled.nodes
    assert all(node.implementations == (0,) for node in result.compiled.nodes)
    assert [item.summary for item in result.warnings] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_renders(name: str) -> None:
    compiled = compile_description(*bundle(name), unusable=only(*TYPES)).compiled
    instances = {
        node.name: [
            InstanceInfo(node_id=f"{node.name}-{index}", addresses=[f"192.0.2.{10 * place + index}"])
            for index in range(2)
        ]
        for place, node in enumerate(compiled.nodes)
    }
    for node in compiled.nodes:
        implementation = compiled.definitions[node.type][0]
        data = TemplateData.for_node(
            node, infra_id="0f0f", infra_name=compiled.name, node_id="1234", instances=instances
        )
        rendered = render_implementation(implementation, data)
        assert "{{variables" not in rendered.user_data
        assert not {"type", "name", "endpoint"} & set(rendered.options)
        if rendered.user_data:
            assert rendered.user_data.startswith("#cloud-config\n")
            assert YAML(typ="safe", pure=True).load(rendered.user_data)
        check = render_health_check(implementation.health_check, "192.0.2.1", data, implementation)
        assert "{{" not in "".join(check.urls)


def test_what_some_of_them_say() -> None:
    compiled = compile_description(*bundle("nova-ping"), unusable=only(*TYPES)).compiled
    sender = compiled.nodes[1]
    data = TemplateData.for_node(
        sender,
        infra_id="i",
        infra_name="n",
        node_id="x",
        instances={"ping-receiver": [InstanceInfo(node_id="y", addresses=["192.0.2.7"])]},
    )
    text = render_implementation(compiled.definitions[sender.type][0], data).user_data
    read = YAML(typ="safe", pure=True).load(text)
    assert read["runcmd"] == ["ping 192.0.2.7 -c 5 > /tmp/ping-result.txt 2>&1"]
    assert read["write_files"] == [
        {
            "content": "Hello World! I am the sender node created by Occopus.\n",
            "path": "/tmp/message.txt",
            "permissions": "0644",
        }
    ]

    compiled = compile_description(*bundle("flowbster-autodock-vina"), unusable=only(*TYPES)).compiled
    assert [(node.name, node.min, node.max) for node in compiled.nodes] == [
        ("GENERATOR", 1, 1),
        ("VINA", 5, 5),
        ("COLLECTOR", 1, 1),
    ]
    collector = compiled.nodes[2]
    out = collector.variables["flowbster"]["app"]["out"][0]
    assert (out["targetip"], out["targetport"]) == ("UNDEFINED", 5001)


def test_without_the_definitions_each_node_is_named() -> None:
    (infra,) = (CORPUS / "nova-ping").glob("infra*.yaml")
    with pytest.raises(DescriptionError) as caught:
        compile_description(*read_bundle([infra]), unusable=only(*TYPES))
    assert [item.position.line for item in caught.value.diagnostics if item.position] == [7, 12]


@pytest.mark.parametrize("name", NAMES)
def test_the_definitions_alone_can_be_imported(name: str) -> None:
    sources, entries = read_bundle([CORPUS / name / "nodes" / "node_definitions.yaml"])
    assert compile_definitions(sources, entries).definitions
