"""The kinds of artifact, and the module and settings that each one is."""

from typing import Any

from torch import nn

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.nn.linear_probe import Probe, ProbeConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig

KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "encoder": (Encoder, EncoderConfig),
    "tokenizer": (Tokenizer, TokenizerConfig),
    "vqgan": (VQGAN, VQGANConfig),
    "prior": (Prior, PriorConfig),
    "renderer": (Renderer, RendererConfig),
    "renderer_masked": (MaskedRenderer, MaskedConfig),
    "classifier": (Classifier, ClassifierConfig),
    "probe": (Probe, ProbeConfig),
}


def kind_of(module: nn.Module) -> str:
    """The kind of a module; DigitError if it is not one that artifacts hold."""
    for kind, (stage, _) in KINDS.items():
        if type(module) is stage:
            return kind
    names = ", ".join(stage.__name__ for stage, _ in KINDS.values())
    raise DigitError(f"a {type(module).__name__} cannot be an artifact: it must be one of {names}")


def classes_of(kind: str) -> tuple[type[Any], type[Any]]:
    """The module and the settings of a kind; DigitError if there is no such kind."""
    if kind not in KINDS:
        raise DigitError(f"there is no artifact kind {kind[:40]!r}: the kinds are {', '.join(KINDS)}")
    return KINDS[kind]
