"""Configuration management as contextualisation (reference, section 4.10): Chef and Puppet without their servers.

The ancestor registered instances with a Chef server, or left it to each template to run Puppet by shell lines. Here the
manager is told inside the instance, by user data, so that it works on every cloud that has user data: files with run
list, attributes and manifests, and one script, run after what the template itself does, that installs the manager from
the distribution's packages if it is not there, and runs it.

Templates that do it themselves are left to: one that reads ``puppet.manifests`` and the like runs Puppet itself; a
cloud-config with a ``chef`` section is given run list and attributes there, for cloud-init's own Chef module.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pelagos.services.infrastructure.templates.dump import dump

__all__ = ["configured", "puppet_names"]

_HOME = "/var/lib/pelagos"
_INSTALL = """\
install() {
  command -v "$1" >/dev/null 2>&1 && return 0
  if command -v apt-get >/dev/null 2>&1; then apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "$2"
  elif command -v dnf >/dev/null 2>&1; then dnf install -y "$2"
  elif command -v yum >/dev/null 2>&1; then yum install -y "$2"
  elif command -v zypper >/dev/null 2>&1; then zypper --non-interactive install "$2"
  elif command -v apk >/dev/null 2>&1; then apk add "$2"
  fi
  command -v "$1" >/dev/null 2>&1 || { echo "$1 is not there and cannot be installed" >&2; exit 1; }
}
fetch() {
  if command -v curl >/dev/null 2>&1; then curl -fsSL -o "$2" "$1"; else wget -q -O "$2" "$1"; fi
}
"""


def puppet_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestor's template variables ``puppet.manifests``, ``puppet.modules`` and ``puppet.attributes``, each with
    its items joined by blanks."""
    if config.get("type") != "puppet_solo":
        return {}
    return {
        "puppet": {key: " ".join(_words(config.get(key))) for key in ("manifests", "modules", "attributes")},
    }


def configured(
    user_data: str, config: Mapping[str, Any], attributes: Mapping[str, Any], node_id: str, *, by_template: bool
) -> str:
    """User data that also does what ``config`` (rendered) says. ``attributes`` are the instance's own and the mapped
    ones; ``by_template``: the template runs the manager itself.

    Raises ValueError for user data of a kind that nothing can be added to."""
    match config.get("type"):
        case "chef":
            files, script = _chef(config, attributes, node_id)
        case "puppet_solo" if not by_template:
            files, script = _puppet(config, attributes)
        case _:
            return user_data
    document = _document(user_data)
    if isinstance(document.get("chef"), dict) and config.get("type") == "chef":
        section = document["chef"]
        section.setdefault("run_list", _items(config.get("run_list")))
        section["initial_attributes"] = {**attributes, **(section.get("initial_attributes") or {})}
        return "#cloud-config\n" + dump(document)
    files[f"{_HOME}/configure.sh"] = f"#!/bin/sh\nset -eu\n{_INSTALL}{script}"
    written = [{"path": path, "permissions": "0600", "content": text} for path, text in files.items()]
    document["write_files"] = [*written, *(document.get("write_files") or [])]
    document["runcmd"] = [*(document.get("runcmd") or []), ["sh", f"{_HOME}/configure.sh"]]
    return "#cloud-config\n" + dump(document)


def _document(user_data: str) -> dict[str, Any]:
    """The cloud-config that does what the user data does."""
    if not user_data.strip():
        return {}
    if user_data.startswith("#cloud-config"):
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        reader = YAML(typ="safe", pure=True)
        reader.version = (1, 1)  # as cloud-init reads it: 0644 is octal, yes is true
        try:
            found = reader.load(io.StringIO(user_data))
        except YAMLError as error:
            raise ValueError(f"the cloud-config cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(found, dict | None):
            raise ValueError("config_management cannot be added to a cloud-config that is not a mapping")
        return dict(found or {})
    if user_data.startswith("#!"):
        path = f"{_HOME}/user-script"
        return {"write_files": [{"path": path, "permissions": "0700", "content": user_data}], "runcmd": [[path]]}
    raise ValueError(
        "config_management can be added to a cloud-config or a script that begins with #!, and to nothing else"
    )


def _chef(config: Mapping[str, Any], attributes: Mapping[str, Any], node_id: str) -> tuple[dict[str, str], str]:
    """``endpoint``: an archive of cookbooks, a directory of them in the image, or a Chef server."""
    endpoint = str(config.get("endpoint") or "")
    home = f"{_HOME}/chef"
    dna = {**attributes, "run_list": _items(config.get("run_list"))}
    parts = urlsplit(endpoint)
    settings = [f"node_name {_ruby(node_id)}", f"file_cache_path {_ruby(f'{home}/cache')}"]
    command = ["chef-client", "--config", f"{home}/client.rb", "--json-attributes", f"{home}/dna.json"]
    if parts.path.endswith((".tar.gz", ".tgz")):
        settings.append(f"cookbook_path {_ruby(f'{home}/cookbooks')}")
        command += ["--local-mode", "--recipe-url", endpoint]
    elif parts.scheme in ("", "file"):
        settings.append(f"cookbook_path {_ruby(parts.path or f'{home}/cookbooks')}")
        command += ["--local-mode"]
    else:
        settings.append(f"chef_server_url {_ruby(endpoint)}")
    files = {f"{home}/dna.json": _json(dna), f"{home}/client.rb": "\n".join(settings) + "\n"}
    return files, f"install chef-client chef\nmkdir -p {home}/cache\n{shlex.join(command)}\n"


def _puppet(config: Mapping[str, Any], attributes: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Manifests and modules: addresses, texts (of manifests), paths in the image, names (of modules)."""
    home = f"{_HOME}/puppet"
    files = {"/etc/facter/facts.d/pelagos.json": _json(attributes)}
    lines = ["install puppet puppet", f"mkdir -p {home}/manifests {home}/modules"]
    for number, module in enumerate(_items(config.get("modules"))):
        if urlsplit(module).scheme in ("http", "https"):
            archive = f"{home}/module-{number}.tar.gz"
            lines.append(f"fetch {shlex.quote(module)} {archive}")
            module = archive
        lines.append(f"puppet module install --target-dir {home}/modules {shlex.quote(module)}")
    paths = []
    for number, manifest in enumerate(_items(config.get("manifests"))):
        path = f"{home}/manifests/{number:02d}.pp"
        if urlsplit(manifest).scheme in ("http", "https"):
            lines.append(f"fetch {shlex.quote(manifest)} {path}")
        elif "\n" in manifest or "{" in manifest:
            files[path] = manifest if manifest.endswith("\n") else f"{manifest}\n"
        else:
            path = manifest.removeprefix("file://")
        paths.append(path)
    search = f"{home}/modules:/etc/puppetlabs/code/modules:/etc/puppet/code/modules:/usr/share/puppet/modules"
    lines += [f"puppet apply --modulepath {search} {shlex.quote(path)}" for path in paths]
    return files, "\n".join(lines) + "\n"


def _items(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value] if isinstance(value, Sequence) else []


def _words(value: Any) -> list[str]:
    """The items for a shell; of mappings, ``key: value`` each."""
    if isinstance(value, Mapping):
        return [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, str):
        return [value]
    return [word for item in value for word in _words(item)] if isinstance(value, Sequence) else []


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"


def _ruby(text: str) -> str:
    """A text in Ruby's single quotes, where two characters alone mean something else."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
