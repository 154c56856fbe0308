"""From an instance to what its cloud is asked for: environment and command of containers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelagos.clouds import CloudRejected, ServerSpec
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.records import InfrastructureRow, InstanceRow
from pelagos.services.infrastructure.rendering import Renderer
from pelagos.services.infrastructure.values import (
    CompiledInfrastructure,
    CompiledNode,
    Contextualisation,
    Implementation,
)


class AnyResource:
    def validate_resource(self, type: str, keys: Any, /) -> tuple[dict[str, Any], list[tuple[str | None, str]]]:
        return dict(keys), []


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
    return Renderer(AnyResource()).server_spec(row, reality, reality.instances["i1"])


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
        ("sh -c /root/start.sh", ("sh", "-c", "/root/start.sh")),
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
