"""What is released holds what it needs and no more: the wheel, the source distribution, their words."""

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling import build

from digit import __version__

ROOT = Path(__file__).parents[1]
# What people or tools leave in a folder of source is no part of the package.
SOURCES = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "digit").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, the wheel's name and that of the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel, source = build.build_wheel(str(folder)), build.build_sdist(str(folder))
    return folder, wheel, source


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built[0] / built[1]) as archive:
        yield archive


def test_the_wheel_is_the_package_and_nothing_else(wheel):
    names = set(wheel.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == SOURCES
    assert {Path(name).name for name in about} >= {"LICENSE", "NOTICE", "METADATA", "entry_points.txt"}


def test_models_types_and_the_list_of_names_are_in_it(wheel):
    names = set(wheel.namelist())
    assert {"digit/py.typed", "digit/__init__.pyi", "digit/models/cifar10/config.json"} <= names
    assert len([name for name in names if name.endswith("model.safetensors")]) == 5


def test_the_source_distribution_builds_the_same(built):
    folder, _, source = built
    with tarfile.open(folder / source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= SOURCES and {"pyproject.toml", "LICENSE", "NOTICE", "README.md"} <= names
    assert not {name.split("/")[0] for name in names} & {"tests", "bench", "experiments", "docs", ".github"}


def test_what_it_says_of_itself(wheel):
    text = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
    found = email.message_from_string(text)
    assert (found["Name"], found["Version"]) == ("digit-image", __version__)
    assert found["License-Expression"] == "MIT" and found["Keywords"] and found.get_all("Project-URL")
    pythons = {each.rpartition(" ")[2] for each in found.get_all("Classifier") if "Python :: 3." in each}
    named = re.search(r"^PYTHONS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert named and pythons == set(re.findall(r"python(3\.\d+)", named[1]))
    core = [need for need in found.get_all("Requires-Dist") if "extra ==" not in need]
    assert not re.search("sphinx|furo|pytest|gradio|wandb|diffusers", " ".join(core))


def test_it_runs_from_the_wheel(built, tmp_path):
    with zipfile.ZipFile(built[0] / built[1]) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if "models/" not in name])
    done = subprocess.run(  # -m takes what lies in its folder first
        [sys.executable, "-m", "digit", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == f"digit {__version__}\n", done.stderr


def test_versions_that_are_written_twice_are_equal():
    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pinned["ruff"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for workflow in ("tests", "publish"):
        text = (ROOT / f".github/workflows/{workflow}.yml").read_text(encoding="utf-8")
        matrix = re.findall(r'"(3\.\d+)"', re.findall(r"python: \[(.*)\]", text)[0])
        assert [f"Programming Language :: Python :: {each}" in project["classifiers"] for each in matrix] == [
            True
        ] * 4


def test_workflows_and_forms_are_read_and_make_what_there_is():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    made = set()
    for file in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        steps = [step for job in found.get("jobs", {}).values() for step in job["steps"]]
        made |= {step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")}
    assert made == {"test", "lint", "docs", "wheel"} and made <= set(targets)


def test_actions_are_pinned_by_commit():
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+)", workflow.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{workflow.name}: {action}"
