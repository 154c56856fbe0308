"""Who is dead on this host, and who only may be."""

import os
import subprocess
import sys

import msgspec
import pytest

from pelagos.store import Holder, LeaseRow, SystemHostFacts
from pelagos.store.hosts import _started


def row(holder: Holder, **changes) -> LeaseRow:
    fields = {name: getattr(holder, name) for name in ("host", "boot_id", "pid", "pid_started", "lock_path")}
    fields |= {"name": "x", "epoch": 1, "holder": holder.id, "purpose": "", "acquired_at": 0.0, "expires_at": 0.0}
    return msgspec.structs.replace(LeaseRow(**fields), **changes)


@pytest.fixture
def facts(tmp_path):
    return SystemHostFacts(tmp_path / "locks")


@pytest.fixture
def other(tmp_path):
    return SystemHostFacts(tmp_path / "locks")


def test_who_keeps_the_lock_lives_whatever_else_is_said(facts, other):
    holder = facts.hold("one")
    assert holder.pid == os.getpid() and len(holder.boot_id) <= 64 and holder.pid_started
    assert not other.is_dead(row(holder))
    assert not other.is_dead(row(holder, pid=999_999_999, pid_started="1", boot_id="another boot"))
    facts.let_go(clean=False)
    assert other.is_dead(row(holder))
    assert other.is_dead(row(holder, boot_id="another boot", host="renamed since"))


def test_a_clean_end_leaves_no_file(facts, tmp_path):
    facts.hold("one")
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["one.lock"]
    facts.let_go(clean=True)
    assert list((tmp_path / "locks").iterdir()) == []


def test_without_the_file_pid_and_start_time_tell_within_one_boot(facts, other):
    holder = facts.hold("one")
    facts.let_go(clean=True)
    assert not other.is_dead(row(holder))
    assert other.is_dead(row(holder, pid_started="1"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert other.is_dead(row(holder, pid=ended.pid))
    # Of another machine, or of another boot of this one, pids say nothing.
    assert not other.is_dead(row(holder, pid=ended.pid, boot_id="another boot"))
    assert not other.is_dead(row(holder, pid=ended.pid, boot_id=""))


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert _started(child.pid) is not None
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert _started(child.pid) is None
    child.wait()


def test_two_that_look_at_once_do_not_take_one_another_for_the_holder(facts, other, tmp_path):
    import fcntl

    holder = facts.hold("one")
    facts.let_go(clean=False)
    with open(tmp_path / "locks" / "one.lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert other.is_dead(row(holder))


def test_old_lock_files_of_the_dead_are_swept_and_no_others(facts, other, tmp_path):
    facts.hold("living")
    for name, age in (("old", 100_000.0), ("young", 0.0)):
        path = tmp_path / "locks" / f"{name}.lock"
        path.touch()
        os.utime(path, (1_000_000.0 - age, 1_000_000.0 - age))
    os.utime(tmp_path / "locks" / "living.lock", (0.0, 0.0))
    other.sweep(1_000_000.0)
    assert sorted(path.name for path in (tmp_path / "locks").iterdir()) == ["living.lock", "young.lock"]
    facts.let_go(clean=True)
