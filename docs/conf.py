"""The documentation site: `make docs` builds it from README.md, docs/ and the docstrings into build/site.

The root of the repository is the source folder, so that a relative link means on the site what it means in
the repository: to a page it leads to the page, to another file to a copy, and to nothing is an error.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from digit import __version__  # noqa: E402

project = "digit"
author = copyright = "the digit authors"
version = release = __version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "bench/results/**.md"]
exclude_patterns = [
    ".*",
    "build",
    "digit",
    "experiments",
    "runs",
    "tests*",
    "torture",
    "demo",
    "data",
    "space",
]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "literal"
smartquotes = False  # they make one dash of two, and options have two
html_theme = "furo"
html_title = f"digit {version}"
html_extra_path = ["site"]  # index.html, which leads to docs/index.html
