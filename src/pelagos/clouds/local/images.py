"""Root file systems out of tarballs, unpacked once and shared, read-only, by all instances made of them."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path, PurePosixPath

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.local.removal import remove_tree

__all__ = ["Images"]


class Images:
    """The unpacked images of one account. All methods are called under the account's claim."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path_of(self, key: str) -> Path:
        """Where an image lies."""
        return self._path / key

    def unpack(self, tarball: Path) -> str:
        """Unpack a tarball unless that has been done; its key. Raises CloudRejected, OSError."""
        if not tarball.is_absolute():
            raise CloudRejected(
                f"the image {os.fspath(tarball)!r} is neither 'host' nor an absolute path",
                advice="Give the path of a tarball of a root file system (.tar, .tar.gz, .tar.xz, .tar.bz2).",
            )
        try:
            facts = tarball.stat()
        except FileNotFoundError as error:
            raise CloudRejected(
                f"there is no image {tarball}", advice="Check `image` in the node's resource."
            ) from error
        text = f"{os.path.realpath(tarball)}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ino}"
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self.path_of(key).is_dir():
            return key
        beside = self._path / f".new-{key}"
        remove_tree(beside)
        beside.mkdir(mode=0o755)
        try:
            with tarfile.open(tarball) as archive:
                _extract(archive, beside)
        except (tarfile.TarError, EOFError) as error:
            remove_tree(beside)
            raise CloudRejected(f"the image {tarball} cannot be read: {error}") from error
        except BaseException:
            remove_tree(beside)
            raise
        if not (beside / "bin").exists() and not (beside / "usr").exists():
            remove_tree(beside)
            raise CloudRejected(
                f"the image {tarball} holds no root file system: neither /bin nor /usr is in it",
                advice="Make one with `debootstrap` or `docker export`.",
            )
        beside.rename(self.path_of(key))
        return key

    def release(self, used: set[str]) -> None:
        """Remove the images that no record uses."""
        for place in sorted(self._path.iterdir()):
            if place.name not in used:
                remove_tree(place)


def _extract(archive: tarfile.TarFile, target: Path) -> None:
    """Extract without trusting names: nothing lands outside, no device nodes; owners only as root."""
    owners = os.geteuid() == 0
    for member in archive:
        parts = [part for part in PurePosixPath(member.name).parts if part not in ("/", ".")]
        if ".." in parts:
            raise CloudRejected(f"the image has a member outside of its root: {member.name}")
        if not parts or not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            continue
        place = target
        for part in parts[:-1]:
            place = place / part
            if place.is_symlink():
                raise CloudRejected(f"the image has a member behind a symbolic link: {member.name}")
            place.mkdir(exist_ok=True)
        place = place / parts[-1]
        if place.is_symlink() or (place.exists() and not (member.isdir() and place.is_dir())):
            place.unlink()
        if member.isdir():
            place.mkdir(exist_ok=True)
        elif member.issym():
            place.symlink_to(member.linkname)
        elif member.islnk():
            link = [part for part in PurePosixPath(member.linkname).parts if part not in ("/", ".")]
            source = target.joinpath(*link)
            if ".." in link or not Path(os.path.realpath(source)).is_relative_to(os.path.realpath(target)):
                raise CloudRejected(f"the image has a link out of its root: {member.name}")
            os.link(source, place, follow_symlinks=False)
        else:
            data = archive.extractfile(member)
            if data is not None:
                with place.open("wb") as file:
                    while chunk := data.read(1 << 20):
                        file.write(chunk)
        if owners:
            os.chown(place, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            mode = member.mode & 0o7777
            place.chmod(mode if owners else mode & 0o1777 | (0o700 if member.isdir() else 0o400))
