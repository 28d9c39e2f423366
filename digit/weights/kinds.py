"""The kinds of artifact, and the module and settings that each one is."""

from typing import Any

from torch import nn

from digit.errors import DigitError

KINDS = {
    "tokenizer": "Tokenizer",
    "vqgan": "VQGAN",
    "prior": "Prior",
    "renderer": "Renderer",
    "renderer_masked": "MaskedRenderer",
    "classifier": "Classifier",
}


def kind_of(module: nn.Module) -> str:
    """The kind of a module; DigitError if it is not one that artifacts hold."""
    for kind, name in KINDS.items():
        if type(module).__name__ == name:
            return kind
    raise DigitError(
        f"a {type(module).__name__} cannot be an artifact: it must be one of {', '.join(KINDS.values())}"
    )


def classes_of(kind: str) -> tuple[type[Any], type[Any]]:
    """The module and the settings of a kind; DigitError if there is no such kind."""
    if kind == "tokenizer":
        from digit.tokenizer import Tokenizer, TokenizerConfig

        return Tokenizer, TokenizerConfig
    if kind == "vqgan":
        from digit.vqgan import VQGAN, VQGANConfig

        return VQGAN, VQGANConfig
    if kind == "prior":
        from digit.prior import Prior, PriorConfig

        return Prior, PriorConfig
    if kind == "renderer":
        from digit.renderer import Renderer, RendererConfig

        return Renderer, RendererConfig
    if kind == "renderer_masked":
        from digit.renderer_masked import MaskedConfig, MaskedRenderer

        return MaskedRenderer, MaskedConfig
    if kind == "classifier":
        from digit.evaluation.classifier import Classifier, ClassifierConfig

        return Classifier, ClassifierConfig
    raise DigitError(f"there is no artifact kind {kind!r}: the kinds are {', '.join(KINDS)}")
