"""The ``CLOUD_FARM`` mapping of the CRS4 Orchestrator as accounts of the pool (its reference, section 6.2).

    CLOUD_FARM:
      default: {ENGINE: openstack, USER: svc, PASSWORD: {env: LAB_PASSWORD},
                EXTRA_PARAMS: {ex_force_auth_url: "http://keystone.example:5000", ex_tenant_name: lab}}
      sandbox: {ENGINE: dummy}

There it is Python in the program's own settings, ``CLOUD_FARM = {...}``. Here it is a file of plain data: YAML or JSON
with or without the name ``CLOUD_FARM`` around it, or that assignment, alone in its file and read as a literal, so that
nothing is run. Any value of a secret may be a reference. Each engine becomes the driver that speaks to
the same cloud, and what Libcloud's constructor was given becomes that driver's options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pelagos.clouds.accounts import AccountConfig, Provenance
from pelagos.clouds.assignment import is_assignment, parse_assignment
from pelagos.clouds.labels import account_name
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.yaml_layer import Layer, PathKey, did_you_mean, parse_layer, read_bounded

__all__ = ["ENGINES", "read_cloud_farm"]

_NAME = "CLOUD_FARM"
_KEYS = ("ENGINE", "USER", "PASSWORD", "EXTRA_PARAMS")
Extra = dict[str, Any]


class Engine(NamedTuple):
    """What an engine becomes: a driver, names of the credentials (empty: it takes none), and its options from
    ``EXTRA_PARAMS``, whose entries are taken out as they are used."""

    driver: str
    user: str
    password: str
    options: Callable[[Extra], dict[str, Any]]


def _none(extra: Extra) -> dict[str, Any]:
    return {}


def _openstack(extra: Extra) -> dict[str, Any]:
    names = {
        "ex_tenant_name": "project_name",
        "ex_domain_name": "user_domain_name",
        "ex_force_service_region": "region",
        "ex_force_auth_url": "endpoint",
    }
    extra.pop("ex_force_auth_version", None)  # the driver asks the server
    return {option: extra.pop(name) for name, option in names.items() if name in extra}


def _rackspace(extra: Extra) -> dict[str, Any]:
    region = extra.pop("region", None)
    arguments = dict(extra)
    extra.clear()
    return {**({"region": region} if region else {}), **({"arguments": arguments} if arguments else {})}


def _eucalyptus(extra: Extra) -> dict[str, Any]:
    scheme = "https" if extra.pop("secure", True) else "http"
    host, port = extra.pop("host", "localhost"), extra.pop("port", 8773)
    path = str(extra.pop("path", None) or "/services/Eucalyptus")
    return {"endpoint": f"{scheme}://{host}:{port}/{path.lstrip('/')}"}


def _ec2(region: str) -> Callable[[Extra], dict[str, Any]]:
    return lambda extra: {"region": extra.pop("region", region)}


ENGINES: dict[str, Engine] = {
    "dummy": Engine("dummy", "", "", _none),
    "openstack": Engine("openstack", "username", "password", _openstack),
    "eucalyptus": Engine("eucalyptus", "access_key", "secret_key", _eucalyptus),
    "rackspace": Engine("rackspace", "username", "api_key", _rackspace),
    "ec2_us_east": Engine("ec2", "access_key", "secret_key", _ec2("us-east-1")),
    "ec2_us_west": Engine("ec2", "access_key", "secret_key", _ec2("us-west-1")),
    "ec2_eu_west": Engine("ec2", "access_key", "secret_key", _ec2("eu-west-1")),
    "ec2_eu_east": Engine("ec2", "access_key", "secret_key", _ec2("eu-central-1")),
}
"""``ec2_eu_east`` never was a region of Amazon's: it is Frankfurt, the nearest to its name."""


def read_cloud_farm(path: Path, mistakes: list[Diagnostic]) -> list[AccountConfig]:
    """The accounts of a file, in its order. Mistakes are added, each with its place and without the line, which may
    hold a password. Raises OSError if it cannot be read."""
    found: list[Diagnostic] = []
    data = read_bounded(path)
    if is_assignment(_NAME, data):
        layer = parse_assignment(str(path), data, _NAME, found)
    else:
        layer = parse_layer(str(path), data, found, what="the cloud farm")
    farm: Any = layer.data
    root: PathKey = ()
    if set(farm) == {_NAME}:
        farm, root = farm[_NAME], (_NAME,)
    if not isinstance(farm, Mapping):
        found.append(layer.diagnostic(root, "CLOUD_FARM must be a mapping from names to entries"))
        farm = {}
    accounts = [_account(layer, (*root, name), str(name), entry, found, path) for name, entry in farm.items()]
    mistakes += [msgspec.structs.replace(mistake, source="") for mistake in found]
    return [account for account in accounts if account is not None]


def _account(
    layer: Layer, place: PathKey, name: str, entry: Any, mistakes: list[Diagnostic], path: Path
) -> AccountConfig | None:
    if not isinstance(entry, dict):
        mistakes.append(layer.diagnostic(place, f"the cloud {name!r} must be a mapping with an ENGINE"))
        return None
    unknown = [key for key in entry if key not in _KEYS]
    for key in unknown:
        advice = did_you_mean(key, _KEYS, f"Keys here are: {', '.join(_KEYS)}.")
        mistakes.append(layer.diagnostic((*place, key), f"the cloud {name!r} has an unknown key {key!r}", advice))
    label = entry.get("ENGINE")
    engine = ENGINES.get(label) if isinstance(label, str) else None
    extra = entry.get("EXTRA_PARAMS") or {}
    if engine is None:
        where = (*place, "ENGINE") if "ENGINE" in entry else place
        summary = f"the cloud {name!r} has no ENGINE" if label is None else f"there is no ENGINE {label!r}"
        advice = did_you_mean(str(label), ENGINES, f"There are: {', '.join(ENGINES)}.")
        mistakes.append(layer.diagnostic(where, summary, advice))
    if not isinstance(extra, dict):
        mistakes.append(layer.diagnostic((*place, "EXTRA_PARAMS"), "EXTRA_PARAMS must be a mapping"))
        return None
    if engine is None or unknown:
        return None
    left = dict(extra)
    options = engine.options(left)
    for key in left:
        advice = "Leave it out, or add the account to `pool` with the driver's own options."
        summary = f"{key!r} means nothing to the driver {engine.driver!r}, which is used for {label}"
        mistakes.append(layer.diagnostic((*place, "EXTRA_PARAMS", key), summary, advice))
    credentials = {
        option: entry[key]
        for key, option in (("USER", engine.user), ("PASSWORD", engine.password))
        if option and entry.get(key) not in (None, "")
    }
    return AccountConfig(
        name=account_name(name),
        driver=engine.driver,
        options=options,
        credentials=credentials,
        default=name == "default",
        provenance=Provenance(f"the cloud farm {path.name}", layer, place),
    )
