"""Table 1 at native resolution: VQGANs and discriminative tokenizers of the same photos, side by side.

    python experiments/stability.py carry --data DATA --out .carry --megabytes 120   # a smaller copy of DATA
    python experiments/stability.py run --data DATA --out runs/stability --minutes 10

DATA holds zips of photos of 256 px (clothing-256.zip, imagenet-sample-256.zip, or smaller ones: a zip with
the folders train and test is split by them, of any other every fifth photo is held out),
vits14-saliency.safetensors, the weights of a ViT-S/14, whole or without the blocks that are not read, and
efficientnet-lite0.safetensors and squeezenet1_1.safetensors, which experiments/efficientnet_lite0.py and
experiments/squeezenet.py make.

Trains a VQGAN of the paper's 256 codes per picture (f16, 1,024 codes) and one of 1,024 (f8), both with pixel,
perceptual and adversarial loss on EfficientNet-lite0, and a copy of the first that learns from pixels alone,
stops early and is blurry; trains a small encoder by self-supervision on the same photos; fits discriminative
tokenizers of 1,024, 4,096 and 8,192 codes on the ViT-S/14, and of 1,024 on the small encoder and on a
ViT-S/14 of random weights. Then runs `digit evaluate stability` on the held-out photos of each set, and
measures how far the VQGANs' reconstructions are from them on SqueezeNet's features. OUT/result gets JSONs and
pictures of each set, stability against sharpness (vqgans.png), and summary.md in the paper's form.

Cost: about 10 minutes on two H100s with --devices 2, or twice that on one. Every part that is done is left
alone when the command is repeated, and an interrupted training goes on. --smoke runs everything on tiny
pictures and networks on a CPU.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cifar10.augment import ViewConfig
from cifar10.self_supervision import SelfSupervision, SelfSupervisionConfig
from cifar10.vit import vit_optimizer
from devices import check_devices, environment
from native.photos import (
    NETWORK,
    PERCEPTUAL,
    READ,
    block_of,
    carry,
    gather,
    make_up,
    network_file,
    weights_file,
)
from native.reconstruction import reconstruction
from native.report import write_summary
from native.scale import SMOKE, Scale

from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.errors import DigitError, on_command_line
from digit.evaluation.result import read_result
from digit.features import Encoder, encoder_config
from digit.files import read_json, write_json_atomic
from digit.run.evaluate.stability import evaluate_stability
from digit.run.fit import fit
from digit.run.train.vqgan import train_vqgan
from digit.tensors import read_safetensors, write_safetensors_atomic
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read_status
from digit.training.loop import train
from digit.vqgan_config import VQGANLossConfig
from digit.weights.artifact import load

MEASURING = 1.5  # minutes kept for the measurements, which come last


@on_command_line()
def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when everything is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", choices=("carry", "run"), help="carry: a smaller copy of the data; run: everything else")
    add("--data", type=Path, help="folder of zips and weights; made up with --smoke")
    add("--out", type=Path, required=True, help="folder to write")
    add("--megabytes", type=float, default=120.0, help="of the copy")
    add("--minutes", type=float, default=10.0, help="after which no part is begun and trainings stop")
    add("--vqgan-minutes", type=float, default=7.5, help="of each VQGAN's training, at most")
    add("--own-minutes", type=float, default=1.5, help="of the small encoder's training, at most")
    add(
        "--parts",
        nargs="+",
        help="only these, such as vqgan, vqgan-f8, own, measure, summary; all if left out",
    )
    add("--devices", type=int, default=1, help="GPUs that share the work")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    add("--smoke", action="store_true", help="tiny pictures and networks")
    options = parser.parse_args(arguments)
    scale = SMOKE if options.smoke else Scale()
    if options.data is None:
        if not options.smoke:
            parser.error("--data is needed: the folder of the photos' zips and of the encoder's weights")
        options.data = make_up(options.out / "data", scale)
    if options.part == "carry":
        carry(options.data, options.out, options.megabytes)
        return 0
    check_devices(options.devices, options.device)
    return Experiment(options, scale).run()


class Experiment:
    """The parts in their order, each left alone where it is done."""

    def __init__(self, options: argparse.Namespace, scale: Scale) -> None:
        """Reads no data yet."""
        self.options, self.scale, self.started = options, scale, time.monotonic()
        self.out, self.device = options.out, options.device
        self.photos = self.out / "photos.zip"
        self.failed: list[str] = []

    @property
    def left(self) -> float:
        """Seconds of --minutes."""
        return 60 * self.options.minutes - (time.monotonic() - self.started)

    def run(self) -> int:
        """Every part; what failed or is left of them is said at the end."""
        torch.backends.cudnn.benchmark = True
        self.part("photos", self.photos.is_file(), lambda: gather(self.options.data, self.photos, self.scale))
        if self.options.parts is None and self.options.devices > 1:
            self.share(self.chains(), MEASURING)
            self.share([[f"measure:{name}"] for name in sorted(self.sets())], 0.0)
        else:
            wanted = self.options.parts or [*(name for chain in self.chains() for name in chain), "measure"]
            for name in wanted:
                self.named(name)
        if self.options.parts is None:
            self.named("summary")
        for line in self.failed:
            print(line, file=sys.stderr, flush=True)
        return 1 if self.failed else 0

    def chains(self) -> list[list[str]]:
        """Names of parts that come after one another; the chains may run side by side."""
        others = [[name] for name, plan in self.scale.vqgans.items() if plan.perceptual and name != "vqgan"]
        return [["vqgan"], *others, ["vqgan-early", "own", *self.tokenizers()]]

    def share(self, chains: list[list[str]], kept: float) -> None:
        """Each chain in a process of its own, dealt to the GPUs in turn."""
        options, running = self.options, []
        for number, chain in enumerate(chains):
            command = [sys.executable, __file__, "run", "--data", str(options.data), "--out", str(self.out)]
            command += [
                "--vqgan-minutes",
                str(options.vqgan_minutes),
                "--own-minutes",
                str(options.own_minutes),
            ]
            command += ["--minutes", str(self.left / 60 - kept), "--device", self.device, "--parts", *chain]
            command += [
                "--compile" if options.compile else "--no-compile",
                *(["--smoke"] if options.smoke else []),
            ]
            place = environment(min(number, options.devices - 1), processes=len(chains))
            running.append((chain, subprocess.Popen(command, env=place)))
        for chain, process in running:
            if process.wait() != 0:
                self.failed.append(f"not all of {', '.join(chain)} is done")

    def named(self, name: str) -> None:
        """The part called so."""
        kind, _, only = name.partition(":")
        if kind in self.scale.vqgans:
            self.part(name, self.trained(name, self.options.vqgan_minutes), lambda: self.vqgan(name))
        elif kind == "own":
            self.part(name, self.trained(name, self.options.own_minutes), self.own)
        elif kind == "measure":
            for each in [only] if only else sorted(self.sets()):
                self.part(f"stability {each}", self.measured(each), lambda each=each: self.measure(each))
                self.part(f"reconstruction {each}", False, lambda each=each: self.reconstruct(each))
        elif kind == "summary":
            self.part(name, False, self.summary)
        elif name in self.tokenizers():
            self.part(name, (self.out / name / "report.json").is_file(), lambda: self.fit(name))
        else:
            raise DigitError(f"--parts {name}: there is no such part")

    def part(self, name: str, done: bool, work: Callable[[], Any]) -> None:
        """Do the work unless it is done or the time is over; what fails is noted, and the others go on."""
        if done:
            return
        if self.left <= 0:
            self.failed.append(f"{name}: no time left; the same command goes on from here")
            return
        now = time.monotonic()
        try:
            work()
        except (DigitError, RuntimeError, OSError) as error:
            self.failed.append(f"{name}: {type(error).__name__}: {error}")
            print(self.failed[-1], file=sys.stderr, flush=True)
            return
        seconds = round(time.monotonic() - now, 1)
        write_json_atomic(self.out / "seconds" / f"{name.replace(' ', '-')}.json", {name: seconds})
        print(f"{name}: {seconds} s", flush=True)

    def trained(self, name: str, minutes: float) -> bool:
        """Whether a training is over: all updates done, or the time it was given."""
        status = read_status(self.out / name)
        return status is not None and (status.finished or status.seconds >= 57 * minutes)

    def limit(self, name: str, minutes: float) -> float:
        """Seconds that a training still has in this process."""
        status = read_status(self.out / name)
        kept = 0.0 if self.options.parts else 60 * MEASURING
        return max(1.0, min(60 * minutes - (status.seconds if status else 0.0), self.left - kept))

    def vqgan(self, name: str) -> None:
        """A VQGAN at one learning rate, so that it is whole whenever time is over."""
        scale, plan = self.scale, self.scale.vqgans[name]
        training = TrainConfig(
            steps=plan.steps,
            batch=scale.batch,
            clip=10.0,
            ema=0.999 if plan.steps > 2000 else 0.9,
            optimizer=OptimizerConfig(
                lr=4e-4,
                betas=(0.5, 0.99),
                weight_decay=0.0,
                schedule="constant",
                warmup=min(200, plan.steps),
            ),
            evaluate_every=1000,
            sample_every=2000,
            save_every=2000,
            keep=1,
            compile=self.options.compile and plan.steps > 2000,  # it takes a minute
            wall_clock_limit=self.limit(name, self.options.vqgan_minutes),
        )
        losses = VQGANLossConfig(
            l2=2.0,
            perceptual=NETWORK if plan.perceptual else None,
            adversarial_weight=0.4 if plan.perceptual else 0.0,
            adversarial_start=scale.adversarial_start,
            adversarial_ramp=500,
            discriminate_patches=False,
            discriminate_maps=True,
            continuous_steps=min(100, plan.steps // 4),
            dead_after=50,
        )
        if not plan.perceptual:
            losses = replace(losses, discriminate_maps=False)
        train_vqgan(
            str(self.photos),
            self.out / name,
            model=plan.model,
            losses=losses,
            training=training,
            perceptual_weights=network_file(self.options.data, PERCEPTUAL) if plan.perceptual else None,
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
            wall_clock_limit=self.limit("own", self.options.own_minutes),
        )

        def export(trained: Any, _: Path | None) -> None:
            write_safetensors_atomic(
                self.out / "own" / "encoder.safetensors", trained.teacher.vit.state_dict()
            )

        train(stage, data, config, self.out / "own", on_save=export, device=self.device, title="own encoder")

    def tokenizers(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Codes and encoder settings of `fit` of every discriminative tokenizer, by name."""
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
        return {
            **{f"vits14-saliency-{codes}": (codes, saliency) for codes in scale.clusters},
            f"own-{least}": (least, own),
            f"random-{least}": (least, {**saliency, "encoder_weights": self.out / "random.safetensors"}),
        }

    def fit(self, name: str) -> None:
        """A discriminative tokenizer of the training photos."""
        codes, settings = self.tokenizers()[name]
        weights = settings["encoder_weights"]
        if weights.name == "random.safetensors" and not weights.is_file():
            torch.manual_seed(0)
            arguments = settings["encoder_arguments"]
            shape = encoder_config(self.scale.encoder, self.scale.encoder_size, arguments=arguments, block=-1)
            write_safetensors_atomic(weights, Encoder(shape).vit.state_dict())
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

    def made(self) -> list[str]:
        """The tokenizers that are there, in the order of the tables."""
        names = ["vqgan-early", *(name for name in self.scale.vqgans if name != "vqgan-early")]
        return [n for n in (*names, *self.tokenizers()) if (self.out / n / "config.json").is_file()]

    def measured(self, name: str) -> bool:
        """Whether the tokenizers as they are now were measured on a set."""
        path = self.out / "result" / f"{name}.json"
        ids = [{"name": each, "id": read_json(self.out / each / "config.json")["id"]} for each in self.made()]
        return path.is_file() and read_result(path)["features"] == ids

    def measure(self, name: str) -> None:
        """Stability on the held-out photos of one set."""
        evaluate_stability(
            str(self.photos),
            tuple(self.out / tokenizer for tokenizer in self.made()),
            out=self.out / "result" / f"{name}.json",
            under=f"held-out/{name}",
            size=self.scale.size,
            noise_only=self.options.smoke,
            device=self.device,
        )

    def reconstruct(self, name: str) -> None:
        """What the VQGANs make of the held-out photos of one set."""
        vqgans = {
            each: load(self.out / each, device=self.device)
            for each in self.made()
            if each in self.scale.vqgans
        }
        reconstruction(
            self.photos,
            f"held-out/{name}",
            vqgans,
            self.options.data,
            self.out / "result" / f"reconstruction-{name}.json",
            size=self.scale.size,
            device=self.device,
        )

    def summary(self) -> None:
        """summary.md, the plot and the times, out of the sets that are measured."""
        result = self.out / "result"
        sets = [name for name in sorted(self.sets()) if (result / f"{name}.json").is_file()]
        write_summary(result, sets, self.made())
        times = [read_json(path) for path in sorted((self.out / "seconds").glob("*.json"))]
        steps = {name: read_status(self.out / name) for name in (*self.scale.vqgans, "own")}
        trained = {
            name: {"updates": status.step, "seconds": round(status.seconds, 1)}
            for name, status in steps.items()
            if status is not None
        }
        seconds = {name: value for each in times for name, value in each.items()}
        write_json_atomic(result / "seconds.json", {"seconds": seconds, "trainings": trained})


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # trainings have saved: the same command goes on
        sys.exit(main())
