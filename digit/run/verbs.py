"""The verbs: what each is for and where its function is, and the pages that list them; without torch."""

import difflib
import importlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from digit import __version__
from digit.run.recipes import RECIPES


@dataclass(frozen=True)
class Verb:
    """A line of `digit --help`."""

    place: str  # module below digit.run, and the function
    summary: str  # at most 53 characters
    together: bool = False  # takes --processes: the others are quick, or write one file after another

    def function(self) -> Callable[..., dict[str, Any]]:
        """The verb's function; its module is light."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f"digit.run.{module}"), name)


GROUPS = {
    "pictures -> codes": {
        "fit": Verb("fit:fit", "an encoder's features of pictures -> tokenizer", True),
        "train vqgan": Verb("train.vqgan:train_vqgan", "pictures -> VQGAN: pixels <-> VQ codes", True),
        "tokenize": Verb("tokenize:tokenize", "pictures -> codes, by tokenizer, VQGAN or both", True),
    },
    "training": {
        "train prior": Verb("train.prior:train_prior", "codes -> prior, the GPT that draws codes", True),
        "train renderer": Verb(
            "train.renderer:train_renderer", "codes -> renderer, from codes to VQ codes", True
        ),
        "train probe": Verb("train.probe:train_probe", "linear classifiers on each layer of a prior", True),
    },
    "drawing": {
        "compose": Verb("compose:compose", "prior, renderer, VQGAN, tokenizer -> one model"),
        "sample": Verb("sample:sample", "classes and seeds -> pictures; completes yours", True),
        "demo": Verb("demo:demo", "a page in the browser to draw with a model"),
    },
    "measuring": {
        "evaluate images": Verb(
            "evaluate.images:evaluate_images", "FID, IS, KID, precision and recall", True
        ),
        "evaluate sweep": Verb("evaluate.sweep:evaluate_sweep", "FID over a grid of sampling settings"),
        "evaluate reconstruction": Verb(
            "evaluate.reconstruction:evaluate_reconstruction",
            "rFID and PSNR of pictures through codes and back",
        ),
        "evaluate prefix": Verb(
            "evaluate.prefix:evaluate_prefix", "FID of pictures completed from first codes"
        ),
        "evaluate probe": Verb("evaluate.probe:evaluate_probe", "top-1 of linear classifiers by layer"),
        "evaluate stability": Verb(
            "evaluate.stability:evaluate_stability", "how codes change under noise and shifts"
        ),
        "evaluate projection": Verb(
            "evaluate.projection:evaluate_projection", "PCA against LDA as noise grows"
        ),
        "evaluate compare": Verb("evaluate.checks:compare_results", "earlier results side by side"),
        "evaluate selftest": Verb("evaluate.checks:selftest", "whether distances are right on this machine"),
    },
    "files": {
        "info": Verb("info:info", "what a file or folder of digit's holds"),
        "convert": Verb("convert:convert", "a published file of weights -> artifact"),
        "convert official": Verb("convert:convert_official", "fetch and convert a whole model"),
        "push": Verb("push:push", "a model -> the Hugging Face hub, with a card"),
    },
}
VERBS = {name: verb for verbs in GROUPS.values() for name, verb in verbs.items()}

# Verbs and options that were renamed or went: what is said where parsing fails.
OLD_VERBS = {f"train {name}": f"train {recipe.stage} --recipe {name}" for name, recipe in RECIPES.items()}
# (verb, old option) -> what to say after "--old": "is now --new" or why it went. The verb "" stands for any.
OLD_OPTIONS = {
    ("", "--limit"): "is now --num",
    ("", "--board"): "is now --gpu",
    ("", "--boards"): "is now --gpus",
    ("", "--mfu"): "is gone: hours rest on measured rates",
    ("", "--kernels"): "is gone: training takes its kernels where they run, --no-compile switches them off",
    ("", "--tensorboard"): "is now --tracker tensorboard",
    ("", "--learning-rates"): "is now --lr-factors",
    ("sample", "--steps"): "is now --passes",
    ("evaluate sweep", "--steps"): "is now --passes",
    ("evaluate sweep", "--model"): "is now the first argument, without a name: digit evaluate sweep MODEL",
    ("evaluate reconstruction", "--model"): (
        "is now the first argument, without a name: digit evaluate reconstruction MODEL"
    ),
    ("evaluate prefix", "--models"): (
        "are now the first arguments, without a name: digit evaluate prefix MODEL ..."
    ),
    ("fit", "--precision"): "is gone: distances are always exact",
    ("tokenize", "--precision"): "is gone: distances are always exact",
}

LAST = """\
Every verb takes --help, --config FILE (settings in TOML) and --json (all of
the result on stdout). Verbs marked * take --processes N, one for each GPU.
Exit codes: 0 done; 2 bad input or full disk, in one sentence; 130 stopped by
Ctrl-C, 143 by SIGTERM: what is written is whole, repeat the command to go on.
Example: digit sample --num 16 --out pictures          (by the bundled model)"""


def overview() -> str:
    """`digit --help`."""
    lines = [f"digit {__version__}: image generation on discriminative tokens (arXiv:2410.12490)"]
    lines.append("usage: digit VERB [options]       digit help VERB: its options and an example")
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:", *(_line(name, verb) for name, verb in verbs.items())]
    return "\n".join((*lines, "", LAST))


def members(group: str) -> list[str]:
    """The verbs of two words that begin with `group`."""
    return [name for name in VERBS if name.startswith(f"{group} ")]


def group_page(group: str) -> str:
    """`digit train --help`, `digit evaluate --help`."""
    lines = [f"usage: digit {group} VERB [options]", ""]
    lines += [_line(name, VERBS[name]) for name in members(group)]
    if group == "train":
        lines += ["", *_recipes()]
    return "\n".join((*lines, "", f"digit help {members(group)[0]} tells its options, with an example."))


def renamed(verb: str, option: str) -> str | None:
    """A sentence about an option that `verb` took once, or None."""
    said = OLD_OPTIONS.get((verb, option)) or OLD_OPTIONS.get(("", option))
    return None if said is None else f"{option} {said}"


def nearest(word: str, words: list[str]) -> str:
    """`; did you mean ...?` where a word is near, else nothing."""
    bare = {name.lstrip("-"): name for name in words}
    close = [bare[name] for name in difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=0.65)]
    return f"; did you mean {close[0]}?" if close else ""


def _line(name: str, verb: Verb) -> str:
    return f"  {name:<24}{'*' if verb.together else ' '} {verb.summary}"


def _recipes() -> list[str]:
    """The published runs as a table, with what they cost and what they gave."""
    lines = ["A recipe is a published run, as digit train prior --recipe base --codes CODES"]
    lines += ["--out RUN. Hours are of one H200; figures are as published (ImageNet, 256).", ""]
    lines.append(f"  {'verb':<9}{'--recipe':<16}{'parameters':>10}{'GPU-hours':>11}  published")
    for name, recipe in RECIPES.items():
        hours = recipe.hours[0] or f"{recipe.hours[1]}*"
        row = f"  {recipe.stage:<9}{name:<16}{recipe.parameters:>10}{hours:>11}  "
        lines += textwrap.wrap(recipe.published, 80, initial_indent=row, subsequent_indent=" " * len(row))
    return [*lines, "", "Hours are of compiled updates; * not compiled, others were not measured."]
