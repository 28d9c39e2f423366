"""`digit VERB ...`: finds the verb, runs it, prints its result; bad input ends in one sentence and code 2."""

import contextlib
import errno
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import tyro

from digit.distributed import is_main, joined, leave, world_size
from digit.errors import DigitError
from digit.run.compose import compose
from digit.run.convert import convert
from digit.run.convert_official import convert_official
from digit.run.ending import by_exception, interrupted
from digit.run.evaluate_compare import compare_results
from digit.run.evaluate_images import evaluate_images
from digit.run.evaluate_prefix import evaluate_prefix
from digit.run.evaluate_probe import evaluate_probe
from digit.run.evaluate_projection import evaluate_projection
from digit.run.evaluate_reconstruction import evaluate_reconstruction
from digit.run.evaluate_selftest import selftest
from digit.run.evaluate_stability import evaluate_stability
from digit.run.evaluate_sweep import evaluate_sweep
from digit.run.fit import fit
from digit.run.info import info
from digit.run.processes import run_together, take_processes
from digit.run.sample import sample
from digit.run.tokenize import tokenize
from digit.run.train import train_prior, train_renderer, train_vqgan
from digit.run.train_recipe import verbs

VERBS = {
    "fit": fit,
    "tokenize": tokenize,
    "train vqgan": train_vqgan,
    "train prior": train_prior,
    "train renderer": train_renderer,
    **verbs(),
    "compose": compose,
    "convert": convert,
    "convert official": convert_official,
    "sample": sample,
    "evaluate images": evaluate_images,
    "evaluate probe": evaluate_probe,
    "evaluate reconstruction": evaluate_reconstruction,
    "evaluate stability": evaluate_stability,
    "evaluate projection": evaluate_projection,
    "evaluate compare": compare_results,
    "evaluate selftest": selftest,
    "evaluate prefix": evaluate_prefix,
    "evaluate sweep": evaluate_sweep,
    "info": info,
}

# What torchrun can split over processes; the other verbs are quick, or write one file after another.
TOGETHER = ("fit", "tokenize", "sample", "evaluate images", "train")

ALIKE = 3.0  # seconds in which all processes fail that fail for the same reason

DESCRIPTION = """Image generation on discriminative tokens (DiGIT, arXiv:2410.12490).

The way of the data, each step a verb: fit (features -> codebook), train vqgan, tokenize (pictures -> codes),
train prior, train renderer, compose (stages -> one model), sample (labels, seeds -> pictures),
evaluate images. `digit sample` alone draws with the bundled model. convert reads published files, convert
official fetches a whole published model. train base, large, renderer_ar and so on are the published runs
(`digit train --help` lists them); the other evaluate verbs are the paper's tables and figures.
Every verb takes --json: the result on standard output for machines, everything else on standard error.
Several GPUs: --processes 8 splits train, fit, tokenize, sample and evaluate images over as many processes,
one a GPU; over several machines `torchrun ... -m -- digit VERB ...` does.
Exit codes: 0 done, 2 bad input or a full disk (one sentence says what to do), 130 interrupted by Ctrl-C, 143
by SIGTERM (what is written is whole, a training has saved; repeat the command to go on)."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BAD_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        arguments, processes = take_processes(arguments)
    except DigitError as error:
        return _fail(str(error))
    if processes > 1 and arguments[:1] == ["train"] and "--dry-run" in arguments:  # one tells for all
        arguments = [*arguments, *(() if "--gpus" in arguments else ("--gpus", str(processes)))]
    elif processes > 1:
        return run_together(arguments, processes)
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    if arguments and any(verb.startswith(arguments[0] + " ") for verb in VERBS):
        group = arguments[0]
        members = [verb for verb in VERBS if verb.startswith(group + " ")]
        pair = len(arguments) > 1 and f"{group} {arguments[1]}" in VERBS
        if not pair and group not in VERBS:
            asked = len(arguments) > 1 and arguments[1] in ("-h", "--help")
            print(
                f"usage: digit {{{','.join(members)}}} [-h] [OPTIONS]",
                file=sys.stdout if asked else sys.stderr,
            )
            return 0 if asked else 2
        if pair:
            arguments = [f"{group} {arguments[1]}", *arguments[2:]]
    try:
        with joined(), contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
            if world_size() > 1:
                _splits(arguments)
            result = tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="digit",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
            speaks = is_main()
    except DigitError as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        return interrupted(stop)
    except OSError as error:
        if error.errno in _NO_ROOM:
            return _fail(
                f"no space left while writing {error.filename or 'a file'}: free some and repeat the command"
            )
        if error.errno in _BAD_PLACE:
            return _fail(
                f"{error.filename or 'a file'} cannot be written or read ({error.strerror}): "
                "choose another place"
            )
        raise
    if not speaks:
        return 0
    if as_json:
        json.dump(result, sys.stdout, indent=2, default=_plain)
        print()
    else:
        _show(result)
    return 0


def _splits(arguments: list[str]) -> None:
    """DigitError if the verb cannot be split over processes."""
    if arguments and not any(f"{arguments[0]} ".startswith(f"{verb} ") for verb in TOGETHER):
        raise DigitError(
            f"{arguments[0]} runs in one process, without torchrun or --processes: several serve only "
            f"{', '.join(TOGETHER)}"
        )


def _fail(sentence: str) -> int:
    number = os.environ.get("RANK", "0")
    if number != "0":  # what the main process says of itself is not said again: torchrun ends this one first
        time.sleep(ALIKE)
    print(f"digit: {sentence}" if number == "0" else f"digit: (process {number}) {sentence}", file=sys.stderr)
    return 2


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.item()  # a numpy or torch scalar


def _show(result: dict[str, Any], indent: str = "") -> None:
    """A result for people: `name  value`, nested tables indented, long lists by their length."""
    width = max((len(str(name)) for name in result), default=0)
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            _show(value, indent + "  ")
        elif isinstance(value, float):
            print(f"{indent}{name:<{width}}  {value:.4g}")
        elif isinstance(value, list) and len(value) > 12:
            print(f"{indent}{name:<{width}}  {len(value)} entries")
        else:
            print(f"{indent}{name:<{width}}  {value}")


def main() -> None:
    """The console script."""
    by_exception()
    warnings.filterwarnings("ignore", category=UserWarning)  # libraries' advice is for developers
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt as stop:
        code = interrupted(stop)
    if code > 128 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        leave(code)  # a signal: a thread that waits for a disk would keep the process
    sys.exit(code)
