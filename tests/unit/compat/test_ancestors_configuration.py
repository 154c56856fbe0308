"""The old configuration file: plain data by an allow-list, every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.compat.configuration import find_file, is_ancestors, read_configuration, rest_address
from pelagos.compat.errors import ConfigurationError

STOCK = """\
plugins: !python_import
  - occo.infobroker
  - occo.plugins.resourcehandler.ec2
components:
  rest: {host: 127.0.0.1, port: 5001}
  resourcehandler: !ResourceHandler &rh
    protocol: null
  uds: !UDS &uds {protocol: redis, host: localhost, altdbs: {node_def: 1}}
  infobroker: !InfoRouter
    sub_providers:
      - !DynamicStateProvider
        resource_handler: *rh
      - !SynchronizationProvider
      - *uds
logging:
  version: 1
  handlers:
    console: {class: logging.StreamHandler, stream: ext://sys.stdout}
"""


def test_tags_become_plain_data_and_make_nothing(tmp_path: Path) -> None:
    path = tmp_path / "occopus_config.yaml"
    path.write_text(STOCK)
    data = read_configuration(path)
    assert data["plugins"] == ["occo.infobroker", "occo.plugins.resourcehandler.ec2"]
    uds = {"tag": "!UDS", "protocol": "redis", "host": "localhost", "altdbs": {"node_def": 1}}
    handler = {"tag": "!ResourceHandler", "protocol": None}
    assert data["components"]["infobroker"] == {
        "tag": "!InfoRouter",
        "sub_providers": [
            {"tag": "!DynamicStateProvider", "resource_handler": handler},
            {"tag": "!SynchronizationProvider"},
            uds,
        ],
    }
    assert is_ancestors(data)
    assert rest_address(data) == ("127.0.0.1", 5001)
    assert data["logging"]["handlers"]["console"]["class"] == "logging.StreamHandler"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [touch made]", "!Popen [touch, made]", "!!set {a}"])
def test_any_other_tag_is_a_mistake_with_its_place(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "occopus_config.yaml"
    path.write_text(f"components:\n  uds: {tag}\n")
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(path)
    assert [(found.position.line, found.position.column) for found in caught.value.diagnostics if found.position] == [
        (2, 8)
    ]


def test_imports_are_of_files_and_cannot_go_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("secret\n")
    (tmp_path / "rest.yaml").write_text("host: 127.0.0.1\nkey: !text_import {url: file://key.pem}\n")
    path = tmp_path / "config.yaml"
    path.write_text("components:\n  rest: !yaml_import\n    url: file://rest.yaml\n")
    assert read_configuration(path) == {"components": {"rest": {"host": "127.0.0.1", "key": "secret\n"}}}
    for text in ("file://config.yaml", "file://nowhere.yaml", "http://example.org/a"):
        path.write_text(f"components: !yaml_import {{url: '{text}'}}\n")
        with pytest.raises(ConfigurationError):
            read_configuration(path)


def test_where_files_are_looked_for(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert find_file(None, "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ) is None
    usual = tmp_path / ".occopus" / "occopus_config.yaml"
    usual.parent.mkdir()
    usual.write_text("")
    assert find_file(None, "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ) == usual
    named = tmp_path / "other.yaml"
    named.write_text("")
    environ["OCCOPUS_CONFIG_PATH"] = str(named)
    assert find_file(None, "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ) == named
    assert find_file(usual, "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ) == usual
    with pytest.raises(ConfigurationError):
        find_file(tmp_path / "nothing", "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ)


@pytest.mark.parametrize("port", ["many", 70000, -1, None])
def test_an_address_that_is_none_is_told(port: object) -> None:
    with pytest.raises(ConfigurationError):
        rest_address({"components": {"rest": {"port": port}}})
