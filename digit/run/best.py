"""The weights of the lowest held-out loss, beside the last ones of a run: out/best, an artifact as out is."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from digit.distributed import is_main
from digit.entries import Number, entries
from digit.errors import DigitError
from digit.progress import say
from digit.weights.artifact import CONFIG, describe

BEST = "best"  # the folder, and what its artifact says of itself
LOSS = "held_out_loss"
_TYPES: dict[str, Any] = {"step": Number, LOSS: float}


def best_of(out: Path, held_out: Any = None) -> dict[str, Any] | None:
    """The step and the loss of the best weights of the run in `out`, by what it says; None without any.

    With `held_out`, what losses are measured on, only if they are of the same.
    """
    if not (out / BEST / CONFIG).is_file():
        return None
    try:
        found = entries((describe(out / BEST)["extra"] or {}).get(BEST), _TYPES, where=out / BEST)
    except DigitError:
        return None  # damaged: what is measured next takes its place
    return found if held_out is None or found.get("held_out") == held_out else None


def keeping_best(
    evaluate: Callable[[Any, int], Iterator[tuple[str, float]]],
    keep: Callable[..., object],
    out: Path,
    held_out: Any,
) -> Callable[[Any, int], Iterator[tuple[str, float]]]:
    """`evaluate`, after which the weights stay if no loss before was as low.

    `keep(stage, folder, extra)` writes them; `held_out` says what losses are measured on, as JSON has it.
    """

    def measured(stage: Any, step: int) -> Iterator[tuple[str, float]]:
        values = dict(evaluate(stage, step))
        yield from values.items()
        loss = values.get(LOSS, math.nan)
        before = best_of(out, held_out) if is_main() else None
        if is_main() and loss < (math.inf if before is None else before[LOSS]):
            keep(stage, out / BEST, {BEST: {"step": step, LOSS: loss, "held_out": held_out}})

    return measured


def tell_best(out: Path, step: int) -> dict[str, Any]:
    """Say which weights are the best of a run that is at `step`; what its record has of it."""
    found = best_of(out)
    if found is None:
        return {}
    where = "the last" if found["step"] == step else f"those of update {found['step']:,}, in {out / BEST}"
    say(f"the weights of the lowest held-out loss, {found[LOSS]:.4f}, are {where}")
    return {BEST: {name: found[name] for name in _TYPES}}
