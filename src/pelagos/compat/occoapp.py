"""The ancestor's application (reference, section 2.1): module data that ``setup`` fills from configuration.

::

    from pelagos.compat import occoapp
    from pelagos.compat.manager import InfrastructureManager

    occoapp.setup(setup_args=lambda options: options.add_argument("infra_def", type=occoapp.yaml_file))
    infra_id = InfrastructureManager().add(occoapp.infrastructure)

The configuration is data (:mod:`pelagos.compat.configuration`); it makes no objects, imports no plug-ins, and leaves
logging as it is: a ``logging`` section can name any class of any module to be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pelagos.cli.invocation import Invocation
from pelagos.compat.configuration import find_file, is_ancestors, read_configuration
from pelagos.compat.connecting import Services, set_default
from pelagos.compat.manager import InfrastructureManager

__all__ = [
    "args",
    "components",
    "configuration",
    "infrastructure",
    "killall",
    "services",
    "setup",
    "teardown",
    "yaml_file",
]

args: argparse.Namespace | None = None
"""The options, with ``configuration``, ``cfg_path`` and ``auth_data_path`` among them; None before :func:`setup`."""
configuration: dict[str, Any] | None = None
"""The configuration file's data, empty where there is none; None before :func:`setup`."""
components: dict[str, Any] | None = None
"""``configuration["components"]``."""
infrastructure: Path | Mapping[str, Any] | None = None
"""The configured infrastructure: what the option ``infra_def`` names, else ``infrastructure`` of the configuration (a
description, or the path of one); None where neither is there."""
services: Services | None = None
"""How the services are reached; managers use it by default."""


class Options(Protocol):
    """What ``setup_args`` is given: :meth:`argparse.ArgumentParser.add_argument`."""

    def add_argument(self, *names: Any, **options: Any) -> Any: ...


def setup(
    setup_args: Callable[[Options], None] | None = None,
    cfg_path: str | Path | None = None,
    auth_data_path: str | Path | None = None,
    *,
    arguments: Sequence[str] | None = None,
    invocation: Invocation | None = None,
) -> None:
    """Read options and configuration, and make ready what managers use; fills the module's data.

    ``setup_args`` adds options of the program's own. With it the command line is the program's and wrong options end
    it, as argparse does; without it, options that are not ``--cfg`` and ``--auth_data_path`` are somebody else's and
    left alone. ``arguments``: in place of ``sys.argv``. Raises ConfigurationError for files that are named and are not
    there, and for mistakes in the configuration, with their places."""
    global args, configuration, components, infrastructure, services
    parser = argparse.ArgumentParser(allow_abbrev=False)
    if cfg_path is None:
        parser.add_argument("--cfg", dest="cfg_path", metavar="FILE", help="the configuration file")
    if auth_data_path is None:
        parser.add_argument("--auth_data_path", metavar="FILE", help="the authentication file")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if setup_args is not None:
        setup_args(parser)
        found = parser.parse_args(given)
    else:
        found, _ = parser.parse_known_args(given)
    invocation = invocation or Invocation()
    environ = invocation.world.environ
    path = find_file(cfg_path or found.cfg_path, "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ)
    read = read_configuration(path) if path is not None else {}
    if path is not None and not is_ancestors(read):
        invocation.config = str(path)
    named = auth_data_path or getattr(found, "auth_data_path", None)
    auth = find_file(named, "OCCOPUS_AUTH_DATA_PATH", "auth_data.yaml", environ)
    if auth is not None:
        invocation.overrides["auth_file"] = str(auth.absolute())
    found.configuration, found.cfg_path, found.auth_data_path = read, path, auth
    args, configuration, components = found, read, read.get("components", {})
    infrastructure = _configured(found, read, path)
    services = Services(invocation)
    set_default(services)


def _configured(found: argparse.Namespace, read: Mapping[str, Any], path: Path | None) -> Any:
    option = getattr(found, "infra_def", None)
    wanted = option if option is not None else read.get("infrastructure")
    if isinstance(wanted, str):
        beside = path.parent if path is not None and option is None else Path()
        return beside / Path(wanted).expanduser()
    return wanted


def yaml_file(path: str) -> Path:
    """For ``add_argument(type=...)``: a description in a file. What it imports is read when it is submitted.

    Raises ArgumentTypeError where there is no such file."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path!r}")
    return found


def teardown(infra_id: str, ip: object = None) -> None:
    """Destroy an infrastructure. ``ip``, the ancestor's infrastructure processor, is not looked at.

    Raises as :meth:`InfrastructureManager.tear_down`."""
    InfrastructureManager().tear_down(infra_id)


def killall(infra_id: str, ip: object = None) -> None:
    """:func:`teardown`: there are no keys left to remove afterwards."""
    teardown(infra_id, ip)
