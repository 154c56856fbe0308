"""Libcloud's driver classes by name, and how one is made for an account."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pelagos.clouds.libcloud.abilities import arguments_of
from pelagos.clouds.libcloud.options import LibcloudAccount
from pelagos.clouds.libcloud.wire import watch
from pelagos.model.errors import InvalidInput, NotFound, Unsupported

__all__ = ["driver_class", "make_driver"]

_OURS = {"dummy": ("pelagos.clouds.libcloud.dummy", "NamedDummy")}
"""Where a class of ours stands in for Libcloud's."""


def driver_class(provider: str) -> type:
    """The class of a provider.

    If there is none, raises NotFound, which says what is near; for one that is gone, or speaks EC2, Unsupported."""
    from libcloud.compute.base import NodeDriver
    from libcloud.compute.drivers.ec2 import BaseEC2NodeDriver
    from libcloud.compute.providers import DRIVERS, get_driver

    name = provider.lower()
    try:
        found = _ours(name) or get_driver(name)
    except AttributeError as error:
        names = sorted(str(getattr(one, "value", one)) for one in DRIVERS)
        close = difflib.get_close_matches(name, names, 3)
        near = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"There are: {', '.join(names)}."
        raise NotFound(f"Libcloud has no compute provider {provider!r}", advice=near) from error
    except ImportError as error:
        raise Unsupported(
            f"Libcloud's driver {provider!r} needs the Python package {error.name!r}, which is not installed",
            advice=f"pip install {error.name}",
        ) from error
    except Exception as error:  # its word for providers that were given up
        raise Unsupported(
            f"Libcloud gave up the provider {provider!r}: {error}",
            advice="Where it names another, use that; regions are an option of the account.",
        ) from error
    if issubclass(found, BaseEC2NodeDriver):
        raise Unsupported(
            f"the provider {provider!r} speaks EC2, whose token cannot be set safely this way",
            advice="Make it an account with `driver: ec2` (or `eucalyptus`) and its `endpoint`.",
        )
    assert issubclass(found, NodeDriver)
    return found


def make_driver(account: LibcloudAccount) -> Any:
    """A driver object for one thread; some log in here. Raises InvalidInput for arguments that it does not know."""
    cls = driver_class(account.provider)
    arguments = _arguments(cls, account)
    try:
        made = cls(**arguments)
    except json.JSONDecodeError:
        raise  # an answer to its log-in
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"Libcloud's driver {account.provider!r} does not take these options: {error}",
            advice="Its constructor is described in Libcloud's documentation of the provider.",
        ) from error
    return watch(made)


def _ours(name: str) -> type | None:
    import importlib

    if name not in _OURS:
        return None
    module, attribute = _OURS[name]
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def _arguments(cls: type, account: LibcloudAccount) -> Mapping[str, Any]:
    """What the constructor is given. Libcloud drops unknown keywords in silence: here they are told."""
    named, takes_any = _constructor(cls)
    given: dict[str, Any] = {}
    first = next((name for name in ("key", "creds", "user_id", "token") if name in named), "key")
    if account.key:
        given[first] = account.key
    if account.secret:
        given["secret"] = account.secret
    if account.endpoint:
        url = urlsplit(account.endpoint)
        given["secure"] = url.scheme == "https"
        given["host"] = url.hostname
        given["port"] = url.port or (443 if url.scheme == "https" else 80)
    for name in ("region", "api_version"):
        if getattr(account, name):
            given[name] = getattr(account, name)
    given.update(account.arguments)
    if "timeout" in named or takes_any:
        given.setdefault("timeout", account.call_timeout * 0.9)
    # Keywords that go on to the base class are the driver's own ``ex_`` ones, or these.
    known = named | (
        frozenset({"key", "secret", "secure", "host", "port", "timeout", "region"}) if takes_any else set()
    )
    unknown = sorted(name for name in given if name not in known and not (takes_any and name.startswith("ex_")))
    if unknown:
        raise InvalidInput(
            f"Libcloud's driver {account.provider!r} knows no {', '.join(map(repr, unknown))}",
            advice=f"It takes: {', '.join(sorted(named))}.",
        )
    return given


def _constructor(cls: type) -> tuple[frozenset[str], bool]:
    """Arguments of the constructor and, where the class chooses another by its API version, of that choice."""
    named, takes_any = arguments_of(cls.__init__)  # type: ignore[misc]  # only read
    choice: Any = cls.__new__
    if choice is not object.__new__:
        more, any_too = arguments_of(choice)
        return (named | more) - {"cls"}, takes_any or any_too
    return named, takes_any
