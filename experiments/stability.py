"""Table 1 at native resolution: VQGANs and discriminative tokenizers of the same photos, side by side.

    python experiments/stability.py carry --data DATA --out .carry --megabytes 55   # a smaller copy of DATA
    python experiments/stability.py run --data DATA --out runs/stability --minutes 10

DATA holds zips of photos of 256 px (clothing-256.zip, imagenet-sample-256.zip, or smaller ones: a zip with
the folders train and test is split by them, of any other every fifth photo is held out) and
vits14-saliency.safetensors, the weights of a ViT-S/14, whole or without the blocks that are not read.

Trains a VQGAN (f16, 1,024 codes of 16 channels, pixel loss) and a copy that stops early and is blurry, and a
small encoder by self-supervision on the same photos; fits discriminative tokenizers of 1,024, 4,096 and
8,192 codes on the ViT-S/14, and of 1,024 on the small encoder and on a ViT-S/14 of random weights; then runs
`digit evaluate stability` on the held-out photos of each set. OUT/result gets a JSON and a picture of each
set, summary.md in the paper's form and the VQGANs' reconstructions.

Cost on an H200: about 9 minutes, of which the VQGAN takes what --vqgan-minutes says. Every part that is done
is left alone when the command is repeated, and an interrupted training goes on. --smoke runs everything on
tiny pictures and networks on a CPU.
"""

import argparse
import contextlib
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cifar10.augment import ViewConfig
from cifar10.self_supervision import SelfSupervision, SelfSupervisionConfig
from cifar10.vit import vit_optimizer
from native.photos import READ, block_of, carry, gather, make_up, weights_file
from native.scale import SMOKE, Scale

from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.evaluation.perturbations import SNRS
from digit.evaluation.result import read_result
from digit.evaluation.stability import CHANGE, PAPER, VECTORS
from digit.features import Encoder, encoder_config
from digit.files import (
    read_json,
    read_safetensors,
    write_json_atomic,
    write_safetensors_atomic,
    write_text_atomic,
)
from digit.run.fit import fit
from digit.run.stability import evaluate_stability
from digit.run.train import train_vqgan
from digit.training.config import TrainConfig
from digit.training.loop import train
from digit.training.optimizer import OptimizerConfig
from digit.training.status import read_status
from digit.vqgan_loss import VQGANLossConfig


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", choices=("carry", "run"), help="carry: a smaller copy of the data; run: everything else")
    add("--data", type=Path, help="folder of zips and weights; made up with --smoke")
    add("--out", type=Path, required=True, help="folder to write")
    add("--megabytes", type=float, default=55.0, help="of the copy")
    add("--minutes", type=float, default=10.0, help="after which no part is begun")
    add("--vqgan-minutes", type=float, default=5.0, help="of the VQGAN's training, at most")
    add("--own-minutes", type=float, default=1.5, help="of the small encoder's training, at most")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--smoke", action="store_true", help="tiny pictures and networks")
    options = parser.parse_args(arguments)
    scale = SMOKE if options.smoke else Scale()
    if options.data is None:
        if not options.smoke:
            parser.error("--data is needed: the folder of the photos' zips and of the encoder's weights")
        options.data = make_up(options.out / "data", scale)
    if options.part == "carry":
        carry(options.data, options.out, options.megabytes)
    else:
        Experiment(options, scale).run()


class Experiment:
    """The parts in their order, each left alone where it is done."""

    def __init__(self, options: argparse.Namespace, scale: Scale) -> None:
        """Reads no data yet."""
        self.options, self.scale, self.started = options, scale, time.monotonic()
        self.out, self.device = options.out, options.device
        self.photos = self.out / "photos.zip"
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Every part; what is left of them is said where time runs out."""
        self.part("photos", self.photos.is_file(), lambda: gather(self.options.data, self.photos, self.scale))
        for name, steps in (("vqgan-early", self.scale.early), ("vqgan", self.scale.steps)):
            self.part(name, self.stopped(name), lambda name=name, steps=steps: self.vqgan(name, steps))
        self.part("own encoder", self.stopped("own"), self.own)
        names = ["vqgan-early", "vqgan"]
        for name, codes, settings in self.tokenizers():
            names.append(name)
            done = (self.out / name / "report.json").is_file()
            self.part(name, done, lambda n=name, k=codes, s=settings: self.fit(n, k, s))
        for path in sorted(self.sets()):
            self.part(f"stability {path}", False, lambda path=path: self.measure(path, names))
        self.part("summary", False, lambda: self.summary(names))

    def part(self, name: str, done: bool, work: Callable[[], Any]) -> None:
        """Do the work unless it is done; SystemExit when the time is over."""
        if done:
            return
        now = time.monotonic()
        if now - self.started > 60 * self.options.minutes:
            raise SystemExit(f"{name}: no time left; the same command goes on from here")
        work()
        self.seconds[name] = round(time.monotonic() - now, 1)
        print(f"{name}: {self.seconds[name]} s", flush=True)

    def stopped(self, name: str) -> bool:
        """Whether a training is over: all updates done, or the time it was given."""
        status = read_status(self.out / name)
        return status is not None and (status.finished or status.reason == "wall-clock limit")

    def vqgan(self, name: str, steps: int) -> None:
        """A VQGAN on pixels alone, at one learning rate, so that it is whole whenever time is over."""
        scale = self.scale
        training = TrainConfig(
            steps=steps,
            batch=scale.batch,
            clip=10.0,
            ema=0.999 if steps > 2000 else 0.9,
            optimizer=OptimizerConfig(
                lr=4e-4, betas=(0.5, 0.99), weight_decay=0.0, schedule="constant", warmup=min(200, steps)
            ),
            evaluate_every=1000,
            sample_every=1000,
            wall_clock_limit=60 * self.options.vqgan_minutes,
        )
        train_vqgan(
            str(self.photos),
            self.out / name,
            model=scale.vqgan,
            losses=VQGANLossConfig(
                l2=2.0, adversarial_weight=0.0, continuous_steps=min(100, steps // 4), dead_after=50
            ),
            training=training,
            under="train",
            held_out=str(self.photos),
            held_out_under="held-out",
            crop=True,
            device=self.device,
        )

    def own(self) -> None:
        """A small ViT that learns from the photos by MoCo v3's contrast and masked patches."""
        scale, vit = self.scale, self.scale.own
        views = {
            "view": ViewConfig(size=vit.image_size),
            "crop": ViewConfig(size=vit.image_size // 2, scale=(0.1, 0.5)),
        }
        torch.manual_seed(0)
        stage = SelfSupervision(
            SelfSupervisionConfig(steps=scale.own_steps, vit=vit, prototypes=1024, **views)
        )
        data = PixelData(
            open_images(self.photos, under="train"),
            size=vit.image_size,
            batch_size=scale.own_batch,
            device=self.device,
            flip=False,
        )
        config = TrainConfig(
            steps=scale.own_steps,
            batch=scale.own_batch,
            optimizer=vit_optimizer(5e-4, scale.own_steps),
            wall_clock_limit=60 * self.options.own_minutes,
        )

        def export(trained: Any, _: Path | None) -> None:
            write_safetensors_atomic(
                self.out / "own" / "encoder.safetensors", trained.teacher.vit.state_dict()
            )

        train(stage, data, config, self.out / "own", on_save=export, device=self.device, title="own encoder")

    def tokenizers(self) -> list[tuple[str, int, dict[str, Any]]]:
        """(name, codes, encoder settings of `fit`) of every discriminative tokenizer."""
        scale = self.scale
        given = weights_file(self.options.data)
        depth = 1 + max(map(block_of, read_safetensors(given)))
        saliency = {
            "encoder": scale.encoder,
            "encoder_weights": given,
            "encoder_arguments": {"depth": depth, **scale.arguments},
            "encoder_size": scale.encoder_size,
            "block": READ - depth,
        }
        untrained = self.out / "random.safetensors"
        if not untrained.is_file():
            torch.manual_seed(0)
            shape = encoder_config(
                scale.encoder, scale.encoder_size, arguments=saliency["encoder_arguments"], block=-1
            )
            write_safetensors_atomic(untrained, Encoder(shape).vit.state_dict())
        own = {
            "encoder": scale.own.name,
            "encoder_weights": self.out / "own" / "encoder.safetensors",
            "encoder_arguments": {k: v for k, v in scale.own.arguments.items() if k != "img_size"},
            "encoder_size": scale.own.image_size,
            "encoder_mean": scale.own.mean,
            "encoder_std": scale.own.std,
            "block": -3,
        }
        least = scale.clusters[0]
        return [
            *((f"vits14-saliency-{codes}", codes, saliency) for codes in scale.clusters),
            (f"own-{least}", least, own),
            (f"random-{least}", least, {**saliency, "encoder_weights": untrained}),
        ]

    def fit(self, name: str, codes: int, settings: dict[str, Any]) -> None:
        """A discriminative tokenizer of the training photos."""
        fit(
            str(self.photos),
            self.out / name,
            clusters=codes,
            per_cluster=self.scale.per_cluster,
            size=self.scale.size,
            under="train",
            device=self.device,
            **settings,
        )

    def sets(self) -> set[str]:
        """Names of the sets of photos."""
        with zipfile.ZipFile(self.photos) as archive:
            return {name.split("/")[1] for name in archive.namelist() if name.startswith("held-out/")}

    def measure(self, name: str, tokenizers: list[str]) -> None:
        """Stability on the held-out photos of one set."""
        evaluate_stability(
            str(self.photos),
            tuple(self.out / tokenizer for tokenizer in tokenizers),
            out=self.out / "result" / f"{name}.json",
            under=f"held-out/{name}",
            size=self.scale.size,
            noise_only=self.options.smoke,
            device=self.device,
        )

    def summary(self, tokenizers: list[str]) -> None:
        """summary.md, times, and what the VQGANs make of photos they never saw."""
        place = self.out / "result"
        parts = [table(read_result(place / f"{name}.json"), tokenizers, name) for name in sorted(self.sets())]
        write_text_atomic(place / "summary.md", "\n".join(parts))
        for name in ("vqgan-early", "vqgan"):
            if pictures := sorted((self.out / name / "samples").glob("*.png")):
                shutil.copyfile(pictures[-1], place / f"{name}.png")
        before = read_json(place / "seconds.json") if (place / "seconds.json").is_file() else {}
        write_json_atomic(place / "seconds.json", {**before, **self.seconds})


def table(value: dict[str, Any], tokenizers: list[str], title: str) -> str:
    """Markdown: a row for each tokenizer and each of the paper's, by SNR."""
    head = ["", *(f"{snr:g} dB" for snr in SNRS)]
    own = ("PSNR", "sharpness", "entropy, bits", "usage")
    lines = [f"## {title}: {value['counts']['pictures']} held-out photos", ""]
    for measure in (CHANGE, VECTORS):
        lines += [_row([measure, *head[1:], *own]), _row(["---"] * (len(head) + len(own)))]
        for name in tokenizers:
            values = value["values"]
            cells = [values.get(f"{name}: {measure}, noise {snr:g} dB") for snr in SNRS]
            lines.append(_row([name, *map(_cell, cells), *(_cell(values.get(f"{name}: {x}")) for x in own)]))
        for name, rows in PAPER.items():
            lines.append(_row([name, *map(_cell, rows[measure]), *[""] * len(own)]))
        lines.append("")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # trainings have saved: the same command goes on
        main()
