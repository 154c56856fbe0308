"""``python -m pelagos.simulation``: see :mod:`pelagos.simulation.command`."""

from __future__ import annotations

import os
import sys

from pelagos.simulation.command import HASH_SEED, main

if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        # Some order may hang on the hash of a text: the same in every run, then.
        environment = {**os.environ, "PYTHONHASHSEED": HASH_SEED}
        os.execve(sys.executable, [sys.executable, "-m", "pelagos.simulation", *sys.argv[1:]], environment)  # noqa: S606
    sys.exit(main(sys.argv[1:]))
