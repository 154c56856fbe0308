"""Records, locks, removal, names and control groups: on a directory, without any instance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelagos.clouds import CloudCapacity, CloudRejected, ServerNotFound
from pelagos.clouds.local.cgroups import ControlGroups
from pelagos.clouds.local.guest import syscalls
from pelagos.clouds.local.network import AddressBook, hosts_file
from pelagos.clouds.local.record import Busy, InstanceDirectory, Record
from pelagos.clouds.local.removal import remove_tree


def record(number: int = 1, **more: object) -> Record:
    facts = {
        "provider_id": f"i-{number}", "token": f"t{number}", "name": f"n{number}", "hostname": f"h{number}",
        "level": "processes", "network": "loopback", "address": f"127.70.0.{number}", "created_at": 1.0,
    }  # fmt: skip
    return Record(**{**facts, **more})  # type: ignore[arg-type]


def test_a_record_comes_back_and_is_made_under_its_lock(tmp_path: Path) -> None:
    directory = InstanceDirectory(tmp_path, "local")
    with directory.claim():
        making = directory.add(record())
    assert directory.records() == [record()]
    with pytest.raises(Busy):
        directory.take("i-1")
    seen = directory.look(record())
    assert seen is not None and seen.making and not seen.alive
    os.close(making)
    os.close(directory.take("i-1"))


def test_a_half_made_directory_is_not_seen_and_is_swept(tmp_path: Path) -> None:
    directory = InstanceDirectory(tmp_path, "local")
    with directory.claim():
        (directory.instances / ".new-i-9" / "upper").mkdir(parents=True)
        assert directory.records() == []
        os.close(directory.add(record()))
    assert sorted(path.name for path in directory.instances.iterdir()) == ["i-1"]
    assert list(directory.trash.iterdir()) == []


def test_a_lock_taken_on_a_removed_instance_does_not_count(tmp_path: Path) -> None:
    directory = InstanceDirectory(tmp_path, "local")
    with directory.claim():
        os.close(directory.add(record()))
        directory.retire(directory.of("i-1"))
    with pytest.raises(ServerNotFound):
        directory.take("i-1")
    directory.sweep()
    assert list(directory.trash.iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc", ".", "..", ".new-i-1", "a/b"])
def test_an_id_is_never_a_path(tmp_path: Path, name: str) -> None:
    directory = InstanceDirectory(tmp_path, "local")
    directory.make()
    (tmp_path / "clouds" / "local" / "record.msgpack").write_bytes(b"x")
    assert directory.record(name) is None


def test_a_lock_can_be_asked_after_without_being_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    holder, asker = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    assert not syscalls.is_locked(asker, syscalls.LIFE_BYTE)
    syscalls.lock_shared(holder, syscalls.LIFE_BYTE)
    assert syscalls.is_locked(asker, syscalls.LIFE_BYTE)
    assert not syscalls.is_locked(asker, syscalls.MAKING_BYTE)
    os.close(holder)
    assert not syscalls.is_locked(asker, syscalls.LIFE_BYTE)
    os.close(asker)


def test_removal_follows_no_link_and_opens_closed_directories(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    (tree / "closed" / "deep").mkdir(parents=True)
    (tree / "closed" / "deep" / "file").write_text("x")
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    (tree / "closed").chmod(0)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "precious").exists()
    remove_tree(tree)


def test_hosts_names_itself_first_and_the_others_once() -> None:
    one = record(1, metadata={"aliases": "web, lb, 1.2.3.4 evil,\n6.6.6.6 bank"})
    two = record(2)
    lines = hosts_file(one, [two, one]).splitlines()
    assert lines[2:] == ["127.70.0.1 h1 web lb", "127.70.0.2 h2"]


def test_loopback_addresses_are_claimed_in_order_and_run_out_into_the_next_piece(tmp_path: Path) -> None:
    book = AddressBook(InstanceDirectory(tmp_path, "local"), "")
    first = book.claim("loopback", [])
    network = first.rsplit(".", 1)[0]
    assert first == f"{network}.1"
    assert book.claim("loopback", [record(1, address=first)]) == f"{network}.2"
    full = frozenset(f"{network}.{last}" for last in range(1, 255))
    assert book.claim("loopback", [], full).rsplit(".", 1)[0] != network


def test_a_full_subnet_is_capacity(tmp_path: Path) -> None:
    directory = InstanceDirectory(tmp_path, "local")
    directory.make()
    book = AddressBook(directory, "")
    from msgspec import msgpack

    (directory.path / "network.msgpack").write_bytes(msgpack.encode("10.99.0.0/30"))
    only = book.claim("bridge", [])
    assert only == "10.99.0.2"
    with pytest.raises(CloudCapacity):
        book.claim("bridge", [record(1, address=only)])


def test_a_wrong_subnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CloudRejected, match="is no network"):
        AddressBook(InstanceDirectory(tmp_path, "local"), "10.0.0.7/24")


def test_limits_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "cgroup.subtree_control").write_text("memory")
    (tmp_path / "pelagos-k").mkdir()
    (tmp_path / "pelagos-k" / "cgroup.subtree_control").write_text("")
    groups = ControlGroups("k", tmp_path)
    assert groups.version == 2
    (joins,) = groups.make("i-1", cpus=0.5, memory_mb=64)
    place = tmp_path / "pelagos-k" / "i-1"
    assert joins == str(place / "cgroup.procs")
    assert (place / "memory.max").read_text() == str(64 << 20)
    assert (place / "cpu.max").read_text() == "50000 100000"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"


def test_no_control_groups_is_said_with_a_reason(tmp_path: Path) -> None:
    groups = ControlGroups("k", tmp_path)
    assert groups.version == 0
    assert "no control group hierarchy" in groups.reason
    assert groups.joins("i-1") == []
