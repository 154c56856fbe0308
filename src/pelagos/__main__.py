"""``python -m pelagos``: the command line without its entry script."""

import sys

from pelagos.cli.main import main

sys.exit(main())
