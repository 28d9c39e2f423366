"""Training kernels: switching them on where a stage can have them."""

import importlib.util

import torch
from torch import nn

from digit.nn.transformer import Transformer


def use(stage: nn.Module, device: torch.device, *, bf16: bool, sharded: bool) -> str | None:
    """Let the transformers of a stage train by the kernels of `digit.fast`; None, or why they cannot."""
    transformers = [module for module in stage.modules() if isinstance(module, Transformer)]
    if not transformers:
        return "this stage has no transformer"
    if any(transformer.config.norm != "post" for transformer in transformers):
        return "they are for post-norm blocks and these are pre-norm"
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU that computes in bf16"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not bf16:
        return "they compute in bf16 and precision is fp32"
    if sharded:
        return "they read whole weights and these are sharded"
    for transformer in transformers:
        transformer.kernels = True
    return None
