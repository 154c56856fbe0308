"""Finding and merging settings (decision 13).

One YAML file: the one named by ``--config``, else by ``PELAGOS_CONFIG``, else ``$XDG_CONFIG_HOME/pelagos/pelagos.yaml``
(``~/.config`` by default), else ``/etc/pelagos/pelagos.yaml``. Beside it, ``<stem>.local.yaml`` is merged over it:
mappings key by key, accounts of the pool by their name, other lists as a whole. Over both go environment variables
(``PELAGOS_LOG_LEVEL``; ``__`` steps inside: ``PELAGOS_HTTP__LISTEN``; lists and mappings as YAML), over all the flags.

A ``pelagos.yaml`` in the working directory is not read: whoever enters a directory would take its settings, and some
of them (``commands``) allow much.

Mistakes are collected and told together, each with file, line and column, or with the variable's or flag's name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from pelagos.clouds import AccountConfig, Provenance
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import DescriptionError, InvalidInput
from pelagos.model.redaction import may_hold_secret
from pelagos.model.yaml_layer import Layer, PathKey, parse_scalar, read_layer
from pelagos.runtime.pool_loading import ancestors_auth_file, as_list, complete_pool, named_accounts
from pelagos.runtime.settings import Settings
from pelagos.services.notifications import SinkSettings

__all__ = ["config_file", "default_home", "load_settings"]

_PREFIX = "PELAGOS_"
_NOT_SETTINGS = {"CONFIG", "URL", "TOKEN", "FAILPOINT"}
"""Variables of the command line, which are no settings."""
_AT = re.compile(r" - at `\$[^`]*`\Z")


def load_settings(
    config: str | Path | None = None,
    home: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings in force. ``overrides`` are flags by key, nested like the file; None there means: not given.

    Raises DescriptionError with all mistakes, or InvalidInput if a named file cannot be read."""
    environ = environ or {}
    mistakes: list[Diagnostic] = []
    merged = Layer()
    path = config_file(config, environ)
    if path is not None:
        _merge(merged, _read(path, mistakes))
        local = path.with_name(f"{path.stem}.local{path.suffix}")
        if _readable(local):
            _merge(merged, _read(local, mistakes))
    _merge(merged, _environment(environ, mistakes))
    flags = dict(overrides or {})
    if home is not None:
        flags["home"] = str(home)
    _merge(merged, _flags(flags))
    settings = _build(Settings, merged, merged.data, (), mistakes)
    if isinstance(settings, Settings):
        settings = complete_pool(settings, merged, mistakes)
    if mistakes or not isinstance(settings, Settings):
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        told = tuple(msgspec.structs.replace(m, source="") if may_hold_secret(m.source) else m for m in mistakes)
        raise DescriptionError(f"{count} in the configuration", diagnostics=told)
    directory = settings.home.expanduser() if "home" in merged.data else default_home(environ)
    auth_file = settings.auth_file or ancestors_auth_file(environ, _user_home(environ))
    return msgspec.structs.replace(settings, home=directory.absolute(), auth_file=auth_file)


def _read(path: Path, mistakes: list[Diagnostic]) -> Layer:
    layer = read_layer(path, mistakes)
    named_accounts(layer)
    return layer


def config_file(config: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file in force, or None. Raises InvalidInput if one is named that cannot be read."""
    named = config or environ.get("PELAGOS_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not _readable(path):
            raise InvalidInput(
                f"the configuration file {str(path)!r} cannot be read",
                advice="Check --config or PELAGOS_CONFIG, and the file's permissions.",
            )
        return path
    own = Path(environ.get("XDG_CONFIG_HOME") or _user_home(environ) / ".config")
    for path in (own / "pelagos" / "pelagos.yaml", Path("/etc/pelagos/pelagos.yaml")):
        if _readable(path):
            return path
    return None


def default_home(environ: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/pelagos``, or ``~/.local/state/pelagos``."""
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else _user_home(environ) / ".local" / "state") / "pelagos"


def _user_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("HOME")
    return Path(named) if named else Path("~").expanduser()


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidInput(f"the configuration file {str(path)!r} cannot be read: {error.strerror}") from error


def _environment(environ: Mapping[str, str], mistakes: list[Diagnostic]) -> Layer:
    layer = Layer()
    known = [field.name for field in msgspec.structs.fields(Settings)]
    for name in sorted(environ):
        rest = name.removeprefix(_PREFIX)
        if rest == name or rest in _NOT_SETTINGS or not environ[name]:
            continue
        path: PathKey = tuple(rest.lower().split("__"))
        if path[0] not in known:
            # Not ours, perhaps: only what looks like a slip of the pen is a mistake.
            close = difflib.get_close_matches(str(path[0]), known, 1, cutoff=0.8)
            if close:
                summary = f"{name}: there is no such setting"
                mistakes.append(Diagnostic(summary, advice=f"Did you mean {_PREFIX}{close[0].upper()}?"))
            continue
        _put(layer, path, _FromText(environ[name]), name)
    return layer


class _FromText(str):
    """A value given as text, whose type the setting decides."""


def _put(layer: Layer, path: PathKey, value: Any, origin: str) -> None:
    inside: Any = layer.data
    for part in path[:-1]:
        inside = inside.setdefault(part, {})
        if not isinstance(inside, dict):
            return
    inside[path[-1]] = value
    layer.origins[path] = origin


def _flags(flags: Mapping[str, Any], path: PathKey = ()) -> Layer:
    layer = Layer()
    for key, value in flags.items():
        if isinstance(value, Mapping):
            inner = _flags(value, (*path, key))
            if inner.data:
                layer.data[key] = inner.data
                layer.origins.update(inner.origins)
        elif value is not None:
            layer.data[key] = value
            layer.origins[(*path, key)] = "--" + "-".join(str(part) for part in (*path, key)).replace("_", "-")
    return layer


def _merge(base: Layer, over: Layer) -> None:
    base.lines.update(over.lines)
    _merge_mapping(base, base.data, over, over.data, ())


def _merge_mapping(base: Layer, into: dict[str, Any], over: Layer, values: Mapping[str, Any], path: PathKey) -> None:
    for key, value in values.items():
        here = (*path, key)
        if here in over.origins:
            base.origins[here] = over.origins[here]
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge_mapping(base, into[key], over, value, here)
        elif path == () and key == "pool" and isinstance(value, list) and isinstance(into.get(key), list):
            _merge_pool(base, into[key], over, value)
        else:
            into[key] = value
            _take_origins(base, here, over, here)


def _merge_pool(base: Layer, into: list[Any], over: Layer, accounts: list[Any]) -> None:
    for index, account in enumerate(accounts):
        name = account.get("name") if isinstance(account, dict) else None
        known = [i for i, other in enumerate(into) if isinstance(other, dict) and other.get("name") == name]
        if name is not None and known:
            shifted = Layer(account)
            _take_origins(shifted, ("pool", known[0]), over, ("pool", index))
            _merge_mapping(base, into[known[0]], shifted, account, ("pool", known[0]))
        else:
            into.append(account)
            _take_origins(base, ("pool", len(into) - 1), over, ("pool", index))


def _take_origins(base: Layer, path: PathKey, over: Layer, source: PathKey) -> None:
    for old in [known for known in base.origins if known[: len(path)] == path]:
        del base.origins[old]
    for known, origin in over.origins.items():
        if known[: len(source)] == source:
            base.origins[(*path, *known[len(source) :])] = origin


def _build(kind: type[Any], layer: Layer, data: Any, path: PathKey, mistakes: list[Diagnostic]) -> Any:
    """``data`` as a Struct of ``kind``; None after a mistake."""
    if isinstance(data, _FromText):
        data = parse_scalar(data)
    if not isinstance(data, dict):
        mistakes.append(layer.diagnostic(path, f"{_dotted(path)} is not a mapping of keys to values"))
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.type is not Provenance}
    before = len(mistakes)
    values: dict[str, Any] = {}
    for key, value in data.items():
        here = (*path, key)
        field = fields.get(key)
        if field is None:
            close = difflib.get_close_matches(key, fields, 1)
            advice = f"Did you mean {close[0]!r}?" if close else f"Keys here are: {', '.join(fields)}."
            mistakes.append(layer.diagnostic(here, f"there is no setting {_dotted(here)!r}", advice))
        elif field.type == tuple[AccountConfig, ...]:
            accounts = parse_scalar(value) if isinstance(value, _FromText) else value
            accounts = as_list(accounts) if isinstance(accounts, dict) else accounts
            if not isinstance(accounts, list | tuple):
                mistakes.append(layer.diagnostic(here, f"{_dotted(here)} is neither a list nor a mapping"))
                continue
            built = [_build(AccountConfig, layer, item, (*here, i), mistakes) for i, item in enumerate(accounts)]
            values[key] = tuple(account for account in built if account is not None)
        elif field.type == tuple[SinkSettings, ...]:
            values[key] = _sinks(layer, value, here, mistakes)
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            values[key] = _build(field.type, layer, value, here, mistakes)
        else:
            _convert(field.type, layer, value, here, values, mistakes)
    missing = [name for name, field in fields.items() if field.required and name not in data]
    mistakes += [layer.diagnostic(path, f"the key {name!r} is missing", "Add it.") for name in missing]
    return kind(**values) if len(mistakes) == before else None


def _sinks(layer: Layer, data: Any, path: PathKey, mistakes: list[Diagnostic]) -> tuple[SinkSettings, ...]:
    """Each by its own type, so that a mistake is told of the key that has it."""
    given = parse_scalar(data) if isinstance(data, _FromText) else data
    if not isinstance(given, list | tuple):
        mistakes.append(
            layer.diagnostic(path, f"{_dotted(path)} is not a list", "Give each sink as an item: - name: …")
        )
        return ()
    kinds = {str(kind.__struct_config__.tag): kind for kind in get_args(SinkSettings)}
    found: list[SinkSettings] = []
    taken: set[str] = set()
    for index, item in enumerate(given):
        here = (*path, index)
        kind = item.get("type") if isinstance(item, dict) else None
        if not isinstance(item, dict) or "type" not in item:
            what = "the key 'type' is missing" if isinstance(item, dict) else "it is not a mapping of keys to values"
            mistakes.append(layer.diagnostic(here, f"{_dotted(here)}: {what}", f"Types are: {', '.join(kinds)}."))
            continue
        if kind not in kinds:
            close = difflib.get_close_matches(str(kind), kinds, 1)
            advice = f"Did you mean {close[0]!r}?" if close else f"Types are: {', '.join(kinds)}."
            mistakes.append(layer.diagnostic((*here, "type"), f"there is no type of sinks {kind!r}", advice))
            continue
        name = item.get("name")
        if isinstance(name, str) and name in taken:
            summary = f"another sink is called {name!r}"
            mistakes.append(layer.diagnostic((*here, "name"), summary, "Give each sink a name of its own."))
        elif isinstance(name, str):
            taken.add(name)
        sink = _build(kinds[kind], layer, {k: v for k, v in item.items() if k != "type"}, here, mistakes)
        if sink is not None:
            found.append(sink)
            _check_patterns(sink, layer, (*here, "events"), mistakes)
    return tuple(found)


def _check_patterns(sink: SinkSettings, layer: Layer, path: PathKey, mistakes: list[Diagnostic]) -> None:
    from pelagos.services.events.topics import check_patterns  # most programs have no sinks

    for index, pattern in enumerate(sink.events):
        try:
            check_patterns(pattern)
        except InvalidInput as error:
            mistakes.append(layer.diagnostic((*path, index), f"{_dotted(path)}: {error.message}", error.advice))


def _convert(
    kind: Any, layer: Layer, value: Any, path: PathKey, values: dict[str, Any], mistakes: list[Diagnostic]
) -> None:
    try:
        if isinstance(value, _FromText):
            values[str(path[-1])] = _from_text(kind, value)
        else:
            values[str(path[-1])] = msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        text = _AT.sub("", str(error))
        mistakes.append(layer.diagnostic(path, f"{_dotted(path)}: {text[:1].lower()}{text[1:]}"))


def _from_text(kind: Any, text: str) -> Any:
    try:
        return msgspec.convert(str(text), kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError:
        parsed = parse_scalar(text)
        if isinstance(parsed, str):
            raise
        return msgspec.convert(parsed, kind, strict=False, dec_hook=_decode)


def _decode(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path")


def _dotted(path: PathKey) -> str:
    return ".".join(str(part) for part in path) or "the configuration"
