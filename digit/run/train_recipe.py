"""A recipe by its name alone, with changes to any of its settings by their names alone."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from digit.errors import DigitError
from digit.run.recipes import IDENTITY, RECIPES
from digit.run.train import train_prior, train_probe, train_renderer
from digit.training.config import OptimizerConfig, TrainConfig

TRAIN: dict[str, Callable[..., dict[str, Any]]] = {
    "prior": train_prior,
    "renderer": train_renderer,
    "probe": train_probe,
}


def train_recipe(name: str, *, codes: str | Path, out: str | Path, **changes: Any) -> dict[str, Any]:
    """Run a recipe: what `digit train STAGE --recipe NAME` does.

    Args:
        name: base, base_cond, large, renderer_ar, ...: one of digit.run.recipes.RECIPES.
        codes: folder of `digit tokenize`.
        out: the run's folder; the same call resumes a stopped run.
        changes: fields of TrainConfig (steps=10), of its OptimizerConfig (lr=1e-3), or arguments of the
            function that trains the stage (width=64, held_out, device, prior, ...).

    Raises:
        DigitError: no such recipe or setting, a conditional recipe on codes without labels, and whatever the
            training itself refuses.
    """
    if name not in RECIPES:
        raise DigitError(f"there is no recipe {name!r}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    train = TRAIN[recipe.stage]
    training = changes.pop("training", recipe.training)
    for_optimizer = _take(changes, OptimizerConfig)
    training = replace(training, **_take(changes, TrainConfig))
    training = replace(training, optimizer=replace(training.optimizer, **for_optimizer))
    signature = inspect.signature(train).parameters
    known = [*signature, *(field.name for field in fields(TrainConfig))]
    for change in changes:
        if change not in known or change in IDENTITY:
            close = difflib.get_close_matches(change, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise DigitError(f"recipe {name} has no setting {change}: {hint}")
    for option, parameter in signature.items():
        if parameter.default is parameter.empty and option not in {*changes, "codes", "out"}:
            raise DigitError(f"recipe {name} needs {option}: give {option}=...")
        if isinstance(changes.get(option), str) and "Path" in str(parameter.annotation):
            changes[option] = Path(changes[option])
    return train(codes=Path(codes), out=Path(out), recipe=name, training=training, **changes)


def _take(changes: dict[str, Any], kind: type) -> dict[str, Any]:
    """The changes that are fields of `kind`, taken out."""
    return {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}
