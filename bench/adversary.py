"""What the pixel discriminator of a VQGAN says while it teaches, and what it does to reconstructions.

    python bench/adversary.py --train cifar10-train.zip --test cifar10-test.zip [--size PX] [--steps N]
        [--seeds 0 1 ...] [--margins M ...] [--device cpu] [--out F] [--smoke]

A small VQGAN is trained by `digit.train_vqgan` for each seed and `adversarial_margin`; 0 is the balance of
VQGAN (arXiv:2012.09841, section 3.1) alone. Pixels are its only loss besides the discriminator, which begins
to teach at half of the steps. Over the last quarter, as medians: `discriminator`, its loss, log 2 = 0.693 at
chance; `slope`, the mean squared slope of its logits, 0 where it is silent; `balance`, its weight. On unseen
pictures: `psnr` in dB; `sharpness`, the mean difference of neighbouring pixels over that of the originals;
`distance`, of Fréchet, between features of the bundled tokenizer's encoder. Medians of the seeds.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import heading, parser
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

import digit
from digit.data.images import open_images
from digit.data.loader import Report, load_pixels
from digit.evaluation.scores import Moments, frechet_distance
from digit.files import write_json_atomic
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read
from digit.vqgan_config import VQGANConfig, VQGANLossConfig

NAMES = ("discriminator", "slope", "balance", "psnr", "sharpness", "distance")


def roughness(pixels: Tensor) -> float:
    """Mean difference of neighbours."""
    return sum(float(pixels.diff(dim=axis).abs().mean()) for axis in (-1, -2))


def trained(given: Any, margin: float, seed: int, out: Path) -> dict[str, float]:
    """One training, and what came of it."""
    steps, small = given.steps, given.smoke
    run = digit.train_vqgan(
        given.train,
        out,
        model=VQGANConfig(
            image_size=given.size, width=8 if small else 16, multipliers=(1, 2), blocks=1,
            codes=16 if small else 1024, code_dim=16, normalized_codes=True, shortcut="input",
        ),
        losses=VQGANLossConfig(
            adversarial_margin=margin, adversarial_start=steps // 2, discriminator_ahead=steps // 8,
            continuous_steps=steps // 15, discriminator_width=8 if small else 32,
        ),
        training=TrainConfig(
            steps=steps, batch=4 if small else 16, clip=10.0, seed=seed, log_every=max(1, steps // 60),
            optimizer=OptimizerConfig(
                lr=given.lr, betas=(0.5, 0.99), weight_decay=0.0, schedule="constant", warmup=steps // 15
            ),
        ),
        held_out=given.test,
        device=given.device,
    )  # fmt: skip
    assert run["finished"]
    log = [row for row in read(out / "log.jsonl") if "balance_patches" in row and row["step"] > 0.75 * steps]
    source = open_images(given.test).spread(1000)
    real = load_pixels(source, np.arange(len(source)), given.size, report=Report())[1].float() / 255
    vqgan: Any = digit.load(out)
    with torch.inference_mode():
        fake = torch.cat([vqgan.decode(vqgan.encode(part)) for part in real.split(100)])
    tokenizer: Any = digit.DigitPipeline.from_pretrained().tokenizer
    moments = [Moments(tokenizer.encoder.width) for _ in range(2)]
    with torch.inference_mode():
        for each, pixels in zip(moments, (real, fake), strict=True):
            for part in F.interpolate(pixels, size=32, mode="area").split(100):
                each.update(tokenizer.features(part.clamp(0, 1)).mean(1))
    return {
        **{name: statistics.median(row[f"{name}_patches"] for row in log) for name in NAMES[:3]},
        "psnr": float(-10 * F.mse_loss(fake, real).log10()),
        "sharpness": roughness(fake) / roughness(real),
        "distance": frechet_distance(*moments),
    }


def main() -> None:
    """Train, print, write."""
    options = parser(__doc__)
    options.add_argument("--train", type=Path, help="pictures")
    options.add_argument("--test", type=Path, help="unseen ones")
    options.add_argument("--size", type=int, default=32, help="pixels a side")
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--lr", type=float, default=1.5e-3)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument(
        "--margins", type=float, nargs="+", default=[0.0, VQGANLossConfig().adversarial_margin]
    )
    given = options.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if given.smoke:
            given.train = given.test = Path(folder) / "pictures"
            given.size, given.steps = 16, 16
            given.train.mkdir()
            for i in range(8):
                Image.effect_noise((16, 16), 40).convert("RGB").save(given.train / f"{i}.png")
        for margin in given.margins:
            each = [trained(given, margin, s, Path(folder) / f"{margin}-{s}") for s in given.seeds]
            rows[str(margin)] = {name: statistics.median(row[name] for row in each) for name in each[0]}
            rows[str(margin)]["each"] = each
    result = {
        **heading("the pixel discriminator of a small VQGAN, by margin", torch.device("cpu")),
        "rows": rows,
    }
    table = Table(title="\n".join(str(result[name]) for name in ("measurement", "command", "commit")))
    for column in ("margin", *NAMES):
        table.add_column(column)
    for margin, row in rows.items():
        table.add_row(margin, *(f"{row[name]:.4g}" for name in NAMES))
    Console(width=110).print(table)
    if given.out:
        write_json_atomic(given.out, result)


if __name__ == "__main__":
    main()
