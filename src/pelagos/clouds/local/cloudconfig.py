"""User data, parsed before anything is started: a ``#cloud-config`` document or a ``#!`` script becomes plain steps.

The instance's init carries the steps out and needs no YAML for it. The order is that of cloud-init's stages, with
users before files so that files can belong to them. What is not understood becomes a warning in the instance's
console; what is wrong is refused here, naming the line.
Source: cloud-init, "Module reference" (write_files, runcmd, bootcmd, users, packages, set_hostname).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import shlex
from io import StringIO
from typing import Any

import msgspec

from pelagos.clouds.errors import CloudRejected

__all__ = ["HOSTNAME", "UserData", "parse_user_data"]

ENCODINGS = {
    "": (False, False), "text/plain": (False, False),
    "b64": (True, False), "base64": (True, False),
    "gz": (False, True), "gzip": (False, True),
    "gz+b64": (True, True), "gzip+b64": (True, True), "gz+base64": (True, True), "gzip+base64": (True, True),
}  # fmt: skip
HANDLED = {"hostname", "fqdn", "bootcmd", "users", "groups", "write_files", "packages", "runcmd", "final_message"}
WITHOUT_EFFECT = {"preserve_hostname", "manage_etc_hosts", "prefer_fqdn_over_hostname", "disable_root", "ssh_pwauth"}
HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""A label of RFC 1123."""


class UserData(msgspec.Struct, frozen=True):
    """What init is to do, in order, and what it is to warn of first."""

    steps: list[dict[str, Any]] = []
    warnings: list[str] = []
    hostname: str = ""
    written: tuple[str, ...] = ()
    """The absolute paths that will be written."""


class _Parser:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self.steps: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.written: list[str] = []

    def parse(self) -> UserData:
        for key in self._document:
            if key not in HANDLED and key not in WITHOUT_EFFECT:
                self.warnings.append(
                    f"{_where(self._document, key)}cloud-config key {key!r} is not known here: ignored"
                )
        self._commands("bootcmd")
        self._groups()
        self._users()
        self._files()
        self._packages()
        self._commands("runcmd")
        message = self._document.get("final_message")
        if message:
            text = str(message)
            self.steps.append(
                {"kind": "shell", "label": "final_message", "text": f"printf '%s\\n' {shlex.quote(text)}"}
            )
        return UserData(self.steps, self.warnings, self._hostname(), tuple(self.written))

    def _hostname(self) -> str:
        name = self._document.get("hostname") or str(self._document.get("fqdn") or "").partition(".")[0]
        if name and not (isinstance(name, str) and HOSTNAME.fullmatch(name)):
            raise _wrong(self._document, "hostname", f"{name!r} is not a host name")
        return str(name or "")

    def _list(self, key: str) -> list[Any]:
        value = self._document.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise _wrong(self._document, key, f"{key} must be a list")
        return value

    def _commands(self, key: str) -> None:
        items = self._list(key)
        if not items:
            return
        lines = ["pelagos_failed=0"]
        for number, item in enumerate(items, 1):
            if isinstance(item, list) and all(isinstance(word, str | int | float) for word in item) and item:
                text = shlex.join(str(word) for word in item)
            elif isinstance(item, str):
                text = item
            elif item is None:
                continue
            else:
                raise _wrong(items, number - 1, f"entry {number} of {key} must be a string or a list of strings")
            if re.search(r"(^|[;&|]\s*|\s)(systemctl|service|initctl)\s", text + " "):
                self.warnings.append(
                    f"{_where(items, number - 1)}{key} {number} asks systemd or an init script for a service; a local "
                    "instance has none: start the program itself, with & at the end of the line"
                )
            lines += [
                f"echo {shlex.quote(f'+ {key} {number}: {_short(text)}')}",
                # `command` keeps a syntax error in one entry from ending the shell, and so the others
                f"command eval {shlex.quote(text)}",
                "pelagos_code=$?",
                f'if [ "$pelagos_code" -ne 0 ]; then echo "{key} {number} exited with code $pelagos_code"; '
                "pelagos_failed=$((pelagos_failed + 1)); fi",
            ]
        lines.append("[ $pelagos_failed -lt 100 ] || pelagos_failed=100; exit $pelagos_failed")
        self.steps.append({"kind": "shell", "label": key, "text": "\n".join(lines), "counts": True})

    def _files(self) -> None:
        items = self._list("write_files")
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise _wrong(items, number, "an entry of write_files must be a mapping")
            path = item.get("path")
            if not isinstance(path, str) or not path.startswith("/") or ".." in path.split("/"):
                raise _wrong(item, "path", f"path of a file must be absolute, not {path!r}")
            for key in item:
                if key not in ("path", "content", "encoding", "permissions", "owner", "append", "defer"):
                    self.warnings.append(f"{_where(item, key)}write_files key {key!r} is not known here: ignored")
            content = item.get("content", "")
            owner = str(item.get("owner") or "")
            step = {
                "kind": "write",
                "label": f"write {path}",
                "path": path,
                "content": base64.b64encode(self._content(item, content)).decode(),
                "mode": self._mode(item),
                "owner": "" if owner in ("root", "root:root") else owner,
                "append": bool(item.get("append", False)),
            }
            self.steps.append(step)
            self.written.append(path)

    def _content(self, item: dict[str, Any], content: Any) -> bytes:
        encoding = str(item.get("encoding") or "").lower()
        if encoding not in ENCODINGS:
            raise _wrong(item, "encoding", f"encoding {encoding!r} is none of {', '.join(filter(None, ENCODINGS))}")
        data = content if isinstance(content, bytes) else ("" if content is None else str(content)).encode()
        encoded, packed = ENCODINGS[encoding]
        try:
            if encoded:
                data = base64.b64decode(b"".join(data.split()), validate=True)
            return gzip.decompress(data) if packed else data
        except (binascii.Error, OSError, EOFError) as error:
            raise _wrong(item, "content", f"content is not {encoding}: {error}") from error

    def _mode(self, item: dict[str, Any]) -> int | None:
        value = item.get("permissions")
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value) & 0o7777  # unquoted 0644 is octal for YAML 1.1 and for cloud-init
        try:
            return int(str(value), 8) & 0o7777
        except ValueError as error:
            raise _wrong(item, "permissions", f"permissions {value!r} are not an octal number like '0644'") from error

    def _groups(self) -> None:
        for item in self._list("groups"):
            for name in item if isinstance(item, dict) else [item]:
                quoted = shlex.quote(str(name))
                text = f"getent group {quoted} >/dev/null 2>&1 || groupadd {quoted}"
                self.steps.append({"kind": "shell", "label": f"make the group {name}", "text": text})

    def _users(self) -> None:
        items = self._list("users")
        for number, item in enumerate(items):
            if item == "default":
                continue
            if isinstance(item, str):
                item = {"name": item}
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                raise _wrong(items, number, "an entry of users must be a name or a mapping with a name")
            self.steps.append(self._user(item))

    def _user(self, item: dict[str, Any]) -> dict[str, Any]:
        arguments = []
        flags = {"gecos": "-c", "homedir": "-d", "primary_group": "-g", "shell": "-s", "uid": "-u", "expiredate": "-e"}
        for key, flag in flags.items():
            if item.get(key) is not None:
                arguments += [flag, str(item[key])]
        groups = item.get("groups")
        if groups:
            names = groups if isinstance(groups, list) else str(groups).split(",")
            arguments += ["-G", ",".join(str(name).strip() for name in names)]
        if item.get("system"):
            arguments.append("-r")
        arguments.append("-M" if item.get("no_create_home") or item.get("system") else "-m")
        sudo = item.get("sudo") or []
        known = {*flags, "name", "groups", "system", "no_create_home", "sudo", "ssh_authorized_keys", "lock_passwd"}
        for key in item:
            if key not in known:
                self.warnings.append(f"{_where(item, key)}users key {key!r} is not known here: ignored")
        return {
            "kind": "user",
            "label": f"make the user {item['name']}",
            "name": item["name"],
            "arguments": arguments,
            "keys": [str(key) for key in item.get("ssh_authorized_keys") or []],
            "sudo": [str(rule) for rule in (sudo if isinstance(sudo, list) else [sudo]) if rule],
        }

    def _packages(self) -> None:
        names = []
        for item in self._list("packages"):
            names.append(str(item[0]) if isinstance(item, list) and item else str(item))
        if names:
            self.steps.append(
                {"kind": "packages", "label": f"look for the packages {', '.join(names)}", "names": names}
            )


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 100 and line == text.strip() else line[:100] + " ..."


def _line(container: Any, key: Any) -> int | None:
    marks = getattr(container, "lc", None)
    try:
        return None if marks is None else int(marks.data[key][0]) + 1
    except (KeyError, TypeError, AttributeError):
        return None


def _where(container: Any, key: Any) -> str:
    line = _line(container, key)
    return "" if line is None else f"line {line}: "


def _wrong(container: Any, key: Any, text: str) -> CloudRejected:
    return CloudRejected(
        f"user data, {_where(container, key)}{text}",
        advice="Correct the cloud-config document of the node's contextualisation.",
    )


def parse_user_data(text: str) -> UserData:
    """The steps of a user-data document. Raises CloudRejected, naming the line of a mistake."""
    if not text.strip():
        return UserData()
    first = text.lstrip().splitlines()[0].rstrip()
    if text.startswith("#!"):
        content = base64.b64encode(text.encode()).decode()
        return UserData([{"kind": "script", "label": "user-data script", "content": content}])
    if not first.startswith("#cloud-config"):
        raise CloudRejected(
            f"user data starts with {first[:60]!r}, which is neither '#cloud-config' nor a '#!' script",
            advice="Begin the contextualisation's document with the line #cloud-config, or with #!/bin/sh.",
        )
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = YAML(typ="rt", pure=True)
    reader.version = (1, 1)  # cloud-init reads YAML 1.1: 0644 is octal, yes is true
    try:
        document = reader.load(StringIO(text))
    except MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise CloudRejected(
            f"user data, {line}not YAML: {error.problem}", advice="Correct the cloud-config document."
        ) from error
    except YAMLError as error:
        raise CloudRejected(f"user data is not YAML: {error}", advice="Correct the cloud-config document.") from error
    if document is None:
        return UserData()
    if not isinstance(document, dict):
        raise CloudRejected("user data: a cloud-config document must be a mapping", advice="Write `key: value` lines.")
    return _Parser(document).parse()
