"""The import rule of the house: each layer imports only those before it; the data's way stays readable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from digit.run.verbs import VERBS

ROOT = Path(__file__).parents[1] / "digit"
FLOW = [
    *(
        "features",
        "own_encoder",
        "kmeans",
        "centroids",
        "tokenizer",
        "own_tokenizer",
        "vqgan",
        "vqgan_loss",
        "prior",
    ),
    *("renderer", "renderer_masked", "renderer_flow", "renderer_flow_loss"),
]
LEAVES = {
    *("printing", "errors", "bounds", "entries", "calls", "opening", "files", "locks", "tensors", "arrays"),
    *("distributed", "figure", "progress", "vqgan_config", "picture_tokenizer"),
}
ALLOWED = {
    "printing": set(),
    "entries": {"bounds", "errors"},
    "errors": {"printing"},
    "bounds": set(),
    "calls": {"errors", "bounds"},
    "opening": set(),
    "files": {"entries", "errors", "opening", "printing"},
    "locks": {"errors", "files", "opening", "progress"},
    "tensors": {"errors", "files", "opening", "printing"},
    "arrays": {"errors", "opening", "printing"},
    "distributed": {"errors"},
    "figure": {"errors", "files", "printing"},
    "picture_tokenizer": set(),
    "vqgan_config": {"bounds", "calls", "errors"},
    "progress": {"distributed", "errors", "printing"},
    "nn": LEAVES,
    "fast": LEAVES | {"nn", *FLOW},
    "data": LEAVES | {"nn"},
    "weights": LEAVES | {"nn", *FLOW},
    "training": LEAVES | {"nn", "fast", "data", "weights"},
    "evaluation": LEAVES | {"nn", "training", "data", "weights", *FLOW},
    "request": LEAVES | {"nn", "weights"},
    "rendering": LEAVES | {"nn", "request", *FLOW},
    "drawing": LEAVES | {"nn", "request", "rendering", *FLOW},
    "page": LEAVES | {"data", "evaluation", "pipeline"},
    "pipeline": LEAVES | {"nn", "data", "weights", "request", "rendering", "drawing", *FLOW},
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


def test_pickles_are_read_in_one_place():
    """By torch's restricted reader; NumPy never reads them."""
    restricted = []
    for path in FILES:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            said = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert said[0] not in ("pickle.load", "pickle.loads"), path
            if said[0] in ("np.load", "numpy.load"):
                assert said[1]["allow_pickle"] == "False", path
            if said[0] == "torch.load":
                assert said[1]["weights_only"] == "True", path
                restricted.append(path.relative_to(ROOT).as_posix())
    assert restricted == ["weights/foreign.py"]


# What Windows lacks. SIGKILL of `run/processes.py` comes after a SIGTERM, by which a process there ends.
POSIX = (
    "pread pwrite fork getuid geteuid sched_getaffinity statvfs register_at_fork killpg setsid mkfifo uname"
)
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_windows_lacks_is_asked_for_first(path):
    text = path.read_text(encoding="utf-8")
    names = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    unguarded = {name for name in names & set(POSIX.split()) if f'hasattr(os, "{name}")' not in text}
    assert not unguarded
    assert not POSIX_MODULES & {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers(path):
    here = layer(path)
    if here in ("run", "models", "__main__"):
        return
    allowed = LEAVES | {"nn", "data", *FLOW[: FLOW.index(here)]} if here in FLOW else ALLOWED[here]
    strangers = imported(path) - allowed - {here}
    assert not strangers, f"{path.name} imports {sorted(strangers)}"


def test_the_rule_sees_an_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from digit.run.main import main\n")
    assert imported(file) == {"run"}


SLOW = ("timm", "torchvision", "matplotlib", "torch._dynamo", "torch.distributed.tensor", "sympy", "sklearn")


def test_a_command_starts_without_what_it_may_not_need():
    """The command line, and a model opened to draw from."""
    code = "import digit.run.main; from digit.pipeline import DigitPipeline as P; import sys;"
    code += f"P.from_pretrained(parts=['renderer']); print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


def test_nobody_imports_run():
    assert not [path for path in FILES if layer(path) not in ("run", "__main__") and "run" in imported(path)]


def modules(path: Path) -> set[str]:
    """The modules of digit that a file names in its imports, at its top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "digit":
            for alias in node.names:
                inner = ROOT.parent / node.module.replace(".", "/") / alias.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("digit.")}
    return found - {"digit"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names on a way that leads back to where it began; none if there is no such way."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (walk(each, [*way, name]) for each in sorted(graph.get(name, ())))), [])
        done.add(name)
        return found

    return next(filter(None, (walk(name, []) for name in sorted(graph))), [])


def test_no_verb_imports_another():
    verbs = {f"digit.run.{verb.place.partition(':')[0]}" for verb in VERBS.values()}
    assert len(verbs) > 10
    for path in (ROOT / "run").rglob("*.py"):
        here = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        assert not (modules(path) & verbs) - {here}, path


def test_no_import_leads_back():
    """Neither at the top of a file nor inside of functions. (`digit` itself names all, for type checkers.)"""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({name_of(path): modules(path) for path in FILES}) == []


def test_only_training_imports_what_is_fast():
    """The method knows its forms for GPUs by `digit.nn.forms` alone, which `digit` tells where they are."""
    users = {layer(path) for path in FILES if "fast" in imported(path)} - {"fast"}
    assert users <= {"training", "run"}
    assert [path for path in FILES if '"digit.fast' in path.read_text()] == []
    assert '"digit.fast"' in (ROOT / "__init__.py").read_text()


def seeks_triton(path: Path) -> bool:
    """Whether a file imports Triton or looks for it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and node.value == "triton":
            return True
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "triton" for name in names):
                return True
    return False


def test_one_predicate_looks_for_triton():
    seekers = {path.relative_to(ROOT) for path in FILES if seeks_triton(path)}
    assert {path for path in seekers if path.parent != Path("fast/kernels")} == {Path("fast/__init__.py")}
