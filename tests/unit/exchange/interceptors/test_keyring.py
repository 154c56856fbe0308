"""Key rings in files."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pelagos.exchange.interceptors import create_identity, ensure_keyring, load_keyring, revoke, trust
from pelagos.model.errors import Conflict, InvalidInput, NotFound, Unauthenticated


def test_an_identity_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    fingerprint = create_identity(tmp_path / "keys")
    assert (tmp_path / "keys" / "identity.key").stat().st_mode & 0o777 == 0o600
    assert load_keyring(tmp_path / "keys").fingerprint == fingerprint
    with pytest.raises(Conflict):
        create_identity(tmp_path / "keys")
    assert load_keyring(tmp_path / "keys").fingerprint == fingerprint
    assert [file.name for file in (tmp_path / "keys").iterdir() if "identity.key." in file.name] == []


def test_containers_of_a_host_get_the_same_ring(tmp_path: Path) -> None:
    assert ensure_keyring(tmp_path / "k").fingerprint == ensure_keyring(tmp_path / "k").fingerprint


@pytest.mark.parametrize(
    ("file", "mode", "said"),
    [
        ("identity.key", 0o644, "others may read"),
        ("identity.key", 0o640, "others may read"),
        (".", 0o777, "others may write"),
        ("trusted", 0o775, "others may write"),
    ],
)
def test_files_that_others_may_touch_are_refused(tmp_path: Path, file: str, mode: int, said: str) -> None:
    create_identity(tmp_path / "k")
    (tmp_path / "k" / file).chmod(mode)
    with pytest.raises(InvalidInput, match=said) as raised:
        ensure_keyring(tmp_path / "k")
    assert raised.value.advice.startswith("chmod")


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_keyring(tmp_path)
    file = tmp_path / "identity.key"
    for content in (
        b"not a key",
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    ):
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(InvalidInput):
            load_keyring(tmp_path)


def test_trust_and_its_end(tmp_path: Path) -> None:
    theirs = create_identity(tmp_path / "theirs")
    other = load_keyring(tmp_path / "theirs")
    ring = ensure_keyring(tmp_path / "ours")
    signature = other.sign(b"test", b"body")
    with pytest.raises(Unauthenticated, match="not trusted"):
        ring.verify(theirs, signature, b"test", b"body")
    assert trust(tmp_path / "ours", tmp_path / "theirs" / "identity.pub") == theirs
    assert trust(tmp_path / "ours", tmp_path / "theirs" / "identity.pub") == theirs
    assert ring.reload()
    assert not ring.reload()
    ring.verify(theirs, signature, b"test", b"body")
    for domain, body in ((b"test", b"other"), (b"other", b"body")):
        with pytest.raises(Unauthenticated, match="never made"):
            ring.verify(theirs, signature, domain, body)
    revoke(tmp_path / "ours", theirs)
    assert ring.reload()
    with pytest.raises(Unauthenticated, match="not trusted"):
        ring.verify(theirs, signature, b"test", b"body")
    with pytest.raises(NotFound):
        revoke(tmp_path / "ours", theirs)
    with pytest.raises(NotFound):
        trust(tmp_path / "ours", tmp_path / "nothing.pub")
    with pytest.raises(InvalidInput):
        trust(tmp_path / "ours", tmp_path / "theirs" / "identity.key")
