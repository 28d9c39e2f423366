"""What test_two_gpus.py runs: python two_worker.py PROCESSES FOLDER."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from digit.distributed import add_up, gather_rows, is_main, joined, leave, rank, share
from digit.nn.batch import CodeBatch
from digit.prior import Prior, PriorConfig
from digit.run.device import choose_device
from digit.run.processes import run_together
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.loop import train

SHAPE = PriorConfig(codes=512, length=32, classes=5, width=128, layers=3, heads=4, label_dropout=0.5)
CONFIG = TrainConfig(
    steps=8, batch=16, micro_batch=4, optimizer=OptimizerConfig(lr=1e-3, warmup=3), ema=0.9,
    log_every=1, save_every=4, compile=False,
)  # fmt: skip


def exchange(folder: Path, device: torch.device) -> None:
    """Rows of both, and a sum, by what carries tensors of GPUs."""
    rows = torch.arange(3 + rank(), device=device) + 10 * rank()
    parts, total = gather_rows(rows), torch.full((2,), 1.0 + rank(), device=device)
    add_up(total)
    found = {"parts": [part.tolist() for part in parts], "total": total.tolist(), "device": str(device)}
    (folder / f"exchange-{rank()}.json").write_text(json.dumps(found))


def run(out: Path, device: torch.device, steps: int, *, sharded: bool) -> None:
    """Train in `out`, or go on there; the weights are left beside the log."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(SHAPE.codes, (CONFIG.steps, CONFIG.batch, SHAPE.length), generator=generator)

    def data(step: int) -> CodeBatch:
        here = share(CONFIG.batch)
        labels = torch.arange(CONFIG.batch)[here] % SHAPE.classes
        return CodeBatch(codes[step, here].to(device), labels.to(device))

    config = replace(CONFIG, steps=steps, sharded=sharded)
    keep = lambda stage, path: save_file(stage.state_dict(), out / "weights.safetensors")  # noqa: E731
    train(Prior(SHAPE), data, config, out, on_save=keep, device=device, progress=False)


def main() -> None:
    """All scenarios in one process, or in several that this one starts."""
    processes, folder = int(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) == 3:
        sys.exit(run_together([*sys.argv[1:], "started"], processes, program=(__file__,)))
    with joined():
        device = choose_device(None)
        if processes > 1:
            exchange(folder, device)
        run(folder / f"whole-{processes}", device, CONFIG.steps, sharded=processes > 1)
        for steps in (CONFIG.save_every, CONFIG.steps):
            run(folder / f"resumed-{processes}", device, steps, sharded=processes > 1)
        if is_main():
            (folder / f"done-{processes}").touch()
    leave()


if __name__ == "__main__":
    main()
