"""Image generation on discriminative tokens (DiGIT, arXiv:2410.12490).

The surface: `load` any artifact, `DigitPipeline` for whole models, and a function for every verb of the
command line. Pixels are floats in [0, 1], codes are whole numbers from 0. Names are imported when they are
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from digit.nn import forms

__version__ = "0.1.0"

forms.provider = "digit.fast"  # faster forms of some functions, where they can run

if TYPE_CHECKING:
    from digit.errors import DigitError, LineageError
    from digit.nn.sampling import SamplerConfig
    from digit.pipeline import DigitPipeline, Pictures
    from digit.run.compose import compose
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
    from digit.run.sample import sample
    from digit.run.tokenize import tokenize
    from digit.run.train import train_prior, train_renderer, train_vqgan
    from digit.run.train_recipe import train_recipe
    from digit.weights.artifact import load, save
    from digit.weights.model_folder import PipelineSampling

_PLACES = {
    "DigitError": "errors",
    "LineageError": "errors",
    "SamplerConfig": "nn.sampling",
    "DigitPipeline": "pipeline",
    "Pictures": "pipeline",
    "PipelineSampling": "weights.model_folder",
    "compare_results": "run.evaluate_compare",
    "compose": "run.compose",
    "evaluate_images": "run.evaluate_images",
    "evaluate_probe": "run.evaluate_probe",
    "evaluate_projection": "run.evaluate_projection",
    "evaluate_reconstruction": "run.evaluate_reconstruction",
    "evaluate_stability": "run.evaluate_stability",
    "evaluate_prefix": "run.evaluate_prefix",
    "evaluate_sweep": "run.evaluate_sweep",
    "fit": "run.fit",
    "info": "run.info",
    "sample": "run.sample",
    "selftest": "run.evaluate_selftest",
    "tokenize": "run.tokenize",
    "train_prior": "run.train",
    "train_recipe": "run.train_recipe",
    "train_renderer": "run.train",
    "train_vqgan": "run.train",
    "load": "weights.artifact",
    "save": "weights.artifact",
}

__all__ = [
    "DigitError",
    "DigitPipeline",
    "LineageError",
    "Pictures",
    "PipelineSampling",
    "SamplerConfig",
    "compare_results",
    "compose",
    "evaluate_images",
    "evaluate_prefix",
    "evaluate_probe",
    "evaluate_projection",
    "evaluate_reconstruction",
    "evaluate_stability",
    "evaluate_sweep",
    "fit",
    "info",
    "load",
    "sample",
    "save",
    "selftest",
    "tokenize",
    "train_prior",
    "train_recipe",
    "train_renderer",
    "train_vqgan",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'digit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"digit.{_PLACES[name]}"), name)
