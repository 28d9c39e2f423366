"""What the pages tell people to type is real: README, docs/, SECURITY and CONTRIBUTING.

Every command is understood by the program's own parser, every Python program runs, the tutorial runs from its
first command to its last with small numbers, and every script, target and page that is named exists.
"""

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tests_support import make_pictures

from digit.errors import DigitError
from digit.run.main import Command, run, understand

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
IN_DIGIT = re.compile(r"^digit |^torchrun .* -m -- digit |^sbatch .* experiments/slurm/train\.sh ")
OTHERS = ("make", "pip", "uv", "git", "python", "podman", "cp", "hf", "cd", "source", "pre-commit", "#")
# A command in a sentence may leave out what it needs, or write dots for a number.
ABRIDGED = re.compile(
    r"arguments are required|'\.\.' is|'N' is|expected (at least )?\w+ arguments?"
    r"|nothing to write|--config: .* cannot be read"
)


def blocks(page: Path, kind: str) -> list[str]:
    text = re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", " ") for block in text]


def typed(page: Path) -> list[str]:
    """The lines of a page's shell blocks, without comments."""
    lines = [
        line.split(" #")[0].strip()
        for block in blocks(page, "(?:bash|console|sh)")
        for line in block.splitlines()
    ]
    return [line for line in lines if line]


def commands(page: Path) -> list[str]:
    """What a page's shell blocks give to `digit`."""
    return [IN_DIGIT.sub("", line) for line in typed(page) if IN_DIGIT.match(line)]


def mentions(page: Path) -> list[str]:
    """Commands within sentences and tables."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`digit ([a-z][^`]*)`", text)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_understood(page):
    for line in commands(page):
        assert isinstance(understand(shlex.split(line)), Command | str), line


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_sentences_name_real_verbs_and_options(page):
    for line in mentions(page):
        arguments = [word for word in shlex.split(line) if word != "..."]
        try:
            understand(arguments)
        except DigitError as error:
            group = line in ("train", "evaluate")
            assert group or ABRIDGED.search(str(error)), f"{named(page)}: digit {line}: {error}"


def test_there_are_commands_to_test():
    assert len(commands(ROOT / "README.md")) >= 10
    assert sum(len(commands(page)) for page in PAGES) >= 30
    with pytest.raises(DigitError, match="there is no option --tokens"):
        understand([*shlex.split(commands(ROOT / "README.md")[0]), "--tokens"])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_other_programs_scripts_and_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in typed(page):
        if IN_DIGIT.match(line):
            continue
        program, *words = line.split()
        assert program in OTHERS, f"{named(page)}: {line}"
        if program == "make":
            assert words[0] in targets, line
        scripts = [word for word in words if word.endswith((".py", ".sh"))]
        assert not scripts or (ROOT / scripts[0]).exists(), line


# Those of python.md need pictures and an encoder: tests/test_python_page.py gives them.
PROGRAMS = [page for page in PAGES if blocks(page, "python") and page.name != "python.md"]


@pytest.mark.parametrize("page", PROGRAMS, ids=named)
def test_programs_run(page, tmp_path):
    """All of a page one after the other, in an interpreter of their own: types are not checked there."""
    program = "\n".join((f"import sys; sys.path.insert(0, {str(ROOT)!r})", *blocks(page, "python")))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert page.name != "README.md" or (tmp_path / "cat.png").exists()


SMALL = {  # what the tutorial gives -> what is enough to run it
    "--encoder-size": "16",
    "--size": "16",
    "--image-size": "16",
    "--clusters": "8",
    "--width": "16",
    "--layers": "1",
    "--heads": "2",
    "--steps": "2",
    "--warmup": "1",
    "--batch": "8",
    "--num": "2",
    "--prefix": "8",
    "--views": "2",
}


def small(line: str, encoder: Path, network: Path) -> list[str]:
    """A command of the tutorial with small numbers, and networks that need no download."""
    words = shlex.split(line)
    for place, option in enumerate(words[:-1]):
        if option in SMALL:
            words[place + 1] = SMALL[option]
        elif option == "--encoder":
            words[place + 1] = "vit_tiny_patch16_224"
            words += ["--encoder-weights", str(encoder), "--per-cluster", "32", "--encoder-arguments"]
            words += ["patch_size", "4", "embed_dim", "32", "depth", "4", "num_heads", "2"]
        elif option == "--features":
            words[place + 1] = f"classifier:{network}"
    return words


def test_the_tutorial_runs(tmp_path, monkeypatch, chain, capfd):
    from digit.nn.classifier import Classifier, ClassifierConfig
    from digit.weights.artifact import save

    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(make_pictures(tmp_path / "photos.zip", 24)) as archive:
        archive.extractall("photos")
    torch.manual_seed(0)
    save(
        Classifier(ClassifierConfig(classes=3, width=4, image_size=16)),
        tmp_path / "network",
        classes=list("abc"),
    )
    for line in commands(ROOT / "docs" / "tutorial.md"):
        assert run(small(line, chain.root / "encoder.safetensors", tmp_path / "network")) == 0, (
            line,
            capfd.readouterr().err[-2000:],
        )
    for file in ("runs/tokenizer/codebook.png", "drawn/grid.png", "completed/grid.png"):
        assert (tmp_path / file).exists(), file


def test_every_page_is_in_the_index():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(
        re.findall(
            r"<?([\w./-]+)>?$", "\n".join(blocks(ROOT / "docs" / "index.md", r"\{toctree\}")), re.MULTILINE
        )
    )
    missing = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} - listed
    assert not missing and text, f"docs/index.md does not list {missing}"


def test_links_lead_somewhere():
    """Files of the repository here; headings and references are checked by `make docs`."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{named(page)}: {target}"
