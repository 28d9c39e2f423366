"""The import rule of the house: each layer imports only those before it; the data's way stays readable."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "digit"
FLOW = ["features", "kmeans", "tokenizer", "vqgan", "vqgan_loss", "prior", "renderer", "renderer_masked"]
LEAVES = {"errors", "files", "distributed"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "distributed": {"errors"},
    "nn": LEAVES,
    "data": LEAVES | {"nn"},
    "weights": LEAVES | {"nn", *FLOW, "evaluation"},
    "training": LEAVES | {"nn", "data", "weights"},
    "evaluation": LEAVES | {"nn", "data", "weights", *FLOW},
    "pipeline": LEAVES | {"nn", "weights", *FLOW},
}


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers of digit that a file imports, at its top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("digit.")}
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers(path):
    here = layer(path)
    if here in ("run", "models", "__main__"):
        return
    allowed = LEAVES | {"nn", *FLOW[: FLOW.index(here)]} if here in FLOW else ALLOWED[here]
    strangers = imported(path) - allowed - {here}
    assert not strangers, f"{path.name} imports {sorted(strangers)}"


def test_the_rule_sees_an_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from digit.run.main import main\n")
    assert imported(file) == {"run"}


def test_nobody_imports_run():
    assert not [path for path in FILES if layer(path) not in ("run", "__main__") and "run" in imported(path)]
