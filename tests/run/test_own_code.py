"""Tokenizers of the user's own: the page's example, what is refused, and that no file runs code."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import digit
from digit.data.codes import Codes
from digit.errors import DigitError
from digit.nn.backbone import as_floats
from digit.run.own_code import open_own
from digit.weights.artifact import describe

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = "--width 16 --layers 1 --heads 2 --steps 1 --batch 4 --device cpu"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder is new, and what is imported from it is forgotten."""
    before, places = {*sys.modules}, [*sys.path]
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = places


def written(text: str, name: str = "mine") -> str:
    Path(f"{name}.py").write_text(f"import torch\n{text}\n")
    return f"{name}.py"


MEANS = """
class Means(torch.nn.Module):
    codes, size = 4, 16
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
    def encode(self, pixels):
        means = torch.nn.functional.adaptive_avg_pool2d(pixels * self.factor, 2).mean(1).flatten(1)
        return (means * 4).long().clamp(0, 3)
tokenizer = Means()
def made(): return Means()
def wants(a): return Means()
"""


def test_the_commands_of_the_page_run(chain, run, here):
    """With small numbers, and the chain's tokenizer beside the page's."""
    shutil.copytree(ROOT / "experiments", here / "experiments", ignore=lambda *_: ["cifar10"])
    lines = (ROOT / "docs" / "own-parts.md").read_text().split("## A tokenizer")[1].split("```bash\n")[1]
    commands = lines.split("```")[0].strip().splitlines()
    assert len(commands) == 5
    for line in commands:
        line = line.removeprefix("digit ").replace("photos/", chain.images)
        line = line.replace("runs/tokenizer", str(chain.root / "tokenizer"))
        for large, small in (("--steps 1000 --batch 64", SMALL), ("--wrong-codes", f"{SMALL} --wrong-codes")):
            line = line.replace(large, small)
        more = ["--num", "4", "--noise-only", "--size", "32"] if "stability" in line else []
        more += ["--per-class", "4", "--snrs", "1"] if "projection" in line else []
        code, out, err = run(*shlex.split(line), *more)
        assert code == 0, (line, out, err)
    codes = Codes(Path("runs/colours"))
    assert codes.vocabulary("codes") == 64 and codes.length("codes") == 64
    # Decoded, each patch is within half a level of its mean: the codes are those of the file's own class.
    sys.path.append("experiments")
    own = __import__("own_tokenizer").Colours()
    pixels = digit.preprocess(chain.images, size=32)[:3]
    assert np.array_equal(codes.array("codes")[:3, 0], own.encode(as_floats(pixels)))
    for part in ("prior", "flow"):
        assert describe(f"runs/{part}")["lineage"]["tokenizer"] == codes.lineage()["tokenizer"]
    told = json.loads(Path("runs/stability/stability.json").read_text())
    assert "PSNR" in str([row for row in told["values"] if "Colours" in row])
    assert told["features"][0]["id"] == codes.lineage()["tokenizer"]
    # What repeats the run says what to type, and is refused where a line names code.
    settings = Path("runs/flow/settings.toml").read_text()
    assert "--tokenizer experiments/own_tokenizer.py:Colours" in settings.splitlines()[1]
    assert not [line for line in settings.splitlines() if line.startswith("tokenizer")]


@pytest.mark.parametrize("name", ["tokenizer", "Means", "made"])
def test_an_object_a_class_and_a_function_are_the_same_tokenizer(chain, name):
    spec = written(MEANS)
    ids = {open_own(Path(f"{place}:{name}"), CPU).id for place in (spec, "mine")}
    assert ids == {open_own(Path(f"{spec}:tokenizer"), CPU).id}


def test_python_gives_objects(chain, here):
    fitted = digit.load(chain.root / "tokenizer")
    digit.tokenize(chain.images, here / "codes", tokenizer=fitted, device="cpu", num=6, size=16, views=1)
    assert Codes(here / "codes").lineage()["tokenizer"] == describe(chain.root / "tokenizer")["id"]
    record = digit.evaluate_stability(chain.images, [fitted], num=2, noise_only=True, size=16, device="cpu")
    assert record["values"]
    record = digit.evaluate_probe(
        encoder_of=[fitted], images=chain.images, epochs=1, lr_factors=[1.0], device="cpu"
    )
    assert record["features"][0]["id"] == describe(chain.root / "tokenizer")["id"]


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("", "nowhere.to.find:x", "there is no module nowhere: name one that can be imported from here"),
        ("", "nowhere.py:x", "there is no file nowhere.py"),
        ("", "mine.py:absent", "mine.py has no absent"),
        (MEANS, "mine.py:wants", "cannot be made without arguments"),
        ("tokenizer = 3", "mine.py:tokenizer", "is a int without encode"),
        ("class T:\n codes = 4\n def encode(self, p): return p", "mine.py:T", "give --size or it a size"),
        ("class T:\n size = 8\n def encode(self, p): return p", "mine.py:T", "does not say how many codes"),
        ("class T:\n codes, size = 4, 8\n def encode(self, p): return p", "mine.py:T", "gave float32"),
        ("class T:\n codes, size = 4, 8\n def encode(self, p): return []", "mine.py:T", "gave a list"),
        (
            "class T:\n codes, size = 4, 8\n def encode(self, p): return p.long()",
            "mine.py:T",
            r"gave the shape (1, 3, 8, 8) for 1 pictures",
        ),
        (
            "class T:\n codes, size = 4, 8\n def encode(self, p): return torch.full((len(p), 4), 4)",
            "mine.py:T",
            "gave codes from 4 to 4: give codes from 0 to 3",
        ),
        ("class T:\n codes = 70_000\n def encode(self, p): return p", "mine.py:T", "from 1 to 65,536"),
        (
            "class T:\n codes, size = 4, 8\n def __init__(self): self.odd = iter([])\n"
            " def encode(self, p): return torch.zeros(len(p), 4).long()",
            "mine.py:T",
            "holds a list_iterator (odd), of which no id can be made",
        ),
    ],
)
def test_what_is_no_tokenizer_is_one_sentence(chain, run, text, spec, words):
    written(text)
    code, _, err = run("tokenize", "--images", chain.images, "--tokenizer", spec, "--out", "codes")
    assert code == 2 and words in err and err.count("\n") == 1
    assert not Path("codes").exists()


def test_codes_of_a_changed_tokenizer_are_not_mixed(chain, run):
    command = ("tokenize", "--images", chain.images, "--num", 4, "--out", "codes", "--device", "cpu")
    for text in (MEANS, MEANS.replace("factor=1.0", "factor=0.5"), MEANS + "\n# another source"):
        spec = written(text, name := f"mine{len(text)}")
        code, _, err = run(*command, "--tokenizer", f"{spec}:Means")
        assert (code, "another tokenizer" in err) == ((0, False) if text == MEANS else (2, True)), (name, err)


def test_what_cannot_be_had_of_it_is_said(chain, run):
    spec = f"{written(MEANS)}:tokenizer"
    some = ("--images", chain.images, "--device", "cpu")
    assert run("tokenize", *some, "--tokenizer", spec, "--num", 6, "--out", "codes")[0] == 0
    for words, command in {
        "has no features, which a projection needs": ("evaluate", "projection", *some, "--tokenizer", spec),
        "has no features, which a probe": ("evaluate", "probe", *some, "--encoder-of", spec),
        "has no encoder of digit's, which compares pictures": (
            *("train", "renderer", "--flow", *some, "--codes", "codes", "--tokenizer", spec, "--out", "r"),
        ),
        "has no vectors, which": (
            *("train", "renderer", "--flow", *some, "--codes", "codes", "--tokenizer", spec, "--out", "r"),
            *("--wrong-codes", 0.5),
        ),
    }.items():
        code, _, err = run(*command)
        assert code == 2 and words in err, err


def test_no_file_runs_code(chain, run, here):
    """Settings, an artifact, codes and a model's settings that name a module which leaves a trace."""
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\ntokenizer = None\n")
    names = ("evil:tokenizer", "evil.py:tokenizer", "os:system")
    shutil.copytree(chain.root / "tokenizer", "artifact")
    shutil.copytree(chain.root / "codes", "codes")
    for name in names:
        Path("settings.toml").write_text(f'tokenizer = "{name}"\n')
        code, _, err = run("tokenize", "--config", "settings.toml", "--images", chain.images, "--out", "o")
        assert code == 2 and "is code, which no file may name: type --tokenizer" in err
        Path("settings.toml").write_text(f'tokenizers = ["{name}"]\n')
        code, _, err = run("evaluate", "stability", "--config", "settings.toml", "--images", chain.images)
        assert code == 2 and "is code, which no file may name" in err
        for file, within in (
            ("artifact/config.json", ("config", "encoder", "name")),
            ("codes/meta.json", ()),
        ):
            whole = json.loads(Path(file).read_text())
            place = whole
            for key in within[:-1]:
                place = place[key]
            if within:
                place[within[-1]] = name
            else:
                whole["streams"]["codes"]["artifact"] = whole["plan"]["streams"]["codes"]["artifact"] = name
            whole.pop("checksum", None)
            Path(file).write_text(json.dumps(whole))
        for command in (
            ("tokenize", "--images", chain.images, "--tokenizer", "artifact", "--out", "o"),
            (
                "train",
                "renderer",
                "--codes",
                "codes",
                "--tokenizer",
                "artifact",
                "--wrong-codes",
                0.5,
                "--out",
                "r",
            ),
        ):
            assert run(*command)[0] == 2
        with pytest.raises(DigitError):
            digit.load(name)
    assert not Path("ran").exists() and "evil" not in sys.modules
    assert run("tokenize", "--images", chain.images, "--tokenizer", names[0], "--out", "o")[0] == 2
    assert Path("ran").exists()  # typed, it runs: so the trace would have been seen
