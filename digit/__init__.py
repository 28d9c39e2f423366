"""Image generation on discriminative tokens (DiGIT, arXiv:2410.12490).

The surface: `load` any artifact, `DigitPipeline` for whole models, and a function for every verb of the
command line. Pixels are uint8 or floats in [0, 1], codes whole numbers from 0. Names are imported when they
are first used; __init__.pyi lists them.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

from digit.nn import forms

__version__ = "0.1.0"

forms.provider = "digit.fast"  # faster forms of some functions, where they can run

_PLACES = {
    name.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module
    for name in node.names
}
__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'digit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
