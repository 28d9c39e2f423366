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
    from digit.run.compare import compare_results
    from digit.run.compose import compose
    from digit.run.evaluate import evaluate_images
    from digit.run.evaluate_probe import evaluate_probe
    from digit.run.fit import fit
    from digit.run.info import info
    from digit.run.prefix import evaluate_prefix
    from digit.run.projection import evaluate_projection
    from digit.run.reconstruction import evaluate_reconstruction
    from digit.run.sample import sample
    from digit.run.selftest import selftest
    from digit.run.stability import evaluate_stability
    from digit.run.sweep import evaluate_sweep
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
    "compare_results": "run.compare",
    "compose": "run.compose",
    "evaluate_images": "run.evaluate",
    "evaluate_probe": "run.evaluate_probe",
    "evaluate_projection": "run.projection",
    "evaluate_reconstruction": "run.reconstruction",
    "evaluate_stability": "run.stability",
    "evaluate_prefix": "run.prefix",
    "evaluate_sweep": "run.sweep",
    "fit": "run.fit",
    "info": "run.info",
    "sample": "run.sample",
    "selftest": "run.selftest",
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
