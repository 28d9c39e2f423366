"""--config: the file that a run leaves repeats it, and what it holds is checked as options are."""

import functools
import re
import tomllib
from pathlib import Path

import pytest

import digit
from digit.errors import DigitError
from digit.files import read_json
from digit.run.arguments import settings_of
from digit.run.dry_run import DryRun
from digit.run.main import Command, understand
from digit.run.recipes import RECIPES
from digit.run.settings import example, line_of, text_of
from digit.run.verbs import VERBS

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
TRAINED = [verb for verb in VERBS if verb.startswith("train ")]
SMALL = ("--width", 16, "--layers", 1, "--heads", 2, "--batch", 8, "--warmup", 1, "--device", "cpu")


def called(monkeypatch, line):
    """What a command line hands its verb."""
    found = []
    verb = " ".join(line[:2])
    function = functools.wraps(VERBS[verb].function())(lambda **call: found.append(call))
    monkeypatch.setattr(type(VERBS[verb]), "function", lambda _: function)
    command = understand([str(word) for word in line])
    monkeypatch.undo()
    assert isinstance(command, Command)
    command.call()
    return found[0]


def refused(tmp_path, text, verb="train prior"):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(DigitError) as error:
        understand([*verb.split(), "--codes", "c", "--out", "o", "--config", str(path)])
    return str(error.value)


def test_the_file_of_a_run_repeats_it(chain, run, tmp_path):
    """Nothing else is needed but a folder: the weights are equal, and the file is the same again."""
    first = ("train", "prior", "--codes", chain.root / "codes", "--out", tmp_path / "a", "--steps", 2)
    config = tmp_path / "few.toml"
    config.write_text("betas = [0.5, 0.9]\nkind = 'adamw'\ntied = true\n")
    code, _, err = run(*first, *SMALL, "--label-dropout", 0.25, "--config", config)
    assert code == 0, err
    settings = tmp_path / "a" / "settings.toml"
    code, _, err = run("train", "prior", "--config", settings, "--out", tmp_path / "b")
    assert code == 0, err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert settings.read_text() == (tmp_path / "b" / "settings.toml").read_text()
    (state,) = (tmp_path / "b" / "state").glob("*/state.json")
    assert read_json(state)["config"]["optimizer"]["betas"] == [0.5, 0.9]
    assert digit.load(tmp_path / "b").config.tied


def test_options_win_over_the_file_and_the_file_over_a_recipe(tmp_path, monkeypatch):
    path = tmp_path / "s.toml"
    path.write_text('recipe = "base"\nsteps = 7\nlr = 1e-3\nwidth = 64\ncodes = "c"\nclip = "none"\n')
    call = called(monkeypatch, ["train", "prior", "--config", path, "--out", "o", "--steps", 9])
    training = call["training"]
    assert (training.steps, training.optimizer.lr, training.clip, call["width"]) == (9, 1e-3, None, 64)
    assert training.optimizer.betas == RECIPES["base"].training.optimizer.betas
    assert call["codes"] == Path("c") and call["recipe"] == "base"


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.stage != "probe"])
def test_a_recipe_goes_through_its_file(name, tmp_path, monkeypatch):
    verb = f"train {RECIPES[name].stage}"
    line = [*verb.split(), "--recipe", name, "--codes", "c", "--out", "o", "--dropout", "0.3"]
    call = called(monkeypatch, line)
    defaults = {option.path[0]: option.default for option in settings_of(VERBS[verb].function())}
    defaults |= {"training": RECIPES[name].training, "plan": DryRun(), **RECIPES[name].options, **call}
    path = tmp_path / "settings.toml"
    path.write_text(text_of(verb, defaults))
    again = called(monkeypatch, [*verb.split(), "--config", path, "--out", "o"])
    assert again["training"] == RECIPES[name].training and again["dropout"] == 0.3
    for option, value in RECIPES[name].options.items():
        assert again[option] == (0.3 if option == "dropout" else value)


SENTENCES = [
    ("step = 3", "train prior has no setting step; did you mean steps?"),
    ("no_conditional = true", "has no setting no-conditional; did you mean conditional?"),
    ("steps = 1.5", "s.toml: steps: '1.5' is not a whole number"),
    ("steps = true", "steps: give a whole number"),
    ("steps = [3]", "steps: give a whole number"),
    ("steps = 2026-01-01", "steps: give a whole number"),
    ("steps = -1", "steps: -1 is out of bounds"),
    ("lr = nan", "lr: nan is out of bounds"),
    ("lr = 'much'", "lr: 'much' is not a number"),
    ("betas = [0.9]", "betas: give 2 values, these are 1"),
    ("betas = 0.9", "betas: give a list, as [1, 2]"),
    ("betas = [0.9, 2]", "betas: 2 is out of bounds"),
    ("kind = 'adam'", "kind: 'adam' is none of adamw, sgd"),
    ("tied = 1", "tied: give true or false"),
    ("held-out = {a = 1}", "held-out: give one text"),
    ("micro-batch = 2\nmicro_batch = 3", "has micro-batch twice: leave one out"),
    ("steps = 1\nsteps = 2", "is no TOML"),
    ("[steps]\na = 1", "steps: give a whole number"),
    ("steps: 3", "is no TOML"),
    ("a = " + "[" * 5000, "is no TOML"),
    ("recipe = 'huge'", "there is no recipe 'huge' of a prior"),
    ("recipe = 3", "recipe: '3' is none of"),
    ("json = true", "train prior has no setting json"),
]


@pytest.mark.parametrize(("text", "words"), SENTENCES)
def test_what_cannot_be_meant_is_one_sentence(tmp_path, text, words):
    said = refused(tmp_path, text)
    assert words in said and "\n" not in said and len(said) < 700
    assert "`digit train prior --help` explains" in said


def test_a_file_that_cannot_be_read_is_one_sentence(run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
    for name, words in (
        ("folder", "it is a folder, no file"),
        ("none", "No such file"),
        ("bytes", "is no TOML"),
        ("big", "are the most here"),
    ):
        code, _, err = run("sample", "--config", tmp_path / name)
        assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_every_verb_takes_a_file(run, tmp_path):
    path = tmp_path / "s.toml"
    path.write_text("stranger = 1\n")
    for verb in VERBS:
        code, _, err = run(*verb.split(), "--config", path)
        assert code == 2 and f"{verb} has no setting stranger" in err
    path.write_text("num = 3\nmodel = 'm'\nlabels = ['cat', 3]\nunconditional = false\n")
    assert "--num" in run("sample", "--config", path, "--help")[1]


def test_an_option_that_a_file_alone_has_says_so(run):
    code, _, err = run("train", "prior", "--codes", "c", "--out", "o", "--betas", "0.5", "0.9")
    assert code == 2 and "--betas is set by --config FILE: give it the line betas = [0.9, 0.98]" in err
    code, _, err = run("train", "vqgan", "--images", "i", "--out", "o", "--attention")
    assert code == 2 and "the line attention = true" in err
    code, _, err = run("train", "vqgan", "--images", "i", "--out", "o", "--decoder-block", 2)
    assert code == 2 and "did you mean --decoder-blocks?" in err


def test_the_files_of_experiments_are_of_their_verbs(monkeypatch):
    folder = Path(__file__).parents[2] / "experiments" / "cifar10"
    line = ["--out", "o", "--config"]
    vqgan = called(monkeypatch, ["train", "vqgan", "--images", "i", *line, folder / "vqgan.toml"])
    assert vqgan["model"].normalized_codes and vqgan["losses"].continuous_steps == 200
    for stage in ("prior", "renderer"):
        call = called(monkeypatch, ["train", stage, "--codes", "c", *line, folder / "gpt.toml", "--steps", 3])
        assert not call["training"].optimizer.decay_all and call["training"].steps == 3


def page_of(verb):
    """The lines of docs/settings.md for a verb."""
    lines = []
    for setting in settings_of(VERBS[verb].function()):
        if setting.in_file:
            line = f"# {example(setting)}" if setting.default is None else line_of(setting)
            lines.append(f"{line}  # {setting.text.removesuffix('.')}")
    return "\n".join(lines)


@pytest.mark.parametrize("verb", TRAINED)
def test_the_page_has_every_setting_with_its_default(verb, tmp_path, monkeypatch, run):
    (block,) = re.findall(rf"## `digit {verb}`\n\n```toml\n(.*?)\n```", PAGE, re.DOTALL)
    assert block == page_of(verb), f"docs/settings.md is to have, of {verb}:\n{page_of(verb)}"
    said = run("help", *verb.split())[1]
    for name in tomllib.loads(block):
        assert re.search(rf"[\s,:]{name}[,.]", said.partition("every verb")[2]), name
    path = tmp_path / "s.toml"
    path.write_text(block)
    needed = {"train vqgan": ["--images", "i"], "train probe": ["--codes", "c", "--prior", "p"]}
    line = [*verb.split(), *needed.get(verb, ["--codes", "c"]), "--out", "o"]
    plain, filed = called(monkeypatch, line), called(monkeypatch, [*line, "--config", path])
    for name, value in plain.items():
        assert filed[name] == value
    function = VERBS[verb].function()
    usual = {setting.path[0]: setting.default for setting in settings_of(function) if len(setting.path) == 1}
    assert all(filed[name] == usual.get(name, filed[name]) for name in filed if name not in plain)


def test_every_text_of_a_python_call_can_be_read_again():
    strange = 'a "b" \\ c\x7f\n\t\x01 é'
    text = text_of("train prior", {"codes": Path(strange)})
    assert tomllib.loads(text)["codes"] == strange
