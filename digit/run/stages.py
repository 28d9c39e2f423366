"""What the training verbs build, measure while training and show; everything here may import torch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from digit.data.codes import Codes, open_codes
from digit.data.images import ImageSource
from digit.data.loader import Report, load_pixels
from digit.data.pixels import PixelData
from digit.distributed import is_main, main_first
from digit.errors import DigitError, check_lineage
from digit.nn.batch import CodeBatch, PixelBatch
from digit.nn.sampling import SamplerConfig
from digit.pipeline import to_uint8
from digit.prior import Prior, PriorConfig
from digit.progress import progress, say
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.run.dry_run import DryRun, dry_run
from digit.run.grid import grid
from digit.run.table import print_table, saved
from digit.training.config import TrainConfig
from digit.training.log import OWN, read, read_status
from digit.training.loop import train
from digit.vqgan_config import VQGANLossConfig
from digit.vqgan_loss import VQGANLoss, perceptual_network
from digit.weights.artifact import artifact_of, load

Stage = TypeVar("Stage", bound=nn.Module)
Evaluate = Callable[[Any, int], Iterator[tuple[str, float]]]
Picture = Callable[[Any, int], Image.Image]

HELD_OUT = 2048  # pictures that the reconstruction error is measured on, at most


def build(make: Callable[[], Stage], training: TrainConfig, plan: DryRun) -> Stage:
    """A stage whose first weights are those of the seed; a dry run's weights have no values.

    Randomness outside goes on as if nothing had happened.
    """
    with torch.random.fork_rng([]), plan.building():
        torch.default_generator.manual_seed(training.seed)
        return make()


def run_stage(
    stage: nn.Module,
    data: Callable[[int], Any],
    training: TrainConfig,
    out: Path,
    where: torch.device,
    *,
    evaluate: Evaluate | None,
    picture: Picture | None,
    save: Callable[[Any], Any],
    title: str,
) -> dict[str, Any]:
    """Train a stage by the one loop, print what came of it, and give the verb's record."""
    train(
        stage,
        data,
        training,
        out,
        evaluate=evaluate,
        picture=picture,
        on_save=lambda trained, state: save(trained),
        device=where,
        title=title,
    )
    status, measured = read_status(out), last_values(out)
    assert status is not None
    record = {
        "out": out,
        "parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
        "step": status.step,
        "of": status.steps,
        "finished": status.finished,
        "seconds": status.seconds,
        **measured,
    }
    per_layer = ("top-1", "learning rate")
    best = {name: value for name, value in measured.items() if not name.startswith(per_layer)}
    layers = {name: value for name, value in measured.items() if name.startswith("top-1")}
    if layers:
        name = max(layers, key=lambda layer: layers[layer])
        best[name] = layers[name]
    row = [f"{status.step:,} of {status.steps:,}", *best.values(), status.seconds]
    print_table(title, ["updates", *best, "seconds"], {f"{record['parameters']:,} parameters": row})
    saved(out)
    return record


def last_values(out: Path) -> dict[str, float]:
    """The last loss of the run in `out` and its last measurements, by name."""
    found: dict[str, float] = {}
    for entry in read(out / "log.jsonl"):
        found |= {name: value for name, value in entry.items() if name == "loss" or name not in OWN}
    return found


# --- the VQGAN ----------------------------------------------------------------------------------------------


def perceptual(losses: VQGANLossConfig, weights: Path | None, plan: DryRun) -> Any:
    """The frozen network that compares pictures, or None; the main process downloads it for all."""
    with main_first():
        return perceptual_network(losses, weights, empty=plan.dry_run)


def training_pixels(
    source: ImageSource,
    out: Path,
    size: int,
    training: TrainConfig,
    where: torch.device,
    *,
    crop: bool,
    threads: int | None,
    strict: bool,
) -> PixelData:
    """The training pictures; broken ones are counted on standard error and listed in out/skipped.json."""
    report = Report()
    with progress("read", len(source)) as advance:
        data = PixelData(
            source,
            size=size,
            batch_size=training.batch,
            seed=training.seed,
            device=where,
            crop=crop,
            threads=threads,
            report=report,
            strict=strict,
            progress=_steps(advance),
        )
    if report.skipped:
        say(report.summary())
        if is_main():
            report.write(out / "skipped.json")
    return data


def held_out_pixels(source: ImageSource, size: int, threads: int | None) -> Tensor:
    """Up to 2,048 pictures evenly out of a set, (n, 3, size, size) uint8."""
    index = np.linspace(0, len(source) - 1, min(len(source), HELD_OUT)).astype(np.int64)
    return load_pixels(source, index, size, threads=threads, report=Report())[1]


def reconstruction_error(pixels: Tensor, where: torch.device) -> Evaluate:
    """PSNR in dB of held-out pictures through their codes, and the share of the codebook that they use."""

    def evaluate(trained: VQGANLoss, step: int) -> Iterator[tuple[str, float]]:
        error, used = 0.0, set()
        for part in pixels.split(128):
            real = part.to(where).float() / 255
            codes = trained.vqgan.encode(real)
            used.update(codes.unique().tolist())
            error += float((trained.vqgan.decode(codes) - real).square().mean()) * len(part)
        yield "held_out_psnr", float(-10 * np.log10(error / len(pixels)))
        yield "held_out_usage", len(used) / trained.vqgan.config.codes

    return evaluate


def reconstructions(pixels: Tensor, where: torch.device) -> Picture:
    """16 held-out pictures, below them their reconstructions."""

    def picture(trained: VQGANLoss, step: int) -> Image.Image:
        real = pixels[:: max(1, len(pixels) // 16)][:16].to(where)
        again = to_uint8(trained.vqgan.decode(trained.vqgan.encode(real.float() / 255)))
        return grid(torch.cat((real, again)), columns=16)

    return picture


def vqgan_dry_run(
    stage: VQGANLoss,
    training: TrainConfig,
    out: Path,
    plan: DryRun,
    images: str,
    source: ImageSource,
    unseen: ImageSource,
) -> dict[str, Any]:
    """What --dry-run tells of a VQGAN: an update in which the discriminators have begun to teach."""
    model, losses = stage.vqgan.config, stage.config
    stage.assume(losses.adversarial_start + losses.adversarial_ramp)
    inputs: dict[str, Any] = {"path": images, "pictures": len(source), "held_out_pictures": len(unseen)}
    inputs["classes"] = len(source.classes)
    batch = PixelBatch(torch.empty(2, 3, model.image_size, model.image_size, device="meta"), None)
    return dry_run(stage, batch, training, out, plan, model=model, inputs=inputs, speed_is_known=False)


# --- stages over codes --------------------------------------------------------------------------------------


def classes_of(codes: Codes, conditional: bool, recipe: str | None) -> list[str]:
    """The classes of a prior on `codes`: none where it is not conditional or the codes have no labels.

    Raises:
        DigitError: the recipe is a conditional one and the codes have no labels.
    """
    if conditional and codes.labels is None and recipe is not None:
        raise DigitError(
            f"{codes.path} has no labels, which {recipe} needs: tokenize pictures in class folders, or take "
            f"--recipe {recipe.replace('_cond', '')}"
        )
    return codes.classes if conditional and codes.labels is not None else []


def prior_pictures(
    config: PriorConfig,
    over: str,
    renderer: Path | None,
    vqgan: Path | None,
    lineage: dict[str, str],
    where: torch.device,
) -> Picture:
    """64 samples through renderer and VQGAN where they are given, else codes as colours."""
    second: Any = None if vqgan is None else load(vqgan, kind="vqgan", device=where)
    first: Any = None if renderer is None else load(renderer, kind="renderer", device=where)
    if first is not None:
        check_lineage(f"{renderer}", artifact_of(first)["lineage"], "these codes", lineage)

    def picture(trained: Prior, step: int) -> Image.Image:
        seeds, classes = list(range(64)), config.classes
        labels = torch.arange(64, device=where) % classes if classes else None
        drawn = trained.sample(seeds, labels, SamplerConfig())
        if first is not None and second is not None:
            drawn = first.sample(drawn, seeds, SamplerConfig())
        elif over == "codes" or second is None:
            return code_map(drawn, config.codes)
        return grid(to_uint8(second.decode(drawn)), columns=classes if 0 < classes <= 16 else None)

    return picture


def renderer_pictures(
    codes: Codes, vqgan: Path | None, lineage: dict[str, str], where: torch.device
) -> Picture:
    """VQ codes of 16 pictures, below them what the renderer makes of their codes; as colours or decoded."""
    decoder: Any = None if vqgan is None else load(vqgan, kind="vqgan", device=where)
    if decoder is not None:
        check_lineage(f"{vqgan}", {"vqgan": artifact_of(decoder)["id"]}, "these codes", lineage)
    shown, real = (
        torch.from_numpy(codes.array(name)[:16, 0].astype(np.int64)).to(where)
        for name in ("codes", "vq_codes")
    )

    def picture(trained: Renderer | MaskedRenderer, step: int) -> Image.Image:
        drawn = torch.cat((real, trained.sample(shown, list(range(len(shown))))))
        if decoder is None:
            return code_map(drawn, trained.config.vq_codes)
        return grid(to_uint8(decoder.decode(drawn)), columns=len(shown))

    return picture


def held_out_loss(
    path: Path | None,
    arrays: tuple[str, ...],
    lineage: dict[str, str],
    where: torch.device,
    training: TrainConfig,
) -> Evaluate | None:
    """The mean loss over the first view of every unseen picture, or nothing to measure."""
    if path is None:
        return None
    opened = open_codes(path)
    check_lineage("this stage", lineage, f"{path}", opened.lineage())
    tensors = [torch.from_numpy(opened.array(name)[:, 0].astype(np.int64)) for name in arrays]
    labels = None if opened.labels is None else torch.from_numpy(opened.labels)
    size = training.micro_batch or training.batch

    def evaluate(stage: Prior | Renderer | MaskedRenderer, step: int) -> Iterator[tuple[str, float]]:
        total = 0.0
        for start in range(0, len(opened), size):
            rows = slice(start, start + size)
            parts = [tensor[rows].to(where) for tensor in tensors]
            batch = CodeBatch(
                parts[0],
                None if labels is None else labels[rows].to(where),
                parts[1] if len(parts) > 1 else None,
            )
            total += float(stage.loss(batch)) * len(parts[0])
        yield "held_out_loss", total / len(opened)

    return evaluate


def code_map(codes: Tensor, vocabulary: int) -> Image.Image:
    """Codes (b, n) as squares of colours, one fixed colour per code: what shows without a renderer."""
    side = int(codes.shape[1] ** 0.5)
    if side * side != codes.shape[1]:
        raise DigitError(f"{codes.shape[1]} codes per picture make no square")
    colours = torch.randint(
        0, 256, (vocabulary, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return grid(colours[codes.cpu()].view(-1, side, side, 3).permute(0, 3, 1, 2))


def _steps(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """A (done, total) callback out of an `advance(count)`."""
    before = 0

    def report(done: int, total: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return report
