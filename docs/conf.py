"""How Sphinx builds the documents. `make docs` does, and a warning is an error."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Pelagos"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
version = release
copyright = "the Pelagos maintainers"
language = "en"

extensions = ["myst_parser", "from_code"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"Pelagos {release}"
html_show_sphinx = False
html_copy_source = False
