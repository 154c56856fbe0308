"""Keys in files: this host's identity, and whom it trusts.

A key ring is a directory::

    identity.key        Ed25519, PEM, 0600: who this container is. It never leaves the host.
    identity.pub        the public half, to be carried to other hosts
    trusted/*.pub       public halves of those whose containers and assertions are believed

Containers of one host may share a ring (:func:`ensure_keyring` makes one); hosts exchange their ``identity.pub``. The
ring is the trust boundary: whoever can read ``identity.key`` is a container of the system, and whoever can write to
``trusted`` decides who is. So loading refuses files that others may read or write.

Removing a file from ``trusted`` revokes it: :meth:`KeyRing.reload` forgets the key, and sessions it announced go with
it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pelagos.model.errors import Conflict, InvalidInput, NotFound, Unauthenticated

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["KeyRing", "create_identity", "ensure_keyring", "fingerprint_of", "load_keyring", "revoke", "trust"]

IDENTITY = "identity.key"
PUBLIC = "identity.pub"
TRUSTED = "trusted"


class KeyRing:
    """The keys of a directory, or of a test. Its own identity is always trusted."""

    def __init__(
        self, identity: Ed25519PrivateKey, trusted: list[Ed25519PublicKey] | None = None, *, path: Path | None = None
    ) -> None:
        self.path = path
        self._identity = identity
        self.public = raw_public(identity.public_key())
        self.fingerprint = fingerprint_of(self.public)
        self._trusted: dict[str, Ed25519PublicKey] = {}
        self._set_trusted(trusted or [])

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What others put into their ``trusted``."""
        return self._identity.public_key()

    def sign(self, domain: bytes, body: bytes) -> bytes:
        """64 bytes. ``domain`` says what kind of statement it is, so that none passes for one of another kind."""
        return self._identity.sign(domain + b"\0" + body)

    def verify(self, fingerprint: str, signature: bytes, domain: bytes, body: bytes) -> None:
        """Raises :class:`Unauthenticated` if the signer is not trusted, or did not sign this."""
        from cryptography.exceptions import InvalidSignature

        key = self._trusted.get(fingerprint)
        if key is None:
            raise Unauthenticated(
                f"the key {fingerprint} is not trusted here",
                advice=f"If it should be, put its identity.pub into {self.path / TRUSTED if self.path else TRUSTED}.",
            )
        try:
            key.verify(signature, domain + b"\0" + body)
        except InvalidSignature:
            raise Unauthenticated(
                f"a signature that {fingerprint} never made", advice="Find out who sends under its name."
            ) from None

    @property
    def trusted(self) -> tuple[str, ...]:
        """Fingerprints, this ring's own among them."""
        return tuple(self._trusted)

    def believe(self, public: Ed25519PublicKey) -> None:
        """Trust a key from now on, in memory; :func:`trust` does it in files."""
        self._trusted[fingerprint_of(raw_public(public))] = public

    def disbelieve(self, fingerprint: str) -> None:
        """Trust a key no more, in memory; :func:`revoke` does it in files."""
        self._trusted.pop(fingerprint, None)

    def reload(self) -> bool:
        """Read ``trusted`` again; whether anything changed. Raises as :func:`load_keyring`. Blocking."""
        if self.path is None:
            return False
        before = set(self._trusted)
        self._set_trusted(_read_trusted(self.path))
        return set(self._trusted) != before

    def _set_trusted(self, keys: list[Ed25519PublicKey]) -> None:
        self._trusted = {fingerprint_of(raw_public(key)): key for key in (self._identity.public_key(), *keys)}


def raw_public(key: Ed25519PublicKey) -> bytes:
    """32 bytes."""
    return key.public_bytes_raw()


def fingerprint_of(public: bytes) -> str:
    """Of a raw public key: 40 hexadecimal characters of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:40]


def create_identity(path: Path) -> str:
    """Make the directory and its identity; returns the fingerprint. Raises :class:`Conflict` if there is one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    (path / TRUSTED).mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # Written whole under another name, then linked: of two that make one at once, one wins and nobody reads half a key.
    draft = path / f"{IDENTITY}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        _write_private(draft, pem)
        os.link(draft, path / IDENTITY)
    except FileExistsError:
        raise Conflict(
            f"{path / IDENTITY} is there already", advice="Move it away if you mean to replace this identity."
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    _write_public(path / PUBLIC, key.public_key())
    return fingerprint_of(raw_public(key.public_key()))


def ensure_keyring(path: Path) -> KeyRing:
    """The key ring of a directory, made if there is none: what containers of one host share. Raises as
    :func:`load_keyring`."""
    if not (path / IDENTITY).exists():
        try:
            create_identity(path)
        except Conflict:
            pass  # somebody else made it just now
    return load_keyring(path)


def load_keyring(path: Path) -> KeyRing:
    """Raises :class:`NotFound` without an identity, and :class:`InvalidInput` for files that others may read or write
    and for what is no Ed25519 key. Blocking."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    file = path / IDENTITY
    try:
        _check_mode(path, forbidden=0o022)
        _check_mode(file, forbidden=0o077)
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except FileNotFoundError:
        raise NotFound(f"there is no key {file}", advice="Make one first (create_identity).") from None
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{file} is no private key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"{file} is no Ed25519 key", advice="Only Ed25519 is used; make a new identity.")
    return KeyRing(key, _read_trusted(path), path=path)


def trust(path: Path, public: Path) -> str:
    """Trust the key of a public key file from now on; returns its fingerprint. Idempotent.

    Raises :class:`InvalidInput` if the file holds no Ed25519 public key."""
    key = _load_public(public)
    fingerprint = fingerprint_of(raw_public(key))
    (path / TRUSTED).mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_public(path / TRUSTED / f"{fingerprint}.pub", key)
    return fingerprint


def revoke(path: Path, fingerprint: str) -> None:
    """Trust a key no more. Raises :class:`NotFound` if it was not trusted."""
    found = [
        file
        for file in sorted((path / TRUSTED).glob("*.pub"))
        if fingerprint_of(raw_public(_load_public(file))) == fingerprint
    ]
    if not found:
        raise NotFound(f"no key {fingerprint} is trusted in {path / TRUSTED}")
    for file in found:
        file.unlink()


def _read_trusted(path: Path) -> list[Ed25519PublicKey]:
    folder = path / TRUSTED
    if not folder.exists():
        return []
    _check_mode(folder, forbidden=0o022)
    keys = []
    for file in sorted(folder.glob("*.pub")):
        _check_mode(file, forbidden=0o022)
        keys.append(_load_public(file))
    return keys


def _load_public(file: Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"{file} is no public key in PEM form", advice="It is the identity.pub of another host's key ring."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput(f"{file} is no Ed25519 public key")
    return key


def _write_private(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)


def _write_public(file: Path, key: Ed25519PublicKey) -> None:
    from cryptography.hazmat.primitives import serialization

    draft = file.with_name(f"{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    draft.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    draft.chmod(0o644)
    draft.replace(file)


def _check_mode(file: Path, *, forbidden: int) -> None:
    status = file.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        what = "read" if forbidden & 0o044 else "write"
        raise InvalidInput(
            f"others may {what} {file} (its mode is {mode:04o})", advice=f"chmod {mode & ~forbidden:o} {file}"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise InvalidInput(
            f"{file} belongs to user {status.st_uid}, not to who runs this", advice=f"chown it to {os.geteuid()}."
        )
