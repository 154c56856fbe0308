"""What a provider can do, by looking at its driver's class. Pure.

Libcloud's base class has every verb, and a driver that lacks one inherits a method that only raises. So a method counts
if it is not the base's and does more than raise; an argument counts if the create call names it. That says nothing of
whether the provider's service still exists.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["Abilities", "abilities_of", "arguments_of"]

_START = ("start_node", "ex_start_node", "ex_start", "ex_power_on_node")
_STOP = ("stop_node", "ex_stop_node", "ex_stop", "ex_shutdown_node", "ex_power_off_node")
_USER_DATA = ("ex_userdata", "ex_user_data", "ex_customdata", "ex_custom_data", "cloud_init")
_CLIENT_TOKEN = ("ex_clienttoken", "ex_client_token")
_KEY_NAME = ("ex_keyname", "ex_keypair_name", "ex_key_name")
_GIVEN = frozenset({"self", "name", "size", "image", "location", "auth"})


class Abilities(msgspec.Struct, frozen=True):
    """Names of methods and arguments; empty where there is none."""

    arguments: frozenset[str]
    """Of the create call, but for those that every driver has."""
    required: frozenset[str]
    """Those that it cannot do without."""
    takes_any: bool
    """Whether it takes arguments that it does not name."""
    location: bool
    auth: bool
    start: str
    stop: str
    reboot: str
    console: str
    metadata: str
    user_data: str
    client_token: str
    key_name: str
    get_image: bool
    images: bool
    sizes: bool
    locations: bool

    @property
    def power(self) -> bool:
        """Whether a server can be started, stopped and rebooted."""
        return bool(self.start and self.stop and self.reboot)


@functools.cache
def abilities_of(driver_class: type) -> Abilities:
    """The abilities of a driver's class."""
    parameters = _parameters(driver_class.create_node)  # type: ignore[attr-defined]
    required = {name for name, one in parameters.items() if one.default is inspect.Parameter.empty and _is_named(one)}
    named = {name for name, one in parameters.items() if _is_named(one)}

    def method(*names: str) -> str:
        return next((name for name in names if _implements(driver_class, name)), "")

    def argument(*names: str) -> str:
        return next((name for name in names if name in named), "")

    return Abilities(
        arguments=frozenset(named - _GIVEN),
        required=frozenset(required - _GIVEN) | ({"location"} & required),
        takes_any=any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()),
        location="location" in named,
        auth=bool(driver_class.features.get("create_node")),  # type: ignore[attr-defined]
        start=method(*_START),
        stop=method(*_STOP),
        reboot=method("reboot_node"),
        console=method("ex_get_console_output"),
        metadata=argument("ex_metadata"),
        user_data=argument(*_USER_DATA),
        client_token=argument(*_CLIENT_TOKEN),
        key_name=argument(*_KEY_NAME),
        get_image=bool(method("get_image")),
        images=bool(method("list_images")),
        sizes=bool(method("list_sizes")),
        locations=bool(method("list_locations")),
    )


def arguments_of(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """(arguments that a constructor names, whether it takes others)."""
    parameters = _parameters(function)
    return (
        frozenset(name for name, one in parameters.items() if _is_named(one) and name != "self"),
        any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()),
    )


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _implements(driver_class: type, name: str) -> bool:
    """Whether the class has that method, from itself or a parent but the base, and it does more than raise."""
    from libcloud.compute.base import NodeDriver

    method = getattr(driver_class, name, None)
    if method is None or method is getattr(NodeDriver, name, None):
        return False
    return not _only_raises(method)


def _only_raises(method: Callable[..., Any]) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):
        return False  # no source: believed
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        return False
    body = [one for one in function.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Raise)
