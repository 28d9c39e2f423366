"""Training kernels: whether a stage can have them, and switching them on."""

import importlib.util

import torch
from torch import nn

from digit.errors import DigitError
from digit.nn.transformer import Transformer


def use_kernels(stage: nn.Module, device: torch.device, *, bf16: bool, sharded: bool) -> None:
    """Let the transformers of a stage train by the kernels of `digit.nn.fused` from now on.

    Raises:
        DigitError: they cannot, and why: whoever asks for them is not to wait for a slower run unknowingly.
    """
    transformers = [module for module in stage.modules() if isinstance(module, Transformer)]
    problem = None
    if not transformers:
        problem = "this stage has no transformer"
    elif any(transformer.config.norm != "post" for transformer in transformers):
        problem = "they are for post-norm blocks and these are pre-norm"
    elif device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        problem = "they need a GPU that computes in bf16"
    elif importlib.util.find_spec("triton") is None:
        problem = "Triton is not installed"
    elif not bf16:
        problem = "they compute in bf16 and precision is fp32"
    elif sharded:
        problem = "they read whole weights and these are sharded"
    if problem is not None:
        raise DigitError(f"training: kernels cannot be used, {problem}: leave --kernels out")
    for transformer in transformers:
        transformer.kernels = True
