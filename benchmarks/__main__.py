"""``python -m benchmarks [--quick] [--strict] [--markdown] [--only WORD]``: a line each, see docs/performance.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable

from benchmarks.report import Row, as_line, as_table, heading
from pelagos.cli.collecting import collect_seldom

Group = Callable[[bool], list[Row]]


def _startup(_: bool) -> list[Row]:
    from benchmarks import startup

    return startup.measure()


def _rpc(quick: bool) -> list[Row]:
    from benchmarks import rpc

    return rpc.measure(quick)


def _rpc_amqp(quick: bool) -> list[Row]:
    from benchmarks import rpc_amqp

    return rpc_amqp.measure(quick)


def _processes(quick: bool) -> list[Row]:
    from benchmarks import processes

    return processes.measure(1_000 if quick else processes.MANY)


def _plan(quick: bool) -> list[Row]:
    from benchmarks import plans

    return plans.measure(1_000 if quick else 10_000)


def _graph(quick: bool) -> list[Row]:
    from benchmarks import builds

    return builds.against_the_graph(200 if quick else 1_000)


def _crowd(quick: bool) -> list[Row]:
    from benchmarks import builds

    return builds.against_one_at_a_time(100 if quick else 300)


def _takeover(_: bool) -> list[Row]:
    from benchmarks import takeover

    return takeover.measure()


def _instant(quick: bool) -> list[Row]:
    from benchmarks import builds

    return builds.without_latency((30, 100, 300, 1_000) if quick else (30, 100, 300, 1_000, 10_000))


def _repository(quick: bool) -> list[Row]:
    from benchmarks import repository

    return repository.measure(quick)


def _local(_: bool) -> list[Row]:
    from benchmarks import local_instance

    return [
        Row(
            name=name,
            measured=measured,
            floor=floor,
            floor_name="bare unshare",
            aim=local_instance.AIM,
            aim_text=f"<= {local_instance.AIM * 1e3:.0f} ms",
        )
        for name, measured, floor in local_instance.measure()
    ]


def _events(_: bool) -> list[Row]:
    from benchmarks import events

    return events.measure()


GROUPS: dict[str, Group] = {
    "startup": _startup,
    "rpc": _rpc,
    "events": _events,
    "processes": _processes,
    "rpc-amqp": _rpc_amqp,
    "local": _local,
    "repository": _repository,
    "plan": _plan,
    "instant": _instant,
    "graph": _graph,
    "crowd": _crowd,
    "takeover": _takeover,
}


def machine() -> str:
    """What the numbers were measured on; no names, no paths."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().split("-")[0]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB of memory, "
        f"{platform.system()} {kernel}, Python {platform.python_version()}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers of nodes; the aims are for the large")
    parser.add_argument("--strict", action="store_true", help="exit 1 if anything is short of its aim")
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/performance.md at the end")
    parser.add_argument("--only", action="append", choices=sorted(GROUPS), help="this group; may be repeated")
    arguments = parser.parse_args()
    collect_seldom()  # as the commands do
    print(f"{machine()}; {time.strftime('%Y-%m-%d', time.gmtime())}; load before: {os.getloadavg()[0]:.1f}")
    rows: list[Row] = []
    print(heading())
    for name, group in GROUPS.items():
        if arguments.only and name not in arguments.only:
            continue
        for row in group(arguments.quick):
            rows.append(row)
            print(as_line(row), flush=True)
    short = [row.name for row in rows if row.verdict == "short"]
    if arguments.markdown:
        print()
        print(as_table(rows))
    if short:
        print(f"short: {', '.join(short)}", file=sys.stderr)
    return 1 if short and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
