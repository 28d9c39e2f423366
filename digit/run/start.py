"""The weights that a training starts from, `--init-from`: read once, and told where they are used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from digit.distributed import main_first, on_main
from digit.progress import say
from digit.training import checkpoint
from digit.weights.artifact import kind_of
from digit.weights.initial import start_from


def started(
    stage: nn.Module,
    out: str | Path,
    init_from: str | None,
    *,
    classes: Sequence[str],
    lineage: Mapping[str, str],
) -> dict[str, str]:
    """Give a stage the weights that it starts from, and say what came of them; what the lineage then has.

    Nothing is read where there are none, and nothing is said where the run in `out` goes on.

    Raises:
        DigitError: see `digit.weights.initial.start_from`.
    """
    if init_from is None:
        return {}
    with main_first():
        identity, lines = start_from(stage, init_from, classes=classes, lineage=lineage)
    goes_on = on_main(lambda: bool(checkpoint.paths(Path(out) / "state")))
    for line in ["--init-from is not used, as the run goes on"] if goes_on else lines:
        say(f"digit: {line}")
    return {f"{kind_of(stage)} to start from": identity}
