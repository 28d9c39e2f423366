"""`digit train base|large|...`: the published runs, each with every setting open to change."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.nn.linear_probe import ProbeConfig
from digit.prior import PriorConfig
from digit.run.probe import train_linear_probe
from digit.run.recipes import RECIPES, Recipe
from digit.run.train import train_prior, train_renderer
from digit.training.config import OptimizerConfig, TrainConfig

TRAIN: dict[str, Callable[..., dict[str, Any]]] = {
    "prior": train_prior,
    "renderer": train_renderer,
    "renderer_masked": train_renderer,
    "probe": train_linear_probe,
}
FROM_CODES = {"codes", "length", "vq_codes", "vq_length", "classes"}  # and not from the recipe
NOTE = "\n\nK, length and classes are those of the codes; the published K is {published}."


def train_recipe(name: str, *, codes: str | Path, out: str | Path, **changes: Any) -> dict[str, Any]:
    """Run a recipe by its name, with changes to any of its settings: what `digit train NAME` does.

    Args:
        name: base, base_cond, large, renderer_ar, ...: one of digit.run.recipes.RECIPES.
        codes: folder of `digit tokenize`.
        out: the run's folder; the same call resumes a stopped run.
        changes: fields of the model (width=64), of TrainConfig (steps=10), of its OptimizerConfig (lr=1e-3),
            or arguments of the function that trains the stage (held_out, device, prior, ...).

    Raises:
        DigitError: no such recipe or setting, a conditional recipe on codes without labels, and whatever the
            training itself refuses.
    """
    if name not in RECIPES:
        raise DigitError(f"there is no recipe {name!r}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    training = changes.pop("training", recipe.training)
    for_optimizer = _take(changes, OptimizerConfig)
    training = replace(training, **_take(changes, TrainConfig))
    training = replace(training, optimizer=replace(training.optimizer, **for_optimizer))
    train, settings = TRAIN[recipe.stage], _settings(recipe)
    known = [*inspect.signature(train).parameters, *(f.name for f in fields(TrainConfig))]
    for change in changes:
        if change not in known or change in _identity(recipe):
            close = difflib.get_close_matches(change, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise DigitError(f"recipe {name} has no setting {change}: {hint}")
    if settings.get("conditional") and Codes(Path(codes), verify=False).labels is None:
        raise DigitError(
            f"{codes} has no labels, which {name} needs: tokenize pictures in class folders, or train "
            f"{name.replace('_cond', '')}"
        )
    settings |= {
        option: Path(value) if isinstance(value, str) and _is_path(train, option) else value
        for option, value in changes.items()
    }
    for option, parameter in inspect.signature(train).parameters.items():
        if parameter.default is parameter.empty and option not in {*settings, "codes", "out"}:
            raise DigitError(f"recipe {name} needs {option}: give {option}=...")
    return train(codes=Path(codes), out=Path(out), training=training, **settings)


def verbs() -> dict[str, Callable[..., dict[str, Any]]]:
    """`train NAME` -> a function with the recipe's docstring and defaults, for the command line."""
    return {f"train {name}": _verb(name) for name in RECIPES}


def _verb(name: str) -> Callable[..., dict[str, Any]]:
    recipe = RECIPES[name]()
    train, defaults = TRAIN[recipe.stage], _settings(recipe) | {"training": recipe.training}
    signature = inspect.signature(train)
    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, default=defaults.get(option, parameter.default))
        for option, parameter in signature.parameters.items()
        if option not in _identity(recipe)
    ]
    arguments = (inspect.getdoc(train) or "").partition("\nArgs:\n")[2]
    note = "" if isinstance(recipe.model, ProbeConfig) else NOTE.format(published=f"{recipe.model.codes:,}")
    # A lambda has no signature of its own that could hide the one it is given.
    verb: Any = _named(name, lambda **options: train_recipe(name, **options))
    verb.__doc__ = f"{inspect.getdoc(RECIPES[name])}{note}\n\nArgs:\n{arguments}"
    verb.__signature__ = signature.replace(parameters=parameters)
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb


def _named(name: str, function: Callable[..., dict[str, Any]]) -> Any:
    function.__name__ = function.__qualname__ = name
    return function


def _identity(recipe: Recipe) -> set[str]:
    """The options of the training function that make a recipe what it is, and so are not open to change."""
    return set(_settings(recipe)) & {"over", "conditional", "masked"}


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's part of the training function's arguments."""
    taken = inspect.signature(TRAIN[recipe.stage]).parameters
    shape = {
        field.name: getattr(recipe.model, field.name)
        for field in fields(recipe.model)
        if field.name in taken and field.name not in FROM_CODES
    }
    if isinstance(recipe.model, PriorConfig):
        return shape | {"over": recipe.over, "conditional": recipe.model.classes > 0}
    if recipe.stage == "probe":
        return shape
    return shape | {"masked": recipe.stage == "renderer_masked"}


def _take(changes: dict[str, Any], kind: type) -> dict[str, Any]:
    """The changes that are fields of `kind`, taken out."""
    return {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}


def _is_path(train: Callable[..., Any], option: str) -> bool:
    return "Path" in str(inspect.signature(train).parameters[option].annotation)
