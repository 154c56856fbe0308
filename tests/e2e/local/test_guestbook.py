"""The main job on this machine: the guestbook is built, answers, is healed, scaled, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.local.product import Product, product, until, until_line

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the guestbook's instances are counted by what only root sees"),
]
FULL = {"store": 1, "web": 2, "lb": 1}


@pytest.fixture
def bare() -> Iterator[Product]:
    """Nothing is built yet."""
    with product() as made:
        yield made


@pytest.fixture
def guestbook(bare: Product) -> Product:
    bare.up()
    return bare


def test_it_is_built_answers_and_keeps_entries(guestbook: Product) -> None:
    guestbook.assert_exactly(**FULL)
    assert "<h1>Guestbook</h1>" in guestbook.page()
    assert "<li>hello &amp; welcome</li>" in guestbook.page("hello & welcome")
    before = guestbook.instances()
    again = guestbook.up()
    assert "nothing" in again.stdout + again.stderr and guestbook.instances() == before
    assert again.stdout.splitlines()[-1] == guestbook.status()["id"]
    guestbook("plan", *guestbook.sources, code=0)
    guestbook.edit("infra-guestbook.yaml", "min: 2", "min: 3")
    plan = guestbook("plan", *guestbook.sources, code=2)
    assert "create 1" in plan.stdout and guestbook.instances() == before
    guestbook("scale", "guestbook", "web", "+2", "--yes")
    guestbook.assert_exactly(store=1, web=4, lb=1)
    guestbook("scale", "guestbook", "web", "2", "--yes")
    assert guestbook.instances() == before, "the youngest went"
    assert "2 to 6" in guestbook("scale", "guestbook", "web", "7", "--yes", code=64).stderr
    assert "hello &amp; welcome" in guestbook.page()
    assert "user data finished" in guestbook("logs", "guestbook", "store").stdout
    assert "run succeeded" in guestbook("events", "guestbook").stdout
    guestbook("explain", "guestbook/web")
    guestbook("down", "guestbook", "--yes")
    guestbook.assert_nothing_left()
    assert guestbook("status", "guestbook", code=66).stderr


def test_killed_processes_of_an_instance_are_healed_by_a_pass(guestbook: Product) -> None:
    before = guestbook.instances("web")
    victim = sorted(before)[0]
    guestbook.kill_inside(victim)
    guestbook("maintain", "guestbook", "--once")
    after = guestbook.instances("web")
    assert victim not in after and set(before) - {victim} < set(after)
    guestbook.assert_exactly(**FULL)
    assert "Guestbook" in guestbook.page()
    assert "healed" not in guestbook("maintain", "guestbook", "--once").stderr
    assert guestbook.instances("web") == after, "a pass over what is well changes nothing"


def test_a_dead_program_inside_is_noticed_by_its_health_and_healed(bare: Product) -> None:
    bare.edit("node-definitions.yaml", "timeout: 10", "timeout: 0.5")
    bare.up()
    before = bare.instances("web")
    victim = sorted(before)[0]
    bare.kill_inside(victim, "/srv/guestbook/web.py")
    assert bare.processes(bare.provider_id(victim)), "the instance itself lives on"

    def healed() -> bool:
        done = bare("maintain", "guestbook", "--once", code=None)
        assert done.returncode in (0, 3), done.stderr
        return done.returncode == 0 and victim not in bare.instances("web")

    until(healed, "passes heal it")
    bare.assert_exactly(**FULL)
    assert set(before) - {victim} < set(bare.instances("web"))


def test_the_daemon_heals_and_serves_commands(guestbook: Product) -> None:
    daemon = guestbook.start("serve")
    until_line(daemon, "serving|ready")
    victim = sorted(guestbook.instances("web"))[0]
    guestbook.kill_inside(victim)

    def healed() -> bool:
        return victim not in guestbook.instances("web") and guestbook.ready() == FULL

    until(healed, "the daemon heals it")
    guestbook.assert_exactly(**FULL)
    elsewhere = {"PELAGOS_HOME": "/nonexistent", "PELAGOS_URL": f"unix://{guestbook.home / 'pelagos.sock'}"}
    assert "guestbook" in guestbook("list", environ=elsewhere).stdout
    guestbook("scale", "guestbook", "web", "3", "--yes", environ=elsewhere)
    guestbook.assert_exactly(store=1, web=3, lb=1)
    guestbook("down", "guestbook", "--yes", environ=elsewhere)
    guestbook.assert_nothing_left()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(15) == 0


@pytest.mark.timeout(120)
def test_kill_9_at_random_moments_and_the_next_up_finishes(bare: Product) -> None:
    moments = random.Random(2026)
    rounds = 6
    for number in range(rounds):
        # Spread over the whole build: starting the command takes about a third of it.
        moment = 0.3 + (number + moments.random()) / rounds * 1.0
        command = bare.start("up", *bare.sources, "--yes")
        time.sleep(moment)  # not a synchronisation: the moment of death is what is varied
        command.kill()
        command.communicate()
        began = time.monotonic()
        bare.up()
        assert time.monotonic() - began < 10, f"killed after {moment:.2f} s: no time-out is waited for"
        bare.assert_exactly(**FULL)
        if number % 2:
            bare("down", "guestbook", "--yes")
            bare.assert_nothing_left()
        else:
            command = bare.start("down", "guestbook", "--yes")
            time.sleep(moments.uniform(0.3, 1.0))
            command.kill()
            command.communicate()
            assert bare("down", "guestbook", "--yes", code=None).returncode in (0, 66)
            bare.assert_nothing_left()


def test_two_ups_at_once(bare: Product) -> None:
    commands = [bare.start("up", *bare.sources, "--yes") for _ in range(2)]
    said = [command.communicate(timeout=40) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    ids = {out.splitlines()[-1] for out, _ in said}
    assert len(ids) == 1
    bare.assert_exactly(**FULL)


def test_ctrl_c_takes_back_only_what_the_run_made(guestbook: Product) -> None:
    before = guestbook.instances()
    guestbook.edit("infra-guestbook.yaml", "min: 2", "min: 5")
    command = guestbook.start("up", *guestbook.sources, "--yes")
    until_line(command, r"web/\w+ +(pending|checking)")
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 130, said
    assert guestbook.instances() == before
    guestbook.assert_exactly(**FULL)
    command = guestbook.start("up", *guestbook.sources, "--yes")
    until_line(command, r"web/\w+ +(pending|checking)")
    command.send_signal(signal.SIGINT)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=10)
    assert command.returncode == 130
    guestbook.up()
    guestbook.assert_exactly(store=1, web=5, lb=1)
    assert before.keys() <= guestbook.instances().keys()


def test_ctrl_c_with_keep(bare: Product) -> None:
    command = bare.start("up", *bare.sources, "--yes", "--keep")
    until_line(command, r"store/\w+ +ready")
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert command.returncode == 130
    kept = set(bare.instances())
    assert kept
    bare.up()
    assert kept <= set(bare.instances())
    bare.assert_exactly(**FULL)


def fill(file: Path) -> None:
    with file.open("ab", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            return


def test_a_full_disk_is_told_and_down_works_on_it() -> None:
    with product() as bare:
        bare.home.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "none", str(bare.home)]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("this root may not mount a file system")
        try:
            bare.up()
            before = bare.instances()
            (bare.home / "pelagos.db.reserve").unlink()  # with it, there would be room for a while
            fill(bare.home / "filler")
            failed = bare("scale", "guestbook", "web", "3", "--yes", code=None)
            assert failed.returncode in (1, 73, 74), failed
            assert "disk" in failed.stderr and "space" in failed.stderr, failed.stderr
            assert "Traceback" not in failed.stderr
            (bare.home / "filler").unlink()
            assert bare.instances().keys() >= before.keys(), "nothing is lost"
            bare.up()
            assert "Guestbook" in bare.page()
            fill(bare.home / "filler")
            bare("down", "guestbook", "--yes")
            bare.assert_nothing_left()
        finally:
            bare("down", "guestbook", "--yes", code=None)
            subprocess.run(["umount", "-l", str(bare.home)], check=True)


def test_an_address_in_use_and_a_home_without_permission(bare: Product) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = bare("serve", "--listen", f"127.0.0.1:{port}", code=None)
    assert failed.returncode in (1, 69), failed.stderr
    assert str(port) in failed.stderr and "in use" in failed.stderr and "Traceback" not in failed.stderr
    bare("list")
    os.chown(bare.home, 65534, 65534)
    try:
        failed = bare("list", code=None)
    finally:
        os.chown(bare.home, 0, 0)
    assert failed.returncode in (74, 77), failed.stderr
    assert f"{bare.home} belongs to user 65534" in failed.stderr and "PELAGOS_HOME" in failed.stderr
