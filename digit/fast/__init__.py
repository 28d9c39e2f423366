"""What exists for speed on a GPU: forms that mean the same as the plain functions, and where they are chosen.

`usable` is the one predicate. Each function here is a form of the plain function of its name (see
`digit.nn.forms`): it takes the calls that its kernels can, and is NotImplemented for the others. What runs
is imported inside, for Triton is only where torch is made for GPUs.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor


def usable(device: torch.device) -> bool:
    """Whether kernels run on a device: a GPU, and Triton is installed."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def decode(transformer: Any, prefix: Tensor, **how: Any) -> Any:
    """`nn.decoding.decode` by captured graphs and packed weights, at most 4 bytes per number."""
    given, guided = how.get("given"), how["config"].guidance != 1
    nothing = given is not None and given.shape[1] == how["length"]
    unguided = guided and how.get("null_prefix") is None
    if not usable(prefix.device) or prefix.dtype == torch.float64 or nothing or unguided:
        return NotImplemented
    from digit.fast import decoding

    return decoding.decode(transformer, prefix, **how)


def fill(renderer: Any, codes: Tensor, *given: Any, **how: Any) -> Any:
    """`renderer_masked.fill` by packed weights, few images as one captured graph."""
    if not usable(codes.device):
        return NotImplemented
    from digit.fast import filling

    return filling.fill(renderer, codes, *given, **how)


def nearest(vectors: Tensor, centroids: Tensor, squares: Tensor) -> Any:
    """`nn.nearest.nearest` by fused float16 products, and exact ones where these do not decide."""
    if not usable(vectors.device) or not len(vectors) or vectors.shape[1] % 8:
        return NotImplemented
    from digit.fast import assigning

    return assigning.nearest(vectors, centroids, squares)


def gaussians(keys: Tensor, count: int) -> Any:
    """`nn.noise.gaussians` by one kernel, where a processor takes longer than what the noise is for."""
    if not usable(keys.device) or not len(keys):
        return NotImplemented
    from digit.fast.kernels import noise

    return noise.gaussians(keys, count)


def flow(renderer: Any, x: Tensor, *given: Tensor, **how: Any) -> Any:
    """`renderer_flow.flow` by packed weights, as one captured graph, where nothing is learned."""
    if not usable(x.device) or not torch.is_inference_mode_enabled():
        return NotImplemented
    from digit.fast import flowing

    return flowing.flow(renderer, x, *given, **how)
