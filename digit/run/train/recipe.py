"""A published run by its name, with changes, as Python calls it."""

import difflib
import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from digit.calls import checked, taken
from digit.errors import DigitError
from digit.run.dry_run import DryRun
from digit.run.recipes import IDENTITY, RECIPES
from digit.run.verbs import VERBS
from digit.training.config import OptimizerConfig, TrainConfig


@checked
def train_recipe(name: str, *, codes: str | Path, out: str | Path, **changes: Any) -> dict[str, Any]:
    """Run a recipe with changes to any of its settings: what `digit train STAGE --recipe NAME` does.

    Args:
        name: base, base_cond, large, renderer_ar, ...: one of digit.run.recipes.RECIPES.
        codes: folder of `digit tokenize`.
        out: the run's folder; the same call resumes a stopped run.
        changes: fields of TrainConfig (steps=10), of its OptimizerConfig (lr=1e-3), of DryRun (dry_run=True),
            or arguments of the function that trains the stage (width=64, held_out, device, prior, ...).

    Raises:
        DigitError: no such recipe or setting, a conditional recipe on codes without labels, and whatever the
            training itself refuses.
    """
    if name not in RECIPES:
        raise DigitError(f"there is no recipe {name!r}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    train = VERBS[f"train {recipe.stage}"].function()

    def of(kind: type) -> dict[str, Any]:
        return {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}

    training = taken("training", changes.pop("training", recipe.training), TrainConfig)
    training = replace(training, **of(TrainConfig))
    training = replace(training, optimizer=replace(training.optimizer, **of(OptimizerConfig)))
    if plan := of(DryRun):
        changes["plan"] = DryRun(**plan)
    signature = inspect.signature(train).parameters
    known = [*signature, *(field.name for kind in (TrainConfig, DryRun) for field in fields(kind))]
    for change in changes:
        if change not in known or change in IDENTITY:
            close = difflib.get_close_matches(change, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise DigitError(f"recipe {name} has no setting {change}: {hint}")
    for option, parameter in signature.items():
        if parameter.default is parameter.empty and option not in {*changes, "codes", "out"}:
            raise DigitError(f"recipe {name} needs {option}: give {option}=...")
    return train(codes=Path(codes), out=Path(out), recipe=name, training=training, **changes)
