"""Compile every kernel for an H100, at the published sizes, on a machine that has none; nothing is computed.

A process of its own, since Triton decides while it is imported whether it compiles or interprets. Tensors
are on the meta device. Prints a JSON object: how often each kernel was compiled. What the compiler refuses
ends it with a traceback that names the kernel.
"""

import collections
import contextlib
import itertools
import json
import os
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from digit.fast.blocks import blocks
from digit.fast.decoding import FastDecoder, Shape
from digit.fast.kernels import linear, nearest
from digit.fast.kernels.draw import Filters, draw
from digit.fast.kernels.filling import embed, settle
from digit.fast.kernels.modulated import add_modulate, norm_heads
from digit.fast.kernels.noise import gaussians, gumbels
from digit.prior import Prior, PriorConfig

compiled: collections.Counter[str] = collections.Counter()
launch: Any = JITFunction.run
SHARED = 227 * 1024  # bytes that a program can have


class Hopper:
    """A driver that names an H100 and has none."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
    name = f"{self.fn.__module__.rpartition('.')[2]}.{self.fn.__name__}"
    kernel = launch(self, *arguments, warmup=True, **options)
    assert kernel.metadata.shared <= SHARED, f"{name} needs {kernel.metadata.shared} bytes of shared memory"
    if name in ("draw._draw", "noise._write", "noise._write_gaussians"):
        assert "fma.rn.f32" not in kernel.asm["ptx"], (
            "noise with fused products has other bits than the plain"
        )
    compiled[name] += 1


def no_autocast(*_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
    """The meta device has none."""
    return contextlib.nullcontext()


def decoding(config: PriorConfig) -> None:
    """Few rows, more and many; caches of 16 and 8 bits; kernels in a chain and by themselves."""
    prior, length = Prior(config).eval(), config.length
    tables, plain = prior.tables(), Filters(*[False] * 5)
    for rows, bits in itertools.product((1, 64, 1024, 4096), (16, 8)):
        shape = Shape(rows, False, length, length, torch.bfloat16, bits, plain)
        decoder = FastDecoder(prior.transformer, tables, shape)
        decoder.packed.chained = bits == 16
        decoder.scores()
    given = {"settings": torch.ones(3, dtype=torch.float64), "counter": torch.zeros((), dtype=torch.int32)}
    codes, keys = torch.zeros(2, length, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64)
    for guided, greedy, top_k, top_p in ((0, 1, 0, 0), (1, 0, 1, 0), (0, 0, 0, 1), (1, 0, 1, 1)):
        filters = Filters(*map(bool, (greedy, top_k, top_p, top_p and not guided, guided)))
        logits, embedded = torch.zeros(4 if guided else 2, config.codes + 4), torch.zeros(4, config.width)
        more: dict[str, Any] = {
            "guidance": torch.ones(length) if guided else None,
            "tables": (tables.codes, tables.positions, tables.scale),
            "embedded": embedded.bfloat16() if greedy else embedded,
            "specials": 4,
            "chained": bool(greedy),
        }
        draw(logits, keys, codes, filters, count=config.codes, **given, **more)
    placed = {"places": torch.zeros(2, dtype=torch.int64), "confidence": torch.zeros(2, length)}
    draw(logits, keys[:1], codes, plain, count=config.codes, **placed, **given)


def features(dtype: torch.dtype) -> None:
    """The nearest of 8192 centroids."""
    vectors, centroids = torch.zeros(4096, 768, dtype=dtype), torch.zeros(8192, 768, dtype=dtype)
    nearest.scan(vectors, centroids, torch.zeros(8192))
    nearest.halve(vectors.float())


def filling() -> None:
    """Between the passes of the masked renderer."""
    whole = {"dtype": torch.int64}
    vq_codes, masked = torch.zeros(2, 256, **whole), torch.zeros(2, 181, **whole)
    gumbel = gumbels(torch.zeros(2, 2, **whole), 8, 256)
    how = {"confidence": torch.zeros(2, 181), "gumbel": gumbel[:, 1], "noise": 1.5, "left": 142, "mask": 1024}
    settle(vq_codes, masked, masked, **how)
    embed(
        torch.zeros(2, 257, 1024), torch.zeros(1025, 1024), torch.zeros(256, 1024), vq_codes, torch.bfloat16
    )


def flowing() -> None:
    """Between the products of the flow renderer, and what it begins with."""
    gaussians(torch.zeros(2, 2, dtype=torch.int64), 3 * 256**2)
    half = {"dtype": torch.bfloat16}
    x, told = torch.zeros(512, 768), torch.zeros(2, 3 * 768, **half).split(768, 1)
    add_modulate(x, *told[:2], **half)
    add_modulate(x, *told[:2], gate=told[2], branch=torch.zeros(512, 768, **half), **half)
    norm_heads(torch.zeros(512, 3 * 768, **half), *torch.zeros(2, 64), heads=12, eps=1e-6)


def training(config: PriorConfig) -> None:
    """Forward and backward."""
    transformer = Prior(config).transformer
    x = torch.zeros(8, config.length, config.width, dtype=torch.bfloat16, requires_grad=True)
    total: Tensor = blocks(transformer, x).float().sum()
    total.backward()


def main() -> None:
    driver.set_active(Hopper())
    JITFunction.run = compile_only
    torch.autocast = no_autocast
    linear._described = lambda x: True
    torch.set_default_device("meta")
    config = PriorConfig(codes=8192, length=256, classes=1000, width=1024, layers=2, heads=16)
    decoding(config)
    for dtype in (torch.float16, torch.bfloat16):
        features(dtype)
    filling()
    flowing()
    training(config)
    print(json.dumps(compiled))


if __name__ == "__main__":
    main()
