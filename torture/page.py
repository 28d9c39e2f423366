"""The table of the suite, and on what it was run."""

import os
import platform
from importlib import metadata
from typing import Any


def machine() -> dict[str, Any]:
    """Processor cores and versions, without names of hosts."""
    packages = ("torch", "pillow", "numpy", "safetensors")
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def row(name: str, result: dict[str, Any]) -> str:
    """One line of the table."""
    figures = "; ".join(f"{key} {_number(value)}" for key, value in result["figures"].items())
    cells = (
        name,
        result["what"],
        f"{result['cases']:,}",
        f"{len(result['losses']):,}",
        figures,
        result["goal"],
        f"{result['processor_seconds']:.0f} s" if "processor_seconds" in result else "",
    )
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, dict[str, Any]]) -> str:
    """All rows."""
    head = ("test", "what is done", "cases", "losses", "measured", "goal", "of a core")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + [row(name, result) for name, result in results.items()])


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
