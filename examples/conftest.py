"""The examples' tests: `pytest examples`, or `pytest` in one folder.

A project of your own has one line in its topmost conftest.py: pytest_plugins = ["pelagos.testing.plugin"]. Here the
fixtures are imported, since this file is not the topmost.
"""

import sys
from pathlib import Path

from pelagos.testing.plugin import *  # noqa: F403 - the fixtures, under their names

# Each example is a folder of its own with its module beside the app file, where `pelagos container` finds it, too.
sys.path += [str(folder) for folder in sorted((Path(__file__).parent / "hello").iterdir()) if folder.is_dir()]
