"""The ancestor's six commands (reference, sections 10.1 and 13) as thin faces of ``pelagos``.

Flags, the layout of reports, the last line of a build (the id) and the words of a successful import are the ancestor's,
for the scripts that read them. Three things differ, since scripts were hurt by them: the exit code is true, only
results are on stdout, and a change that fails never takes down what was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pelagos.cli.collecting import collect_seldom
from pelagos.cli.exits import Exit
from pelagos.cli.failures import report as tell
from pelagos.cli.failures import show_warnings
from pelagos.cli.invocation import Invocation, pass_invocation

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import RunRequest, StatusView, Strategy

__all__ = ["build", "destroy", "import_", "maintain", "rest_service", "scale"]

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_UNLISTED = "No active infrastructure!"

_cfg = click.option(
    "--cfg",
    metavar="FILE",
    help="The ancestor's configuration file, or one of Pelagos. [default: OCCOPUS_CONFIG_PATH, ~/.occopus]",
)
_auth = click.option(
    "--auth_data_path",
    metavar="FILE",
    help="The authentication file. [default: OCCOPUS_AUTH_DATA_PATH, ~/.occopus]",
)
_parallelize = click.option(
    "--parallelize", is_flag=True, help="Nodes at once as far as their dependencies allow, not one after the other."
)
_map_clouds = click.option(
    "--map-clouds",
    metavar="CLOUD",
    default="",
    help="Build on this cloud of the pool in place of all that are described, such as simulated.",
)


# -- build ---------------------------------------------------------------------------------------------------------


@click.command("occopus-build", context_settings=_SETTINGS)
@_cfg
@_auth
@_parallelize
@click.option("-i", "--infra_id", metavar="ID", help="Change this infrastructure; an unknown id is given to a new one.")
@_map_clouds
@click.argument("infra_def", type=click.Path(path_type=Path))
@pass_invocation
def _build(
    invocation: Invocation,
    cfg: str | None,
    auth_data_path: str | None,
    parallelize: bool,
    infra_id: str | None,
    map_clouds: str,
    infra_def: Path,
) -> int:
    """Build an infrastructure, or change one. Its id is the last line on stdout."""
    from pelagos.clients.bundle import read_bundle
    from pelagos.wire.infrastructures import RunRequest

    _configure(invocation, cfg, auth_data_path)
    sources, entries = read_bundle([infra_def])

    async def work(session: Session) -> int:
        known = infra_id is not None and await _known(session, infra_id)
        request = RunRequest(
            kind="up",
            request_id=invocation.world.new_id(),
            sources=sources,
            entries=tuple(entries),
            infrastructure=(infra_id or "") if known else "",
            new=not known,
            id="" if known else infra_id or "",
            strategy=_strategy(parallelize),
            map_clouds=map_clouds,
            maintained=None if known else False,
        )
        code, identifier = await _carry_out(invocation, session, request)
        if code == Exit.OK:
            status = await session.client.infrastructures.status(identifier)
            invocation.say("List of nodes/instances/addresses:")
            await _say_addresses(invocation, session, status)
            invocation.say(identifier)
        return code

    return invocation.run(work)


async def _known(session: Session, identifier: str) -> bool:
    from pelagos.model.errors import Gone, NotFound

    try:
        await session.client.infrastructures.status(identifier)
    except (NotFound, Gone):
        return False
    return True


# -- destroy -------------------------------------------------------------------------------------------------------


@click.command("occopus-destroy", context_settings=_SETTINGS)
@_cfg
@_auth
@click.option("-i", "infra_id", metavar="ID", required=True, help="The infrastructure.")
@pass_invocation
def _destroy(invocation: Invocation, cfg: str | None, auth_data_path: str | None, infra_id: str) -> int:
    """Destroy an infrastructure. What a cloud does not delete stays on record, and the exit code says so."""
    from pelagos.wire.infrastructures import RunRequest

    _configure(invocation, cfg, auth_data_path)

    async def work(session: Session) -> int:
        request = RunRequest(kind="down", request_id=invocation.world.new_id(), infrastructure=infra_id)
        code, _ = await _carry_out(invocation, session, request)
        if code == Exit.OK:
            invocation.note(f"Infrastructure {infra_id} is destroyed.")
        return code

    return invocation.run(work)


# -- maintain ------------------------------------------------------------------------------------------------------


@click.command("occopus-maintain", context_settings=_SETTINGS)
@_cfg
@_auth
@click.option("-i", "--infraid", metavar="ID", help="The infrastructure.")
@click.option("-l", "--list", "listing", is_flag=True, help="List the infrastructures there are.")
@click.option("-r", "--report", is_flag=True, help="Report the addresses of its instances, asking their clouds.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Report to this file.")
@click.option("-f", "--filter", "pattern", metavar="NAME", default="", help="Report nodes with this in their names.")
@click.option("-c", "--cyclic", is_flag=True, help="Go on until Ctrl+C.")
@click.option(
    "-t", "--interval", metavar="SEC", type=click.FloatRange(min=0.1), default=10.0, help="Between two passes. [10]"
)
@_parallelize
@pass_invocation
def _maintain(
    invocation: Invocation,
    cfg: str | None,
    auth_data_path: str | None,
    infraid: str | None,
    listing: bool,
    report: bool,
    output: Path | None,
    pattern: str,
    cyclic: bool,
    interval: float,
    parallelize: bool,
) -> int:
    """Check and heal an infrastructure: one pass, or with -c one after the other. Or list, or report."""
    if infraid is None and not listing:
        raise click.UsageError("Name an infrastructure by -i, or list those there are by -l.")
    _configure(invocation, cfg, auth_data_path)

    async def work(session: Session) -> int:
        if infraid is None:
            return await _list(invocation, session)
        if report:
            return await _report(invocation, session, infraid, pattern, output)
        return await _keep(invocation, session, infraid, interval if cyclic else None, _strategy(parallelize))

    return invocation.run(work)


async def _list(invocation: Invocation, session: Session) -> int:
    found = await session.client.infrastructures.list()
    if not found:
        invocation.say(_UNLISTED)
        return Exit.OK
    invocation.say("List of active infrastructure:")
    for one in found:
        invocation.say(one.id)
    return Exit.OK


async def _report(invocation: Invocation, session: Session, reference: str, pattern: str, output: Path | None) -> int:
    status = await session.client.infrastructures.status(reference, live=True)
    if output is None:
        invocation.say("Report list of nodes/instances/addresses:")
        await _say_addresses(invocation, session, status, pattern)
        return Exit.OK
    found = await _addresses(session, status, pattern)
    _write(output, [" ".join(addresses) for instances in found.values() for addresses in instances.values()])
    return Exit.OK


def _write(path: Path, lines: Sequence[str]) -> None:
    from pelagos.cli.outputs import write_output

    write_output(path, "".join(f"{line}\n" for line in lines).encode())


async def _keep(
    invocation: Invocation, session: Session, reference: str, interval: float | None, strategy: Strategy
) -> int:
    from pelagos.cli.finding import suggesting
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.maintaining import Maintainer

    with Interrupts("Left at once.") as interrupts:
        maintainer = Maintainer(invocation, session, interrupts, once=interval is None, strategy=strategy)
        async with suggesting(session, reference):
            status = await session.client.infrastructures.status(reference)
        code = await maintainer.keep([status.id], interval or 0.0)
    # Ctrl+C is how a cyclic one is meant to end.
    return Exit.OK if interval is not None and code == Exit.INTERRUPTED else code


# -- scale ---------------------------------------------------------------------------------------------------------


@click.command("occopus-scale", context_settings=_SETTINGS)
@_cfg
@_auth
@click.option("-i", "--infraid", metavar="ID", required=True, help="The infrastructure.")
@click.option("-n", "--node", metavar="NODE", required=True, help="The node.")
@click.option("-c", "--changescale", metavar="±N", type=int, help="So many instances more, or fewer.")
@click.option("-s", "--setscale", metavar="N", type=click.IntRange(min=0), help="So many instances.")
@click.option("-f", "--filter", "instance", metavar="ID_OR_IP", help="This instance goes, by its id or address.")
@pass_invocation
def _scale(
    invocation: Invocation,
    cfg: str | None,
    auth_data_path: str | None,
    infraid: str,
    node: str,
    changescale: int | None,
    setscale: int | None,
    instance: str | None,
) -> int:
    """Change how many instances a node has, within its limits. Exactly one of -c, -s and -f says how."""
    if sum(given is not None for given in (changescale, setscale, instance)) != 1:
        raise click.UsageError("Give exactly one of -c, -s and -f.")
    if changescale == 0:
        raise click.UsageError("-c 0 changes nothing.")
    from pelagos.wire.infrastructures import RunRequest

    _configure(invocation, cfg, auth_data_path)
    number = f"{changescale:+d}" if changescale is not None else str(setscale)

    async def work(session: Session) -> int:
        request = RunRequest(
            kind="scale",
            request_id=invocation.world.new_id(),
            infrastructure=infraid,
            scale={node: number} if instance is None else {},
            remove=() if instance is None else (await _instance_of(session, infraid, node, instance),),
        )
        code, _ = await _carry_out(invocation, session, request)
        return code

    return invocation.run(work)


async def _instance_of(session: Session, reference: str, node: str, wanted: str) -> str:
    """The id of the node's instance that ``wanted`` names by id or by any of its addresses. Raises NotFound."""
    from pelagos.model.errors import NotFound

    status = await session.client.infrastructures.status(reference)
    found = await _addresses(session, status)
    if node not in found:
        raise NotFound(
            f"infrastructure {status.name!r} has no node {node!r}", advice=f"Its nodes are: {', '.join(found)}."
        )
    for identifier, addresses in found[node].items():
        if wanted == identifier or wanted in addresses:
            return identifier
    raise NotFound(f"node {node!r} has no instance {wanted!r}", advice="occopus-maintain -r shows ids and addresses.")


# -- import and the service ----------------------------------------------------------------------------------------


@click.command("occopus-import", context_settings=_SETTINGS)
@_cfg
@_map_clouds
@click.argument("datafile", type=click.Path(path_type=Path))
@pass_invocation
def _import(invocation: Invocation, cfg: str | None, map_clouds: str, datafile: Path) -> int:
    """Store the node definitions of a file: all of them, or none if one has a mistake."""
    from pelagos.clients.bundle import read_bundle
    from pelagos.wire.infrastructures import DefinitionsRequest

    _configure(invocation, cfg, None)
    sources, entries = read_bundle([datafile])

    async def work(session: Session) -> int:
        request = DefinitionsRequest(sources=sources, entries=tuple(entries), map_clouds=map_clouds)
        found = await session.client.definitions.import_(request)
        show_warnings(found.warnings, invocation)
        invocation.say(f"Successfully imported nodes: {', '.join(one.type for one in found.items)}")
        return Exit.OK

    return invocation.run(work)


@click.command("occopus-rest-service", context_settings=_SETTINGS)
@_cfg
@_auth
@click.option("--host", metavar="HOST", help="Where to listen. [default: components.rest.host, 127.0.0.1]")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="[default: components.rest.port, 5000]")
@click.option("--parallelize", is_flag=True, help="Accepted: what comes by REST is always carried out in parallel.")
@pass_invocation
def _rest_service(
    invocation: Invocation,
    cfg: str | None,
    auth_data_path: str | None,
    host: str | None,
    port: int | None,
    parallelize: bool,
) -> int:
    """Serve the REST API and keep infrastructures alive. Requests need the bearer token of PELAGOS_HOME."""
    from pelagos.cli.serving import serve_until_stopped
    from pelagos.compat.configuration import rest_address

    known_host, known_port = rest_address(_configure(invocation, cfg, auth_data_path))
    address = host or known_host
    shown = f"[{address}]" if ":" in address else address
    return serve_until_stopped(invocation, listen=f"{shown}:{known_port if port is None else port}")


# -- what they share -----------------------------------------------------------------------------------------------


def _configure(invocation: Invocation, cfg: str | None, auth: str | None) -> dict[str, Any]:
    """Take the ancestor's files into account; answers its configuration. Raises ConfigurationError."""
    from pelagos.compat.configuration import find_file, is_ancestors, read_configuration

    environ = invocation.world.environ
    if auth:
        invocation.overrides["auth_file"] = str(find_file(auth, "OCCOPUS_AUTH_DATA_PATH", "auth_data.yaml", environ))
    path = find_file(cfg, "OCCOPUS_CONFIG_PATH", "occopus_config.yaml", environ)
    if path is None:
        return {}
    configuration = read_configuration(path)
    if not is_ancestors(configuration):
        invocation.config = str(path)
        return {}
    return configuration


def _strategy(parallelize: bool) -> Strategy:
    return "parallel" if parallelize else "sequential"


async def _carry_out(invocation: Invocation, session: Session, request: RunRequest) -> tuple[int, str]:
    """Run it with progress on stderr: (exit code, the infrastructure's id). Why it failed is told."""
    from pelagos.cli.finding import suggesting
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.progress import choose
    from pelagos.cli.results import succeeded
    from pelagos.cli.runs import carry_out, exit_of_run, tell_failure
    from pelagos.cli.trail import Trail

    with Interrupts() as interrupts:
        async with suggesting(session, request.infrastructure):
            done = await carry_out(invocation, session, request, choose(invocation, Trail()), interrupts)
    if not succeeded(done):
        tell_failure(done, invocation)
        return exit_of_run(done), done.run.infrastructure_id
    return Exit.OK, done.run.infrastructure_id


async def _addresses(session: Session, status: StatusView, pattern: str = "") -> dict[str, dict[str, list[str]]]:
    """Node -> instance -> its addresses, most public first; of nodes with ``pattern`` in their names."""
    servers = {server.instance_id: server.addresses for server in await session.client.servers.list()}
    return {
        name: {
            identifier: list(servers.get(identifier, ())) or ([one.address] if one.address else [])
            for identifier, one in node.instances.items()
        }
        for name, node in status.nodes.items()
        if pattern in name
    }


async def _say_addresses(invocation: Invocation, session: Session, status: StatusView, pattern: str = "") -> None:
    for name, instances in (await _addresses(session, status, pattern)).items():
        invocation.say(f"{name}:")
        for identifier, addresses in instances.items():
            invocation.say(f"  {identifier}:")
            for address in addresses:
                invocation.say(f"    {address}")


def _program(command: click.Command) -> Callable[..., int]:
    """The command as the function of a console script: every error becomes text and an exit code."""

    def main(arguments: Sequence[str] | None = None, invocation: Invocation | None = None) -> int:
        collect_seldom()
        invocation = invocation or Invocation()
        try:
            code = command.main(arguments, prog_name=command.name, standalone_mode=False, obj=invocation)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge, as in pelagos.cli.main
            told = tell(error, invocation)
            return int(_of_configuration(error) or told)
        return int(code or 0)

    return main


def _of_configuration(error: BaseException) -> Exit | None:
    """The exit code for the ancestor's files, by the table of ``pelagos``; None if it is not about them."""
    from pelagos.compat.errors import ConfigurationError, ConfigurationUnreadable

    match error:
        case ConfigurationUnreadable():
            return Exit.USAGE
        case ConfigurationError():
            return Exit.DESCRIPTION
    return None


build = _program(_build)
destroy = _program(_destroy)
maintain = _program(_maintain)
scale = _program(_scale)
import_ = _program(_import)
rest_service = _program(_rest_service)
