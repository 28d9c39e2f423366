"""pixels -> encoder: a ViT/4 at the pictures' own size that learns a larger encoder's tokens, without labels.

    python experiments/distillation.py --images cifar10-train.zip --test cifar10-test.zip \
        --teacher-weights vits14-saliency.safetensors --out runs/cifar10/distilled --steps 6000

The teacher, a ViT-S/14, sees a view enlarged to 112 px: 64 tokens. The student, of a third of its parameters,
sees the same view at 32 px in 64 patches, and predicts the teacher's tokens, each at its place. Cost: about
4 minutes on an H200. Makes out/encoder.safetensors, which timm loads strictly, and out/result.json with the
nearest-neighbour accuracy of both. The same command resumes an interrupted run.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from cifar10.augment import ViewConfig, augment
from cifar10.neighbours import embed, knn_accuracy, labelled_pixels
from cifar10.vit import ViT, ViTConfig, vit_optimizer
from jaxtyping import Float
from torch import Tensor, nn

from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.features import Encoder, encoder_config
from digit.files import write_json_atomic
from digit.nn.batch import PixelBatch
from digit.tensors import write_safetensors_atomic
from digit.training.config import TrainConfig
from digit.training.loop import train

VIEW = ViewConfig(scale=(0.4, 1.0), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, grey=0.05)


class Distillation(nn.Module):
    """The stage: `student` and a linear head learn the frozen `teacher`'s tokens, standardised per token."""

    def __init__(self, teacher: Encoder, vit: ViTConfig) -> None:
        """The teacher keeps its weights and stays in eval mode."""
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student = ViT(vit)
        self.head = nn.Linear(vit.width, teacher.width)

    def compile_parts(self) -> None:
        """Compile both networks; their shapes never change."""
        self.teacher.compile(dynamic=False)
        self.student.compile(dynamic=False)

    def loss(self, batch: PixelBatch) -> Float[Tensor, ""]:
        """Mean squared difference of the standardised tokens."""
        pixels = augment(batch.pixels, VIEW) if self.training else batch.pixels
        with torch.no_grad():
            goal = F.layer_norm(self.teacher(pixels).float(), (self.teacher.width,))
        guess = self.head(self.student(pixels)[:, 1:]).float()
        return F.mse_loss(guess, goal)


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="training pictures")
    add("--test", type=Path, required=True, help="labelled pictures for the nearest neighbours")
    add("--teacher-weights", type=Path, required=True, help="safetensors of a ViT-S/14")
    add("--teacher-depth", type=int, default=12, help="blocks in that file; the teacher reads the tenth")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--steps", type=int, default=6000, help="updates")
    add("--batch", type=int, default=512, help="pictures per update")
    add("--lr", type=float, default=1e-3, help="peak learning rate")
    add("--width", type=int, default=256, help="channels, a multiple of 64")
    add("--depth", type=int, default=7, help="blocks")
    add("--limit", type=float, help="seconds after which the run saves itself and stops")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    vit = ViTConfig(width=options.width, depth=options.depth, heads=options.width // 64)
    settings = encoder_config(
        "vit_small_patch14_dinov2",
        image_size=112,
        block=9 - options.teacher_depth,
        arguments={"depth": options.teacher_depth},
    )
    stage = Distillation(Encoder(settings, options.teacher_weights), vit)
    data = PixelData(
        open_images(options.images), size=vit.image_size, batch_size=options.batch, device=device
    )
    measure = Neighbours(options.images, options.test, device, options.out)
    stage.to(device)
    measure.note("teacher", stage.teacher.eval())
    config = TrainConfig(
        steps=options.steps,
        batch=options.batch,
        optimizer=vit_optimizer(options.lr, options.steps),
        evaluate_every=max(1, options.steps // 3),
        save_every=1000,
        compile=device.type == "cuda",
        wall_clock_limit=options.limit,
    )
    train(
        stage,
        data,
        config,
        options.out,
        evaluate=measure,
        on_save=lambda s, _: export(s, options.out),
        device=device,
    )


class Neighbours:
    """The loop's `evaluate`: accuracy of 20 nearest neighbours on the mean of a tokenizer's tokens."""

    def __init__(self, images: Path, test: Path, device: torch.device, out: Path) -> None:
        """Reads both sets into memory. DigitError when one has no labels."""
        self.device, self.out, self.values = device, out, {}
        self.sets = [labelled_pixels(path, 32, device=device) for path in (images, test)]

    def note(self, name: str, network: nn.Module) -> None:
        """Measure one encoder, pixels -> tokens, and write all measurements down."""
        features = [
            embed(lambda x: network(x).float().mean(1), pixels, device=self.device) for pixels, _ in self.sets
        ]
        value = knn_accuracy(features[0], self.sets[0][1], test=features[1], test_labels=self.sets[1][1])
        self.values[f"knn_{name}"] = value
        write_json_atomic(self.out / "result.json", self.values)

    def __call__(self, stage: nn.Module, step: int) -> Iterator[tuple[str, float]]:
        """The student's accuracy, beside the teacher's."""
        assert isinstance(stage, Distillation)
        tokens = _Tokens(stage.student)
        self.note("student", tokens)
        yield from self.values.items()


class _Tokens(nn.Module):
    """The student's patch tokens as `digit.features.Encoder` will give them."""

    def __init__(self, student: ViT) -> None:
        super().__init__()
        self.student = student

    def forward(self, pixels: Tensor) -> Tensor:
        return self.student.features(pixels, (-1,))[0][:, 1:]


def export(stage: nn.Module, out: Path) -> None:
    """The student's ViT under timm's names."""
    assert isinstance(stage, Distillation)
    write_safetensors_atomic(out / "encoder.safetensors", stage.student.vit.state_dict())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # the loop has saved: the same command goes on
        main()
