"""How Sphinx builds the documents. `make docs` does, and a warning is an error."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "Pelagos"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
version = release
copyright = "the Pelagos maintainers"
language = "en"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"Pelagos {release}"
html_show_sphinx = False
html_copy_source = False
