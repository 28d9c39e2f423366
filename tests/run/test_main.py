"""What needs no model: pages of help, and what typing errors get; none of it waits for torch."""

import json
import subprocess
import sys
import time

import pytest

import digit
from digit.run.main import Command, carry_out, understand
from digit.run.verbs import GROUPS, VERBS, members

HEAVY = ("torch", "numpy", "PIL", "matplotlib", "timm", "torchvision")


def test_the_page_of_all_verbs_fits_a_screen(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert run() == run("-h") == run("help") == (code, out, err)
    lines = out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    for words in (*VERBS, *GROUPS, "--json", "--processes", "Exit codes: 0 done", "digit sample --num 16"):
        assert words in out


@pytest.mark.parametrize("group", ["train", "evaluate"])
def test_the_page_of_a_group_lists_its_verbs(run, group):
    code, out, err = run(group, "--help")
    assert (code, err) == (0, "") and run("help", group)[1] == out
    for name in members(group):
        assert VERBS[name].summary in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_page_of_training_lists_recipes_with_cost_and_figure(run):
    _, out, _ = run("train", "--help")
    (row,) = [line for line in out.splitlines() if " large " in line]
    assert row.split()[:4] == ["prior", "large", "731M", "164"] and "FID 4.59, IS 141.29" in row
    assert " 188*  FID 3.39" in out and "* not compiled" in out  # the one that was not measured compiled


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    code, out, err = run(*verb.split(), "--help")
    assert (code, err) == (0, "") and run("help", *verb.split())[1] == out
    assert out.startswith(f"usage: digit {verb} ")
    assert "--json" in out and ("--processes N" in out) == VERBS[verb].together
    assert max(map(len, out.splitlines())) <= 80


def test_version(run):
    assert run("--version") == (0, f"digit {digit.__version__}\n", "")


TYPOS = [
    ("smaple --num 3", "there is no verb smaple; did you mean sample? `digit --help` lists them"),
    ("paint", "there is no verb paint; `digit --help` lists them"),
    ("train", "train what? vqgan, prior, renderer, probe; `digit train --help` tells more"),
    ("train piror", "there is no verb train piror; did you mean prior?"),
    ("evaluate taste", "there is no verb evaluate taste; `digit evaluate --help` lists them"),
    ("train base --out x", "this is now: digit train prior --recipe base --out x"),
    ("sample --colour red", "sample: there is no option --colour"),
    ("sample --temprature 1", "there is no option --temprature; did you mean --temperature?"),
    ("train prior --codes c --out o --learning-rate 1", "there is no option --learning-rate"),
    ("train probe --learning-rates 1", "--learning-rates is now --lr-factors"),
    ("sample --steps 8", "sample: --steps is now --passes"),
    ("sample --num", "sample: --num: expected one argument (`digit sample --help` explains)"),
    ("sample --num many", "sample: --num: 'many' is not a whole number"),
    ("sample --top-p much", "--top-p: 'much' is not a number"),
    ("sample --renderer oil", "--renderer: 'oil' is none of flow, autoregressive, masked"),
    ("train prior --codes c", "train prior: the following arguments are required: --out"),
    (
        "train prior --codes c --out o --betas 1",
        "--betas is set by --config FILE: give it the line betas = [",
    ),
    (
        "train prior --codes c --out o --lr -1",
        "train prior: --lr: -1 is out of bounds: give a number above 0 and up to 1,000,000,000",
    ),
    (
        "train prior --codes c --out o --recipe huge",
        "train prior: --recipe: there is no recipe 'huge' of a prior: choose from base,",
    ),
    ("info x --processes 2", "info: it runs in one process, without --processes"),
    ("sample --processes none", "--processes: 'none': give a number from 1 to 1024"),
    ("sample a b", "sample: unrecognized arguments: b"),
    (
        "fit --images i --out o --encoder-arguments depth",
        "give names and numbers in turn",
    ),
]


@pytest.mark.parametrize(("line", "words"), TYPOS)
def test_a_typing_error_is_one_sentence_and_names_the_help(run, line, words):
    code, out, err = run(*line.split())
    assert (code, out) == (2, "") and words in err
    assert err.startswith("digit: ") and len(err.splitlines()) == 1 and len(err) < 300
    assert "digit " in err[7:]


def test_values_reach_the_verb(tmp_path):
    (tmp_path / "s.toml").write_text("betas = [0.5, 0.9]\ndecay-all = false\nlr = 2e-3\n")
    line = f"train prior --codes c --out o --recipe base --lr 1e-3 --clip none --config {tmp_path}/s.toml"
    line += " --top_k 3"
    with pytest.raises(digit.DigitError, match="no option --top-k"):
        understand(line.split())
    command = understand([*line.split()[:-2], "--no-sharded", "--json", "--processes=2"])
    assert not isinstance(command, str)
    assert (command.verb, command.json, command.processes) == ("train prior", True, 2)
    call = command.call.__closure__[0].cell_contents
    training = call["training"]
    assert call["recipe"] == "base" and (training.steps, training.clip) == (125_000, None)
    optimizer = training.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.decay_all) == (1e-3, (0.5, 0.9), False)


def test_a_switch_is_shown_as_what_changes_it_and_taken_both_ways(run):
    _, out, _ = run("train", "probe", "--help")
    assert " --no-last-block " in out and " --last-block" not in out
    assert " --sharded " in out and "--no-sharded" not in out
    line = "train probe --prior p --codes c --out o --last-block --no-sharded --no-compile"
    call = understand(line.split()).call.__closure__[0].cell_contents
    assert call["last_block"] and not call["training"].sharded and not call["training"].compile


def modules_after(*arguments: str) -> set[str]:
    """The heavy ones of the modules that a command line loads."""
    code = (
        "import sys, json; from digit.run.main import run; "
        f"run({list(arguments)}); print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("line", ["--help", "train --help", "evaluate --help", "smaple", "train"])
def test_pages_need_no_torch(line):
    assert not modules_after(*line.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_and_typing_errors_of_a_verb_need_no_torch(verb):
    assert not modules_after(*verb.split(), "--help")
    assert not modules_after(*verb.split(), "--colour")


def test_help_takes_less_than_half_of_importing_torch():
    """Of the best of three each: other processes may use the machine."""

    def seconds(*command: str) -> float:
        times = []
        for _ in range(3):
            begun = time.monotonic()
            subprocess.run([sys.executable, *command], capture_output=True, timeout=300)
            times.append(time.monotonic() - begun)
        return min(times)

    assert seconds("-m", "digit", "--help") < seconds("-c", "import torch") / 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "(MemoryError)"),
        (RuntimeError("CUDA out of memory.\nTried to"), "(CUDA out of memory)"),
    ],
)
def test_used_up_memory_is_one_sentence(capsys, error, told):
    def call():
        raise error

    assert carry_out(Command("sample", call, False, 1, [], [])) == 2
    assert capsys.readouterr().err == (
        f"digit: not enough memory {told}: give a smaller --batch, or less at once\n"
    )
