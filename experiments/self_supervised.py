"""pixels -> encoder: a ViT/4 trained on CIFAR-10 itself, at its own 32 px, in minutes on one GPU.

    python experiments/self_supervised.py --images cifar10-train.zip --test cifar10-test.zip \
        --out runs/cifar10/ssl --minutes 4

Cost on an H200: the minutes asked for, and about one more for loading and compiling.
out/result.json has the measurements: `knn_block` is the accuracy of 20 nearest neighbours on the mean of the
patch features that a tokenizer reads (block -3 and the final norm); no label is used in training.
Makes out/encoder.safetensors, which timm loads strictly, and out/encoder.json with how to do that. The same
command resumes an interrupted run. --recipe trains one published objective alone: mae, mocov3, dino or ibot
(cifar10/objectives.py); the default is our mixture of MoCo v3 and iBOT.

Named self_supervised.py because a script called ssl.py would hide Python's own module ssl.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from cifar10.neighbours import embed, knn_accuracy, labelled_pixels
from cifar10.objectives import RECIPES, Stage, stage_of
from cifar10.self_supervision import SelfSupervision
from cifar10.vit import ViTConfig, vit_optimizer
from pace import seconds_per_step
from torch import Tensor, nn

from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.errors import DigitError
from digit.files import read_json, write_json_atomic
from digit.nn.batch import PixelBatch
from digit.tensors import write_safetensors_atomic
from digit.training.config import TrainConfig
from digit.training.loop import train


def main() -> None:
    """Plan, train, measure on the way, export."""
    options = parse()
    device = torch.device(options.device)
    vit = ViTConfig(width=options.width, depth=options.depth, heads=options.width // 64)
    images = open_images(options.images)
    data = PixelData(
        images, size=vit.image_size, batch_size=options.batch, seed=options.seed, device=device, flip=False
    )
    torch.manual_seed(options.seed)  # the initial weights
    stage = stage_of(options.recipe, vit, steps=options.steps or 1, **changes(options))
    steps = options.steps or planned_steps(
        options.out, 60 * options.minutes, stage, data, device=device, compile=options.compile
    )
    set_steps(stage, steps)
    config = TrainConfig(
        steps=steps,
        batch=options.batch,
        optimizer=vit_optimizer(options.lr, steps),
        seed=options.seed,
        evaluate_every=max(1, steps // 5),
        save_every=max(1, steps // 4),
        compile=options.compile,
    )
    measure = Neighbours(options.images, options.test, vit, device, options.out) if options.test else None
    train(
        stage,
        data,
        config,
        options.out,
        evaluate=measure,
        on_save=lambda s, _: export(s, options.out),
        device=device,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="training pictures: labels are used for measuring only")
    add("--test", type=Path, help="labelled pictures on which nearest neighbours are measured")
    add("--out", type=Path, required=True, help="folder of the run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="updates")
    length.add_argument("--minutes", type=float, help="of training, measured at the start")
    add("--recipe", choices=RECIPES, default="mixed", help="a published objective, or our mixture")
    add("--objective", choices=("mocov3", "dino"), help="the global term, in place of the recipe's")
    add("--pool", choices=("mean", "cls"), help="tokens that the global term reads, likewise")
    add("--patch-weight", type=float, help="of the patch term, likewise")
    add("--visible-weight", type=float, help="of visible patches in the patch term, likewise")
    add("--spread-weight", type=float, help="of KoLeo, likewise")
    add("--crops", type=int, help="small views of a picture, likewise")
    add("--batch", type=int, default=512, help="pictures per update")
    add("--lr", type=float, default=1e-3, help="peak learning rate")
    add("--width", type=int, default=256, help="channels, a multiple of 64")
    add("--depth", type=int, default=9, help="blocks")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    options = parser.parse_args()
    if options.width % 64:
        raise DigitError(f"--width {options.width} is not a multiple of 64, the width of one head")
    return options


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the command line that stand in place of the recipe's."""
    names = ("objective", "pool", "patch_weight", "visible_weight", "spread_weight", "crops")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.recipe == "mae" and given:
        raise DigitError(f"--recipe mae has no --{next(iter(given)).replace('_', '-')}: leave it out")
    return given


def set_steps(stage: Stage, steps: int) -> None:
    """Tell the slow average, where there is one, how long the training is."""
    if isinstance(stage, SelfSupervision):
        stage.config = replace(stage.config, steps=steps)


def planned_steps(
    out: Path,
    seconds: float,
    stage: Stage,
    data: Callable[[int], PixelBatch],
    *,
    device: torch.device,
    compile: bool = False,
) -> int:
    """As many updates as fit into `seconds`, measured once and written down for a resumed run."""
    written = out / "plan.json"
    if written.exists():
        return int(read_json(written)["steps"])
    state = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    if compile and isinstance(stage, SelfSupervision):
        stage.compile_parts()
    with torch._dynamo.config.patch(suppress_errors=True):  # as the loop: what does not compile runs as it is
        each = seconds_per_step(stage.to(device).train(), data, device)
    stage.load_state_dict(state)
    steps = max(20, int(seconds / each))
    write_json_atomic(written, {"steps": steps, "seconds_per_step": each, "minutes": seconds / 60})
    return steps


class Neighbours:
    """The loop's `evaluate`: nearest neighbours, and how much the tokens of one picture differ."""

    def __init__(self, images: Path, test: Path, vit: ViTConfig, device: torch.device, out: Path) -> None:
        """Reads both sets into memory. DigitError when one has no labels."""
        self.device, self.out = device, out
        self.sets = [labelled_pixels(path, vit.image_size, device=device) for path in (images, test)]

    def __call__(self, stage: nn.Module, step: int) -> Iterator[tuple[str, float]]:
        """Accuracies in [0, 1], and the share of the tokens' variance that lies within pictures."""
        assert isinstance(stage, Stage)
        values = dict(self._measure(stage))
        write_json_atomic(self.out / "result.json", {"step": step, "values": values})
        yield from values.items()

    def _measure(self, stage: Stage) -> Iterator[tuple[str, float]]:
        within = between = 0.0

        def network(pixels: Tensor) -> Tensor:
            nonlocal within, between
            block, last = (tokens.float() for tokens in stage.encoder.features(pixels, (-3, -1)))
            patches, mean = block[:, 1:], block[:, 1:].mean(1)
            within += float((patches - mean[:, None]).square().mean()) * len(pixels)
            between += float((mean - mean.mean(0)).square().mean()) * len(pixels)
            return torch.stack((mean, last[:, 1:].mean(1), last[:, 0]), 1)

        (pixels, labels), (test_pixels, test_labels) = self.sets
        train_features, test_features = (
            embed(network, each, device=self.device) for each in (pixels, test_pixels)
        )
        for number, name in enumerate(("knn_block", "knn_last", "knn_class_token")):
            train_part, test_part = train_features[:, number], test_features[:, number]
            yield name, knn_accuracy(train_part, labels, test=test_part, test_labels=test_labels)
        yield "variance_within_pictures", within / (within + between)


def export(stage: nn.Module, out: Path) -> None:
    """The encoder under timm's names, and how to build the module that takes it."""
    assert isinstance(stage, Stage)
    config = stage.config.vit
    write_safetensors_atomic(out / "encoder.safetensors", stage.encoder.vit.state_dict())
    described = {
        "name": config.name,
        "image_size": config.image_size,
        "arguments": config.arguments,
        "mean": config.mean,
        "std": config.std,
    }
    write_json_atomic(out / "encoder.json", described)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # the loop has saved: the same command goes on
        main()
