"""What the package is made of: files, lines, import cycles, the largest files and functions, options, tests.

    python bench/structure.py [CHECKOUT ...] [--out F]

A column per checkout, this one if none is given: `git worktree add ../before COMMIT` gives an older one to
compare with. Lines are all lines of .py files in digit/. Imports count wherever they stand, also inside of
functions. A module has a mirroring test if tests/ holds test_<module>.py in a folder of its name. Options
are what the help of every verb lists, arguments without a name included, without those that all verbs have.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from digit.files import write_json_atomic

HERE = Path(__file__).parents[1]
LISTS = ("import_cycles", "long_files", "long_functions", "full_folders", "without_mirroring_test")
EVERY = {"--help", "--json", "--processes"}  # what every verb has
LONG_FILE, LONG_FUNCTION, FULL_FOLDER = 400, 80, 26
VERBS = """
import json
try:
    from digit.run.verbs import VERBS
except ImportError:
    from digit.run.main import VERBS
print(json.dumps(list(VERBS)))
"""


def measure(root: Path) -> dict[str, Any]:
    """All figures of one checkout."""
    files = sorted((root / "digit").rglob("*.py"))
    lines = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in files}
    functions = [found for path in files for found in _functions(path, root)]
    whole = {name: count for name, count, _ in functions}
    bodies = {name: count for name, _, count in functions}
    folders: dict[str, int] = {}
    for name in lines:
        folder = str(Path(name).parent)
        folders[folder] = folders.get(folder, 0) + 1
    options = _options(root)
    return {
        "commit": _git(root, "rev-parse", "--short", "HEAD"),
        "files": len(files),
        "lines": sum(lines.values()),
        "functions": len(functions),
        "folders": folders,
        "import_cycles": _cycles(root, files),
        "long_files": {name: count for name, count in lines.items() if count > LONG_FILE},
        "largest_files": _most(lines),
        "long_functions": {name: count for name, count in whole.items() if count > LONG_FUNCTION},
        "long_bodies": {name: count for name, count in bodies.items() if count > LONG_FUNCTION},
        "largest_functions": _most(whole),
        "largest_bodies": _most(bodies),
        "full_folders": {name: count for name, count in folders.items() if count > FULL_FOLDER},
        "without_mirroring_test": [name for name in lines if not _mirrored(root, Path(name))],
        "options": sum(options.values()),
        "options_by_verb": options,
    }


def _functions(path: Path, root: Path) -> Iterator[tuple[str, int, int]]:
    """Every function with its lines, and with those of its body without signature and docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
                first = node.body[1]
            assert node.end_lineno is not None
            name = f"{path.relative_to(root)}:{node.lineno} {node.name}"
            yield name, node.end_lineno - node.lineno + 1, node.end_lineno - first.lineno + 1


def _most(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda each: -each[1])[:5])


def _cycles(root: Path, files: list[Path]) -> list[list[str]]:
    """Strongly connected groups of modules (Tarjan's algorithm, on paths as they are walked)."""
    names = {_module(path, root): path for path in files}
    arrows = {name: sorted(_imported(path, names) - {name}) for name, path in names.items()}
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        waiting.append(name)
        for other in arrows[name]:
            if other not in number:
                visit(other)
            if other in waiting:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == number[name]:
            place = waiting.index(name)
            group = waiting[place:]
            del waiting[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path, names: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports; those only for a type checker are none."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    # The package itself is imported with every module of it.
    return {name for name in found if name in names and name != "digit"}


def _mirrored(root: Path, module: Path) -> bool:
    if module.name in ("__init__.py", "__main__.py"):
        return True
    folder = root / "tests" / module.parent.relative_to("digit")
    return (folder / f"test_{module.name}").is_file()


def _options(root: Path) -> dict[str, int]:
    """How many options and arguments the help of each verb lists."""
    environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "90", "NO_COLOR": "1"}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=root, env=environment
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)[:80]} failed in {root}: {done.stderr[-2000:]}")
        return done.stdout

    counted = {}
    for verb in json.loads(python("-c", VERBS)):
        text = python("-m", "digit", *verb.split(), "--help")
        named = re.findall(r"^[^\w-]*(--[\w-]+)", text, flags=re.MULTILINE)
        unnamed = re.findall(r"positional arguments ─+╮\n((?:│.*\n)+)", text)
        arguments = [line for part in unnamed for line in part.splitlines() if re.match(r"│ \S", line)]
        counted[verb] = len(set(named) - EVERY) + len(arguments)
    return counted


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()


def rows(found: list[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table, a column per checkout."""
    yield f"| | {' | '.join(each['commit'] or 'now' for each in found)} |"
    yield "|---|" + "---|" * len(found)
    for name in ("files", "lines", "functions", "options"):
        yield f"| {name} | {' | '.join(f'{each[name]:,}' for each in found)} |"
    for name, title in (
        ("import_cycles", "import cycles"),
        ("long_files", f"files over {LONG_FILE} lines"),
        ("long_functions", f"functions over {LONG_FUNCTION} lines"),
        ("long_bodies", f"of these, without signature and docstring over {LONG_FUNCTION}"),
        ("full_folders", f"folders with over {FULL_FOLDER} files"),
        ("without_mirroring_test", "files without a mirroring test"),
    ):
        yield f"| {title} | {' | '.join(str(len(each[name])) for each in found)} |"
    for name, title in (
        ("largest_files", "largest file"),
        ("largest_functions", "largest function"),
        ("largest_bodies", "largest body of a function"),
    ):
        largest = [next(iter(each[name].items())) for each in found]
        yield f"| {title} | {' | '.join(f'{place}: {count}' for place, count in largest)} |"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", type=Path, nargs="*", default=[HERE])
    parser.add_argument("--out", type=Path, help="JSON file for all figures and lists")
    parser.add_argument("--smoke", action="store_true", help="as without it: it is quick")
    options = parser.parse_args()
    found = [measure(root.resolve()) for root in options.checkouts]
    print("\n".join(rows(found)))
    for each in found[-1:]:
        for name in (
            "import_cycles",
            "long_files",
            "long_functions",
            "full_folders",
            "without_mirroring_test",
        ):
            print(f"\n{name}: {json.dumps(each[name], indent=1)}")
        print(f"\noptions by verb: {json.dumps(each['options_by_verb'], indent=1)}")
    if options.out:
        write_json_atomic(options.out, {"measurement": "structure", "checkouts": found})


if __name__ == "__main__":
    main()
