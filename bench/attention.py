"""Attention of all positions to all at the published lengths: our kernel beside cuDNN's and flash attention.

    python bench/attention.py [--device D] [--smoke] [--seconds S] [--out F] [--sweep]

`ViT-B`: 261 tokens, batch 512. `renderer`: 513 positions of the masked renderer, batch 128; `renderer, last
block`: 178 queries, what is masked in its steps on average; `renderer, one image`. Queries, keys and values
are read out of one packed product and all write heads side by side; calls are replayed by a graph. Rows give
milliseconds on the device, TFLOP/s of 4 b h n t c operations, whatever was done, and `error`: the largest
difference from float64 over the largest value, in units of the format's eps. `--device cpu` has torch's only.
--sweep measures our kernel's tiles instead, to choose between.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from machine import Report, median_seconds, parser
from torch import Tensor
from torch.nn.attention import SDPBackend

from digit.fast import usable
from digit.nn.attention import attention

SHAPES = {  # images, heads, queries, keys, dtype
    "ViT-B": (512, 12, 261, 261, torch.float16),
    "renderer": (128, 16, 513, 513, torch.bfloat16),
    "renderer, last block": (128, 16, 178, 513, torch.bfloat16),
    "renderer, one image": (1, 16, 513, 513, torch.bfloat16),
}
SMOKE = {"smoke": (2, 2, 5, 9, torch.float32)}
CHANNELS = 64


def ways(device: torch.device, *, sweep: bool) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Kernels by name; or ours by the numbers of its tiles."""
    if not usable(device):
        return {"torch": attention}
    from digit.fast.kernels.full_attention import Tiles, full_attention

    if sweep:
        numbers = itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
        tiles = [Tiles(*each) for each in numbers if each[0] >= 16 * each[2]]  # a warp has 16 rows or more
        return {f"digit, {tuple(each)}": partial(full_attention, tiles=each) for each in tiles}

    return {
        "digit": full_attention,
        "cuDNN": lambda q, k, v: attention(q, k, v, backend=SDPBackend.CUDNN_ATTENTION),
        "flash": lambda q, k, v: attention(q, k, v, backend=SDPBackend.FLASH_ATTENTION),
    }


def measure(report: Report, shape: tuple[Any, ...], way: Callable[..., Tensor]) -> dict[str, Any]:
    """One row."""
    b, h, n, t, dtype = shape
    device = report.device
    generator = torch.Generator(device).manual_seed(0)
    product = torch.empty(b, t, 3, h, CHANNELS, dtype=dtype, device=device).normal_(generator=generator)
    q, k, v = product.permute(2, 0, 3, 1, 4).unbind(0)
    q = q[:, :, t - n :]
    some = [each[-1:].double() for each in (q, k, v)]
    wanted = (some[0] @ some[1].transpose(2, 3) * CHANNELS**-0.5).softmax(3) @ some[2]
    wanted = wanted.transpose(1, 2).flatten(2)
    error = (way(q, k, v)[-1:].double() - wanted).abs().max() / some[2].abs().max() / torch.finfo(dtype).eps
    work = lambda: way(q, k, v)  # noqa: E731
    if device.type == "cuda":
        from triton.testing import (
            do_bench_cudagraph,  # of many calls a graph: the host's launches do not count
        )

        seconds = do_bench_cudagraph(work, rep=100, return_mode="median") / 1e3
    else:
        seconds = median_seconds(work, device)
    rate = 4 * b * h * n * t * CHANNELS / seconds
    row = {"ms": 1e3 * seconds, "tflops": rate / 1e12, **report.share(rate), "error": error.item()}
    return row | {"batch": b, "queries": n, "keys": t}


def main() -> None:
    """All shapes, each with all kernels."""
    options = parser(__doc__)
    options.add_argument("--sweep", action="store_true", help="tiles of our kernel")
    given = options.parse_args()
    report = Report.of(given)
    for name, shape in (SMOKE if given.smoke else SHAPES).items():
        for kernel, way in ways(report.device, sweep=given.sweep).items():
            report.part(name, kernel, lambda s=shape, w=way: measure(report, s, w))
    report.finish()


if __name__ == "__main__":
    main()
