"""Training kernels: whether a stage can have them, and switching them on."""

import importlib.util

import torch
from torch import nn

from digit.errors import DigitError
from digit.nn.transformer import Transformer


def use_kernels(stage: nn.Module, device: torch.device, *, bf16: bool, sharded: bool) -> None:
    """Let the transformers of a stage train by the kernels of `digit.fast` from now on.

    Raises:
        DigitError: they cannot, and why: whoever asks for them is not to wait for a slower run unknowingly.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        raise _refused("they need a GPU that computes in bf16")
    if importlib.util.find_spec("triton") is None:
        raise _refused("Triton is not installed")
    check_kernels(stage, bf16=bf16, sharded=sharded)
    for transformer in _transformers(stage):
        transformer.kernels = True


def check_kernels(stage: nn.Module, *, bf16: bool, sharded: bool) -> None:
    """DigitError where the kernels cannot train a stage on any machine."""
    transformers = _transformers(stage)
    if not transformers:
        raise _refused("this stage has no transformer")
    if any(transformer.config.norm != "post" for transformer in transformers):
        raise _refused("they are for post-norm blocks and these are pre-norm")
    if not bf16:
        raise _refused("they compute in bf16 and precision is fp32")
    if sharded:
        raise _refused("they read whole weights and these are sharded")


def _transformers(stage: nn.Module) -> list[Transformer]:
    return [module for module in stage.modules() if isinstance(module, Transformer)]


def _refused(problem: str) -> DigitError:
    return DigitError(f"training: kernels cannot be used, {problem}: leave --kernels out")
