"""The table of the suite, and on what it was run."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
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


def dated() -> dict[str, str]:
    """Day and commit of a run, the latter with a + where the tree differs from it."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        told = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return told.stdout.strip() if told.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "digit", "torture")
    return {
        "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit + "+" * bool(changed),
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
        result["when"],
        result["commit"],
    )
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, dict[str, Any]]) -> str:
    """All rows."""
    head = ("test", "what is done", "cases", "lost", "measured", "goal", "when", "commit")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + [row(name, result) for name, result in results.items()])


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
