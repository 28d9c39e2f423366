"""queries, keys and values -> mixed values, by the kernel that is fastest for their length on this device."""

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

LITTLE = 32  # keys beyond a multiple of 128 up to which our kernel was measured, and is ahead


def attention(
    queries: Float[Tensor, "b h n c"],
    keys: Float[Tensor, "b h t c"],
    values: Float[Tensor, "b h t c"],
    *,
    causal: bool = False,
    backend: SDPBackend | None = None,
) -> Float[Tensor, "b n d"]:
    """softmax(queries keys^T / sqrt(c)) values with the heads side by side, d = h c.

    torch's kernels cut keys into blocks of 128 and compute all of the last one, so that of 257 keys a third
    of the work is for nothing; on an H200, `kernels.full_attention` takes 0.70 of cuDNN's time for 261 keys
    and 0.77 for 513 (bench/attention.py). `causal` needs as many queries as keys. `backend` is a kernel of
    torch's to take instead.
    """
    if backend is None and not causal and _ours(queries, keys):
        from digit.fast.kernels.full_attention import full_attention  # Triton exists on GPU machines only

        return full_attention(queries, keys, values)
    with _quickest(queries.device) if backend is None else sdpa_kernel(backend):
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


def has_kernels(device: torch.device) -> bool:
    """Whether our kernel runs here: a GPU, and Triton."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def _ours(queries: Tensor, keys: Tensor) -> bool:
    """Whether our kernel is faster: lengths and width as measured, on the kind of GPU on which they were."""
    if not has_kernels(queries.device) or torch.cuda.get_device_capability(queries.device)[0] != 9:
        return False
    if queries.dtype not in (torch.float16, torch.bfloat16) or queries.shape[3] != 64:
        return False
    return 0 < keys.shape[2] % 128 <= LITTLE


def _quickest(device: torch.device) -> AbstractContextManager[Any]:
    """cuDNN's attention first where it is fastest, from Hopper on; the others where it cannot."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return nullcontext()
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    order += [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)
