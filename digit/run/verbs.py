"""The verbs: what each is for and where its function is, and the pages that list them; without torch."""

import difflib
import importlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from digit import __version__
from digit.run.recipes import RECIPES

GROUPS = ("pictures -> codes", "training", "drawing", "measuring", "files")


@dataclass(frozen=True)
class Verb:
    """A line of `digit --help`."""

    place: str  # module below digit.run, and the function
    group: str  # one of GROUPS
    summary: str  # at most 55 characters
    together: bool = False  # takes --processes: the others are quick, or write one file after another

    def function(self) -> Callable[..., dict[str, Any]]:
        """The verb's function; its module is light."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f"digit.run.{module}"), name)


VERBS = {
    "fit": Verb("fit:fit", GROUPS[0], "an encoder's features of pictures -> tokenizer", True),
    "train vqgan": Verb("train:train_vqgan", GROUPS[0], "pictures -> VQGAN: pixels to VQ codes and back", True),
    "tokenize": Verb("tokenize:tokenize", GROUPS[0], "pictures -> codes by tokenizer, VQGAN or both", True),
    "train prior": Verb("train:train_prior", GROUPS[1], "codes -> prior, the GPT that draws codes", True),
    "train renderer": Verb("train:train_renderer", GROUPS[1], "codes -> renderer, from codes to VQ codes", True),
    "train probe": Verb("train_probe:train_probe", GROUPS[1], "labels from a prior's states, layer by layer", True),
    "compose": Verb("compose:compose", GROUPS[2], "prior, renderer, VQGAN -> one model folder"),
    "sample": Verb("sample:sample", GROUPS[2], "classes and seeds -> pictures; completes yours", True),
    "evaluate images": Verb("evaluate:evaluate_images", GROUPS[3], "FID, IS, KID, precision and recall of pictures", True),
    "evaluate sweep": Verb("sweep:evaluate_sweep", GROUPS[3], "FID over a grid of sampling settings"),
    "evaluate reconstruction": Verb("reconstruction:evaluate_reconstruction", GROUPS[3], "pictures through their codes and back: rFID, PSNR"),
    "evaluate prefix": Verb("prefix:evaluate_prefix", GROUPS[3], "FID of pictures completed from their first codes"),
    "evaluate probe": Verb("evaluate_probe:evaluate_probe", GROUPS[3], "top-1 of linear probes on codes or states"),
    "evaluate stability": Verb("stability:evaluate_stability", GROUPS[3], "how codes change under noise and shifts"),
    "evaluate projection": Verb("projection:evaluate_projection", GROUPS[3], "plot of features and their codes in two dimensions"),
    "evaluate compare": Verb("compare:compare_results", GROUPS[3], "results of earlier measurements side by side"),
    "evaluate selftest": Verb("selftest:selftest", GROUPS[3], "whether this machine measures FID as published"),
    "info": Verb("info:info", GROUPS[4], "what a folder or file of digit's holds"),
    "convert": Verb("convert:convert", GROUPS[4], "weights of other code -> an artifact"),
    "convert official": Verb("convert_official:convert_official", GROUPS[4], "fetch and convert a whole published model"),
}

LAST = """\
Every verb takes --help, and --json: the full result on standard output, all
else on standard error. Verbs marked * take --processes N, one for each GPU.
Exit codes: 0 done, 2 bad input or full disk (one sentence says what to do), 130
stopped by Ctrl-C, 143 by SIGTERM (the same command goes on or starts again).

Examples:
  digit sample --num 16 --out pictures            (by the bundled model)
  digit train prior --recipe base_cond --codes runs/codes --out runs/prior"""


def overview() -> str:
    """`digit --help`."""
    lines = [f"digit {__version__}: image generation on discriminative tokens (arXiv:2410.12490)", ""]
    lines.append("usage: digit VERB [options], digit help VERB")
    for group in GROUPS:
        lines += ["", f"{group}:"]
        lines += [_line(name, verb) for name, verb in VERBS.items() if verb.group == group]
    return "\n".join((*lines, "", LAST))


def members(group: str) -> list[str]:
    """The verbs of two words that begin with `group`."""
    return [name for name in VERBS if name.startswith(f"{group} ")]


def group_page(group: str) -> str:
    """`digit train --help`, `digit evaluate --help`."""
    lines = [f"usage: digit {group} {'|'.join(name.split()[1] for name in members(group))} [options]", ""]
    lines += [_line(name, VERBS[name]) for name in members(group)]
    if group == "train":
        lines += ["", *_recipes()]
    return "\n".join((*lines, "", f"digit help {members(group)[0]}: its options and an example."))


def nearest(word: str, words: list[str]) -> str:
    """`; did you mean ...?` where a word is near, else nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _line(name: str, verb: Verb) -> str:
    return f"  {name:<24}{'*' if verb.together else ' '} {verb.summary}"


def _recipes() -> list[str]:
    """The published runs as a table, with what they cost and what they gave."""
    lines = ["Recipes are the published runs: digit train prior --recipe base --codes CODES --out RUN."]
    lines += ["GPU-hours are those of one H200; FID and IS are published, on ImageNet at 256 pixels.", ""]
    lines.append(f"  {'verb':<9}{'--recipe':<17}{'parameters':>10}{'GPU-hours':>11}   published")
    for name, recipe in RECIPES.items():
        row = f"  {recipe.stage:<9}{name:<17}{recipe.parameters:>10}{recipe.hours:>11}   "
        lines += textwrap.wrap(recipe.published, 80, initial_indent=row, subsequent_indent=" " * len(row))
    return lines
