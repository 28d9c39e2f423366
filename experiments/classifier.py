"""pixels -> features, labels: the CIFAR-10 classifier that measures generated pictures of 32 px.

    python experiments/classifier.py --images cifar10-train.zip --test cifar10-test.zip \
        --out runs/cifar10/classifier

Cost: about a minute on an H200. Expected: a test accuracy of at least 0.935 in out/result.json. Makes the
artifact out/artifact; its features give FD-classifier, its labels the class accuracy of conditional samples.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from cifar10.neighbours import embed
from pace import seconds_per_step
from torch import nn

from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.data.pixels import PixelData
from digit.errors import DigitError
from digit.files import read_json, write_json_atomic
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.loop import train
from digit.weights import artifact


def main(arguments: list[str] | None = None) -> None:
    """Train, measure on pictures never trained on, save; `arguments` are the command line's if left out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="training pictures in one folder per class")
    add("--test", type=Path, required=True, help="pictures to measure on, in the same folders")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--steps", type=int, default=4000, help="updates")
    add("--batch", type=int, default=512, help="pictures per update")
    add("--lr", type=float, default=0.2, help="peak learning rate")
    add("--clip", type=float, default=1.0, help="norm of the gradient, at most")
    add("--width", type=int, default=64, help="channels of the first layer")
    add("--mix", type=float, default=0.0, help="share of training pictures that get a part of another")
    add("--seconds", type=float, help="as many updates as fit instead of --steps, timed on this device first")
    add("--stored-as", choices=("float32", "float16", "int8"), default="float32", help="in the artifact")
    add("--seed", type=int, default=0)
    add("--limit", type=float, help="seconds after which the run saves itself and stops")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    images, test = open_images(options.images), open_images(options.test)
    if images.labels is None or test.labels is None or images.classes != test.classes:
        raise DigitError(f"{options.images} and {options.test} must have the same class folders")
    settings = ClassifierConfig(classes=len(images.classes), width=options.width, mix=options.mix)
    # The network flips by itself, and its accuracy is measured on whole pictures.
    data = PixelData(
        images,
        size=settings.image_size,
        batch_size=options.batch,
        seed=options.seed,
        device=device,
        flip=False,
    )
    index, pixels = load_pixels(test, np.arange(len(test)), settings.image_size)
    labels = torch.from_numpy(test.labels[index]).to(device)

    steps = options.steps
    if options.seconds is not None:
        steps = fitting(settings, data, options, device)

    def evaluate(stage: nn.Module, step: int) -> Iterator[tuple[str, float]]:
        accuracy = float((embed(stage, pixels, device=device).argmax(1) == labels).float().mean())
        result = {"step": step, "test_accuracy": accuracy, "pictures": len(labels)}
        result |= {"steps": steps, "batch": options.batch, "width": options.width, "mix": options.mix}
        write_json_atomic(options.out / "result.json", result)
        yield "test_accuracy", accuracy

    config = TrainConfig(
        steps=steps,
        batch=options.batch,
        optimizer=OptimizerConfig(
            kind="sgd",
            lr=options.lr,
            weight_decay=5e-4,
            decay_all=False,
            schedule="cosine",
            warmup=max(1, steps // 10),
        ),
        clip=options.clip,
        ema=0.995,
        seed=options.seed,
        evaluate_every=max(1, steps // 4),
        save_every=steps,
        wall_clock_limit=options.limit,
    )
    torch.manual_seed(options.seed)  # the initial weights
    stage = train(Classifier(settings), data, config, options.out, evaluate=evaluate, device=device)
    artifact.save(
        stage,
        options.out / "artifact",
        lineage={"images": images.fingerprint},
        classes=images.classes,
        extra={"measured": {"test_accuracy": dict(evaluate(stage, steps))["test_accuracy"]}},
        stored_as=options.stored_as,
    )


def fitting(
    settings: ClassifierConfig, data: PixelData, options: argparse.Namespace, device: torch.device
) -> int:
    """Updates that fit into --seconds; those of a run that has begun stay as they were."""
    plan = options.out / "plan.json"
    if not plan.exists():
        pace = seconds_per_step(Classifier(settings).to(device).train(), data, device)
        steps = max(100, round(options.seconds / pace / 100) * 100)
        write_json_atomic(plan, {"steps": steps, "seconds_per_step": pace})
    return int(read_json(plan)["steps"])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # the loop has saved: the same command goes on
        main()
