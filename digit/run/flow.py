"""`digit train renderer --flow`: codes with the pixels of their views -> a flow renderer, by the one loop."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from digit.data.codes import Codes, open_codes
from digit.data.identity import of_codes, of_folder
from digit.data.views import ViewData, first_views, tokenised, views_of
from digit.data.wrong_codes import WrongCodes
from digit.errors import DigitError, check_lineage
from digit.nn.batch import ViewBatch
from digit.own_tokenizer import OwnTokenizer
from digit.picture_tokenizer import PictureTokenizer
from digit.progress import progress
from digit.renderer_flow import FlowConfig, FlowRenderer
from digit.renderer_flow_loss import FlowLoss, FlowLossConfig
from digit.rendering import to_uint8
from digit.run import stages
from digit.run.class_names import check_classes, classes_told, labels_among
from digit.run.dry_run import DryRun, describe_codes, dry_run
from digit.run.grid import grid
from digit.run.pictures import open_told
from digit.run.start import started
from digit.run.wrong_codes import tokenizer_of
from digit.training.config import TrainConfig
from digit.training.update import seed_all
from digit.weights.artifact import artifact_of, load, save
from digit.weights.storage import to_dict

SHOWN = 16  # pictures in a sample strip


@dataclass(frozen=True)
class Taught:
    """By whom a renderer is taught, and what it shall need."""

    teacher: Path
    passes: int
    guidance: float  # the largest


def train_flow(
    codes: Codes,
    out: Path,
    shape: dict[str, Any],
    training: TrainConfig,
    where: torch.device,
    plan: DryRun,
    given: Mapping[str, Any],
    *,
    images: str | None,
    held_out: Path | None,
    held_out_images: str | None,
    wrong: WrongCodes | None,
    tokenizer: Path | PictureTokenizer | None,
    perceptual_weight: float,
    taught: Taught | None,
    init_from: str | None,
) -> dict[str, Any]:
    """Train a flow renderer on a tokenised set and its pictures; the verb's record.

    `shape` is width, layers, heads, patch and label dropout, the last three or None; `given` are all
    arguments of the verb; `wrong` says which of the codes read are wrong on purpose. Raises DigitError where
    the pictures are absent or not those of the codes, for label dropout where these have no labels, or for a
    tokenizer or teacher of others.
    """
    _check_given(images, held_out, held_out_images)
    classes_told(codes, shape["label_dropout"])
    classes, lineage = stages.classes_of(codes, True, None), codes.lineage("codes")
    encoder = None if tokenizer is None else _encoder_of(codes, tokenizer, perceptual_weight, where)
    teacher = None if taught is None else teacher_of(taught.teacher, lineage, classes).to(where)
    if taught is None or teacher is None:
        config = config_of(codes, len(classes), **shape)
    else:
        config = student_of(teacher.config, taught)
    renderer = stages.build(lambda: FlowRenderer(config), training, plan)
    if teacher is not None and not plan.dry_run:
        renderer.load_state_dict(teacher.state_dict(), strict=False)  # all but how guidance is read
    if teacher is not None and init_from is not None:
        raise DigitError("--teacher and --init-from both say where weights start: give one of them")
    start = started(renderer, out, init_from, classes=classes, lineage=lineage)
    losses = FlowLossConfig(perceptual_weight=perceptual_weight)
    source = open_told(str(images))
    picture = strips(first_views(codes, tokenised(codes, source), _spread(len(codes), SHOWN)), where)
    evaluate = held_out_loss(held_out, held_out_images, lineage, classes, training, where)
    check_classes(out, "renderer_flow", classes)
    rate = 0.0 if wrong is None else wrong.rate
    made_of: dict[str, Any] = {
        "codes": of_codes(codes, "codes", labels=bool(classes)),
        "model": to_dict(config),
        "losses": None if encoder is None else to_dict(losses),
        "teacher": None if teacher is None else artifact_of(teacher)["id"],
    }
    made_of |= {"masked": False, "flow": True, "held_out": of_folder(held_out), "wrong_codes": rate}
    made_of |= start
    found = stages.claimed(out, "train renderer", **made_of)
    if plan.dry_run:
        inputs = describe_codes(codes) | {"images": str(images)}
        told: Any = {"model": config, "inputs": inputs, "speed_is_known": False}
        return dry_run(renderer, empty_batch(config), training, out, plan, **told)
    stage = FlowLoss(renderer, losses, encoder=encoder, teacher=teacher)

    def data() -> ViewData:
        with progress("read", len(codes)) as bar:
            how: Any = {"batch_size": training.batch, "seed": training.seed, "device": where}
            return ViewData(codes, source, wrong=wrong, progress=lambda done, _: bar(done - bar.done), **how)

    extra = {"wrong_codes": rate} if rate else {}
    extra |= {"teacher": made_of["teacher"]} if teacher is not None else {}

    def keep(trained: FlowLoss, to: Path, more: Mapping[str, Any] = {}) -> None:
        save(trained.renderer, to, lineage=lineage | start, classes=classes, extra={**extra, **more})

    return stages.run_stage(stage, data, training, found, given, where, evaluate, picture, keep, "renderer")


def _encoder_of(
    codes: Codes, tokenizer: Path | PictureTokenizer, weight: float, where: torch.device
) -> nn.Module | None:
    """What compares pictures; DigitError where a tokenizer of the user's own is asked to, which has none."""
    found = tokenizer_of(codes, tokenizer)
    if not isinstance(found, OwnTokenizer):
        return found.encoder.to(where)
    if weight:
        raise DigitError(
            f"{found.name} has no encoder of digit's, which compares pictures: give --perceptual-weight 0"
        )
    return None


def _check_given(images: str | None, held_out: Path | None, held_out_images: str | None) -> None:
    """DigitError for codes without their pictures, or pictures without their codes."""
    if images is None:
        raise DigitError("--flow learns from pixels: give --images, the pictures that --codes was made of")
    if (held_out is None) != (held_out_images is None):
        raise DigitError(
            "--held-out and --held-out-images go together: the codes, and what they were made of"
        )


def teacher_of(path: Path, lineage: dict[str, str], classes: list[str]) -> FlowRenderer:
    """The flow renderer in `path`; DigitError if it is of other codes or classes than these."""
    found: Any = load(path, kind="renderer_flow")
    check_lineage(f"{path}", artifact_of(found)["lineage"], "the codes", lineage)
    if list(artifact_of(found)["classes"]) != classes:
        raise DigitError(
            f"the teacher in {path} knows other classes than the codes have: give the codes it was trained on"
        )
    return found


def student_of(teacher: FlowConfig, taught: Taught) -> FlowConfig:
    """The settings of one that draws what `teacher` draws, in fewer passes, guidance included."""
    guidance = max(1.0, taught.guidance)
    return replace(
        teacher,
        steps=taught.passes,
        taught_guidance=guidance,
        guidance=min(max(1.0, teacher.guidance), guidance),
    )


def config_of(
    codes: Codes,
    classes: int,
    *,
    width: int,
    layers: int,
    heads: int | None,
    patch: int | None,
    label_dropout: float | None = None,
) -> FlowConfig:
    """The settings of a renderer of these codes; heads and patch, if None, follow from them and the width."""
    size, length = views_of(codes)["size"], codes.length("codes")
    told: Any = {} if label_dropout is None else {"label_dropout": label_dropout}
    return FlowConfig(
        codes=codes.vocabulary("codes"),
        length=length,
        image_size=size,
        classes=classes,
        patch=patch or max(1, size // math.isqrt(length)),
        width=width,
        layers=layers,
        heads=heads or max(1, width // 64),
        **told,
    )


def empty_batch(config: FlowConfig) -> ViewBatch:
    """Two samples without values."""
    side = config.image_size
    codes = torch.empty(2, config.length, dtype=torch.int64, device="meta")
    return ViewBatch(codes.new_empty(2, 3, side, side, dtype=torch.float32), codes, codes.new_empty(2))


def strips(shown: ViewBatch, where: torch.device) -> stages.Picture:
    """Pictures, below them what the renderer draws of their codes."""
    shown = _rows(shown, slice(None), where)

    def picture(trained: FlowLoss, step: int) -> Image.Image:
        seeds = range(len(shown.codes))
        drawn = trained.renderer.sample(shown.codes, seeds, shown.labels)
        return grid(to_uint8(torch.cat((shown.pixels, drawn))), columns=len(seeds))

    return picture


def held_out_loss(
    path: Path | None,
    images: str | None,
    lineage: dict[str, str],
    classes: list[str],
    training: TrainConfig,
    where: torch.device,
) -> stages.Evaluate | None:
    """The mean loss over unseen pictures, 2,048 at most, with the same noise each time; or None.

    Raises:
        DigitError: they are not those of their codes, or of other classes than `classes`.
        LineageError: the codes are of another tokenizer.
    """
    if path is None:
        return None
    codes = open_codes(path)
    check_lineage("this stage", lineage, f"{path}", codes.lineage("codes"))
    places = _spread(len(codes), stages.HELD_OUT)
    labels = labels_among(codes, classes, known_to="this stage")[places] if classes else None
    unseen = first_views(codes, tokenised(codes, open_told(str(images))), places)._replace(labels=labels)
    size = training.micro_batch or training.batch

    def evaluate(trained: FlowLoss, step: int) -> Iterator[tuple[str, float]]:
        total = 0.0
        for start in range(0, len(places), size):
            seed_all(training.seed, 0, start, device=where)
            part = _rows(unseen, slice(start, start + size), where)
            total += float(trained.loss(part)) * len(part.codes)
        yield "held_out_loss", total / len(places)

    return evaluate


def _rows(batch: ViewBatch, rows: slice, where: torch.device) -> ViewBatch:
    labels = None if batch.labels is None else batch.labels[rows].to(where)
    return ViewBatch(batch.pixels[rows].to(where), batch.codes[rows].to(where), labels)


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` places evenly out of `count`."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
