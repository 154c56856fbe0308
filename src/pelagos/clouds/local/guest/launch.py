"""Brings an instance up: ``launch <instance id>``, the plan as JSON on stdin, one line of JSON back on stdout.

It makes the namespaces, starts init in them and stays until init says that it runs or why not. If the command that
called it is killed meanwhile, it goes on: an instance is whole or not there. Init becomes a child of the machine's
own init.
"""

# ruff: noqa: PTH103, PTH104, PTH120
# (text paths: pathlib would cost the start of each instance some milliseconds)

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from . import init, netlink, rootfs, steps, syscalls

__all__ = ["main"]

PATIENCE = 30
"""Seconds after which a launch that hangs is given up."""


class Failure(Exception):
    """The instance cannot be brought up; ``stage`` is what was being done."""

    def __init__(self, stage: str, error: OSError) -> None:
        super().__init__(f"{stage}: {error}")
        self.stage = stage
        self.error = error


def main() -> None:
    """Entry of the launcher."""
    plan = json.load(sys.stdin)
    os.chdir("/")
    os.umask(0o022)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer = _launch(plan)
    except Failure as failure:
        answer = {"error": str(failure), "errno": failure.error.errno or 0, "stage": failure.stage}
    except OSError as error:
        answer = {"error": f"launch: {error}", "errno": error.errno or 0, "stage": "launch"}
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)
    os._exit(0)


def _launch(plan: dict[str, Any]) -> dict[str, Any]:
    directory = plan["directory"]
    # The caller's lock on bringing this instance up is ours as well: it goes when both of us are gone.
    os.set_inheritable(plan["making_fd"], False)
    life = os.open(f"{directory}/lock", os.O_RDONLY | os.O_CLOEXEC)
    if syscalls.is_locked(life, syscalls.LIFE_BYTE):
        return {"already": True}
    syscalls.lock_shared(life, syscalls.LIFE_BYTE)
    console = os.open(f"{directory}/console.log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    phases = os.open(f"{directory}/phases", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(phases, b'{"phase": "start"}\n')
    claim = _claim_address(plan)
    for path in plan["cgroups"]:
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))
        except OSError as error:
            plan["warnings"].append(f"no limits by {os.path.dirname(path)}: {error.strerror}")
    report_out, report_in = os.pipe2(os.O_CLOEXEC)
    go_out, go_in = os.pipe2(os.O_CLOEXEC)
    _new_namespaces_for_children(plan)
    pid = os.fork()
    if pid == 0:
        os.close(report_out)
        os.close(go_in)
        # the creator's lock and pipes are not the instance's
        os.close(plan["making_fd"])
        _child(plan, life, console, phases, claim, report_in, go_out)
    os.close(report_in)
    os.close(go_out)
    try:
        return _attend(plan, pid, report_out, go_in)
    except BaseException:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):  # its own end was the failure
            pass
        raise


def _claim_address(plan: dict[str, Any]) -> socket.socket | None:
    """In loopback mode the kernel keeps the claim: a name in the network namespace that init holds for life."""
    if plan["network"]["mode"] != "loopback":
        return None
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        claim.bind(f"\0pelagos-address-{plan['network']['address']}")
    except OSError as error:
        claim.close()
        raise Failure("claim the address", error) from error
    return claim


def _new_namespaces_for_children(plan: dict[str, Any]) -> None:
    if plan["level"] == "processes":
        return
    try:
        if plan["level"] == "namespaces-user":
            uid, gid = os.geteuid(), os.getegid()
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
                    file.write(text)
        else:
            syscalls.unshare(syscalls.CLONE_NEWPID)
    except OSError as error:
        raise Failure("make the namespaces", error) from error


def _attend(plan: dict[str, Any], pid: int, report: int, go: int) -> dict[str, Any]:
    """Note who init is, lay its cable, and wait for its word."""
    directory = plan["directory"]
    started = syscalls.start_time(pid)
    beside = f"{directory}/run.json.new"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump({"pid": pid, "start": started, "boot": plan["boot"]}, file)
    os.rename(beside, f"{directory}/run.json")
    network = plan["network"]
    buffer = b""
    while True:
        if not select.select([report], [], [], PATIENCE)[0]:
            raise Failure("wait for init", OSError(errno.ETIMEDOUT, f"no word within {PATIENCE} s"))
        data = os.read(report, 4096)
        if not data:
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            raise Failure("start init", OSError(errno.EIO, f"it ended with {code}"))
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            word = json.loads(line)
            if word["say"] == "namespaces":
                if network["mode"] == "bridge":
                    try:
                        with netlink.Netlink() as link:
                            link.add_veth(network["veth"], network["bridge"], "eth0", pid, network["address"])
                    except OSError as error:
                        raise Failure("make the network", error) from error
                os.write(go, b"g")
            elif word["say"] == "running":
                return {"pid": pid, "start": started}
            else:
                os.waitpid(pid, 0)
                raise Failure(word["stage"], OSError(word["errno"], word["text"]))


def _child(
    plan: dict[str, Any], life: int, console: int, phases: int, claim: socket.socket | None, report: int, go: int
) -> NoReturn:
    """Become init. ``life`` and ``claim`` stay open for good."""
    stage = "make the namespaces"
    first = init.Init(plan, life, console, phases)

    def say(word: str, **facts: Any) -> None:
        try:
            os.write(report, (json.dumps({"say": word, **facts}) + "\n").encode())
        except BrokenPipeError:  # the launcher was killed; an instance that has come so far goes on
            pass

    try:
        os.setsid()
        syscalls.set_name("pelagos-init")
        if plan["level"] != "processes":
            flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
            if plan["network"]["mode"] == "bridge":
                flags |= syscalls.CLONE_NEWNET
            syscalls.unshare(flags)
        say("namespaces")
        if plan["level"] == "processes":
            syscalls.set_subreaper()
            os.makedirs(plan["working_directory"], exist_ok=True)
        else:
            stage = "set the host name"
            syscalls.set_hostname(plan["hostname"])
            stage = "mount the root file system"
            root = rootfs.build(plan)
            syscalls.change_root(root)
        stage = "set the network up"
        if not os.read(go, 1):
            os._exit(1)
        if plan["network"]["mode"] == "bridge":
            _configure_network(plan["network"])
        stage = "drop rights"
        if plan["level"] != "processes":
            syscalls.drop_capabilities()
        if plan["level"] == "namespaces-root":
            syscalls.set_dumpable(False)
        stage = "take the console"
        first.prepare()
        first.log(f"instance {plan['id']} ({plan['hostname']}, {plan['network']['address']}) is running")
        first.phase("running")
        say("running")
        if plan["probe"]:
            os._exit(0)
        os.close(report)
        os.close(go)
    except OSError as error:
        first.log(f"cannot start: {stage}: {error}")
        say("failed", stage=stage, errno=error.errno or 0, text=error.strerror or str(error))
        os._exit(1)
    except BaseException as error:  # noqa: BLE001 - a defect of ours: it is told, not swallowed
        first.log(f"cannot start: {stage}: {type(error).__name__}: {error}")
        say("failed", stage=stage, errno=0, text=f"{type(error).__name__}: {error}")
        os._exit(1)
    try:
        first.run()
    except BaseException as error:  # noqa: BLE001 - the last words of process 1, which ends here
        first.log(f"init failed: {type(error).__name__}: {error}")
        first.phase("exit", reason=f"init failed: {type(error).__name__}: {error}")
        os._exit(1)
    del claim, life
    os._exit(0)


def _configure_network(network: dict[str, Any]) -> None:
    with netlink.Netlink() as link:
        link.set_up(link.index("lo"))
        index = link.index("eth0")
        link.add_address(index, network["address"], network["prefix"])
        link.set_up(index)
        link.add_default_route(network["gateway"])


_PRELOADED = (steps,)
