"""Looks into what was built: a wheel without its migrations installs well and fails at the first command.

python .ci/check_dist.py dist
"""

import sys
import tarfile
import zipfile
from pathlib import Path

SOURCES = Path("src/pelagos")


def expected() -> set[str]:
    """All files of the package that git would track, as the wheel names them."""
    return {
        str(path.relative_to("src"))
        for path in SOURCES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def main(folder: Path) -> int:
    wheels, archives = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(archives) != 1:
        print(f"one wheel and one source distribution were expected in {folder}: {sorted(folder.iterdir())}")
        return 1
    with zipfile.ZipFile(wheels[0]) as wheel:
        in_wheel = set(wheel.namelist())
    with tarfile.open(archives[0]) as archive:
        in_archive = {name.partition("/")[2] for name in archive.getnames()}
    wanted = expected()
    # what the rest leans on is named, so that an empty src would not pass
    wanted |= {"pelagos/py.typed", "pelagos/store/migrations/running.py", "pelagos/cli/main.py"}
    missing = [f"{wheels[0].name}: {name}" for name in sorted(wanted - in_wheel)]
    missing += [f"{archives[0].name}: {name}" for name in sorted({f"src/{name}" for name in wanted} - in_archive)]
    missing += [f"{archives[0].name}: {name}" for name in ("LICENSE", "README.md") if name not in in_archive]
    if not any(name.startswith("pelagos/store/migrations/versions/0001") for name in in_wheel):
        missing.append(f"{wheels[0].name}: the first migration")
    for line in missing:
        print(f"missing in {line}")
    if not missing:
        print(f"{wheels[0].name} and {archives[0].name} are whole: {len(wanted)} files of the package")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
