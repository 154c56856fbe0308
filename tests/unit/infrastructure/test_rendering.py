"""From an instance to what its cloud is asked for: environment and command of containers, attributes of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelagos.clouds import CloudRejected, ServerSpec
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.asking import ATTRIBUTE, TOLD, Asked
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.records import InfrastructureRow, InstanceRow
from pelagos.services.infrastructure.rendering import Renderer, Resources
from pelagos.services.infrastructure.values import (
    AttributeMapping,
    CompiledInfrastructure,
    CompiledNode,
    Contextualisation,
    Implementation,
)


class AnyResource:
    def validate_resource(self, type: str, keys: Any, /) -> tuple[dict[str, Any], list[tuple[str | None, str]]]:
        return dict(keys), []

    def description(self, name: str, /) -> dict[str, Any]:
        return {}


def spec(context: Contextualisation) -> ServerSpec:
    compiled = CompiledInfrastructure(
        name="shop",
        nodes=(
            CompiledNode(name="web", type="t", min=1, max=1, implementations=(0,), variables={"words": "two words"}),
        ),
        definitions={"t": (Implementation(resource_type="docker", contextualisation=context),)},
    )
    instance_row = InstanceRow(
        id="i1",
        node="web",
        ordinal=0,
        state=InstanceState.PENDING,
        server_id="s1",
        account="x",
        run_id="r1",
        created_at=0.0,
        updated_at=0.0,
    )
    reality = Reality(compiled, {}, [instance_row])
    row = cast(InfrastructureRow, SimpleNamespace(id="infra-1", name="shop", compiled=compiled))
    made, _ = Renderer(cast(Resources, AnyResource())).server_spec(row, reality, reality.instances["i1"])
    return made


def docker(**fields: Any) -> ServerSpec:
    return spec(Contextualisation(type="docker", **fields))


def test_environment_and_command_reach_the_spec_rendered() -> None:
    made = docker(env=("A={{variables.words}}", "B=x=y", "C=", "A=last"), command=("echo", "{{variables.words}}"))
    assert made.env == {"A": "last", "B": "x=y", "C": ""}
    assert made.command == ("echo", "two words")
    assert made.user_data == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ()),
        ("sh -c /opt/start.sh", ("sh", "-c", "/opt/start.sh")),
        ("sh -c 'echo {{variables.words}} && exec sleep 1'", ("sh", "-c", "echo two words && exec sleep 1")),
        ((), ()),
        (("a b", "$c"), ("a b", "$c")),
    ],
)
def test_a_command_of_text_is_split_like_a_shell_does(command: Any, words: tuple[str, ...]) -> None:
    assert docker(command=command).command == words


@pytest.mark.parametrize("wrong", [{"env": ("no equals sign",)}, {"env": ("=value",)}, {"command": "sh -c 'open"}])
def test_what_has_no_form_once_rendered_is_rejected(wrong: Any) -> None:
    with pytest.raises(CloudRejected, match="node 'web'"):
        docker(**wrong)


def test_other_contexts_have_neither() -> None:
    made = spec(Contextualisation(type="cloudinit", context_template="#!/bin/sh\necho {{variables.words}}\n"))
    assert (made.env, made.command) == ({}, ())
    assert made.user_data == "#!/bin/sh\necho two words\n"


def told(template: str, config: dict[str, Any]) -> tuple[str, tuple[Asked, ...]]:
    """What a web server is told of a database, and what of that is kept."""
    mappings = tuple(
        AttributeMapping(source=source, target=f"db.{source}", dependee="db")
        for source in ("ip", "port", "url", "password", "never")
    )
    declared = {"port": 5432, "url": "db://{{ name }}"}
    compiled = CompiledInfrastructure(
        name="shop",
        nodes=(
            CompiledNode(name="db", type="d", min=1, max=1, implementations=(0,)),
            CompiledNode(
                name="web", type="w", min=1, max=1, implementations=(0,), depends_on=("db",), mappings=mappings
            ),
        ),
        definitions={
            "d": (Implementation(resource_type="any", contextualisation=Contextualisation(attributes=declared)),),
            "w": (
                Implementation(
                    resource_type="any",
                    contextualisation=Contextualisation(type="cloudinit", context_template=template),
                    config_management=config,
                ),
            ),
        },
    )
    rows = [
        InstanceRow(
            id=f"{node}-1",
            node=node,
            ordinal=1,
            state=state,
            server_id=f"s-{node}",
            account="x",
            run_id="r1",
            created_at=0.0,
            updated_at=0.0,
        )
        for node, state in (("db", InstanceState.READY), ("web", InstanceState.PENDING))
    ]
    reality = Reality(compiled, {}, rows)
    database = reality.instances["db-1"]
    database.address_list, database.attributes = ("10.0.0.7",), {"password": "secret"}
    row = cast(InfrastructureRow, SimpleNamespace(id="infra-1", name="shop", compiled=compiled))
    made, asked = Renderer(cast(Resources, AnyResource())).server_spec(row, reality, reality.instances["web-1"])
    return made.user_data, asked


ALL_TOLD = (
    Asked(ATTRIBUTE, "db", "10.0.0.7", "ip"),
    Asked(ATTRIBUTE, "db", 5432, "port"),
    Asked(ATTRIBUTE, "db", TOLD, "url", "db-1"),
    Asked(ATTRIBUTE, "db", TOLD, "password", "db-1"),
)


def test_attributes_that_an_instance_is_told_are_kept_with_it_but_no_secrets() -> None:
    template = "#!/bin/sh\n{{ attributes.db.ip }} {{ attributes.db.port }} {{ attributes.db.url }}\n"
    text, asked = told(template, {})
    assert text == "#!/bin/sh\n10.0.0.7 5432 db://db\n"
    assert asked == ALL_TOLD


def test_configuration_managers_are_told_all_attributes_and_other_instances_none() -> None:
    text, asked = told("", {"type": "chef", "endpoint": "https://chef.example.org", "run_list": ["recipe[web]"]})
    assert "secret" in text and asked == ALL_TOLD
    assert told("#!/bin/sh\n{{ getip('db') }}\n", {})[1] == (Asked("getip", "db", "10.0.0.7"),)


def test_what_is_asked_of_the_info_broker_is_kept_like_any_other_question() -> None:
    one = told("#!/bin/sh\n{{ find_node_id('db').node_id }}\n", {})
    assert told("#!/bin/sh\n{{ ibget('node.find_one', infra_id, name='db').node_id }}\n", {}) == one
    text, (asked,) = told("#!/bin/sh\n{{ ibget('node.find', infra_id, None, 'db') | length }}\n", {})
    assert text == "#!/bin/sh\n1\n"
    assert (asked.function, asked.node, asked.answer) == ("node.find", "db", [one[1][0].answer])
    assert told("#!/bin/sh\n{{ ibget('infrastructure.name', infra_id) }}\n", {})[1] == ()
