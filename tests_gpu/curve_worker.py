"""What test_training.py runs: the golden curve's training on this machine; prints curves and notes as JSON.

A process of its own, in which no types are checked: the compiler does not take functions that are.
"""

import contextlib
import json
import sys
from dataclasses import replace
from typing import Literal

import torch
import torch._dynamo
from test_curve import batch  # pyright: ignore[reportMissingImports]

from digit.nn.batch import CodeBatch
from digit.prior import Prior, PriorConfig
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.update import Updater

CPU, GPU = torch.device("cpu"), torch.device(sys.argv[1])
SHAPE = PriorConfig(codes=50, length=12, classes=3, width=32, layers=2, heads=2)


def curve(
    shape: PriorConfig, device: torch.device, precision: Literal["fp32", "bf16"], *, fast: bool = False
) -> tuple[list[float], bool]:
    """Losses of 60 updates from the golden curve's weights, and whether blocks ran on kernels.

    `fast` is compiled, and what the compiler does not take is an error.
    """
    torch.manual_seed(0)
    adam = OptimizerConfig(lr=3e-3, warmup=10)
    config = TrainConfig(steps=60, batch=16, optimizer=adam, precision=precision, compile=fast)
    updater = Updater(Prior(shape), config, device)
    with contextlib.ExitStack() as stack:
        if fast:
            updater.accelerate(stack)
            stack.enter_context(torch._dynamo.config.patch(suppress_errors=False))
        for step in range(60):
            whole = batch(step)
            assert whole.labels is not None
            updater.update(CodeBatch(whole.codes.to(device), whole.labels.to(device)))
        updater.read_losses("none")
    torch.compiler.reset()
    return updater.losses, bool(updater.kernels)


def main() -> None:
    """Both places of the norm; without dropout, whose masks differ by device, and as the golden curve is."""
    found = {}
    for norm in ("post", "pre"):
        with_dropout = replace(SHAPE, norm=norm)
        shape = replace(with_dropout, dropout=0.0)
        fast, kernels = curve(shape, GPU, "bf16", fast=True)
        found[norm] = {
            "cpu": curve(shape, CPU, "fp32")[0],
            "float32": curve(shape, GPU, "fp32")[0],
            "fast": fast,
            "kernels": kernels,
            "fast, with dropout": curve(with_dropout, GPU, "bf16", fast=True)[0],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
