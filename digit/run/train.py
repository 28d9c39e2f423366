"""`digit train vqgan|prior|renderer`: data, a stage, the one loop; the run's folder is the artifact too."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from digit.data.codes import CodeData, open_codes
from digit.data.images import open_images
from digit.data.loader import Report, load_pixels
from digit.data.pixels import PixelData
from digit.distributed import is_main, main_first
from digit.errors import DigitError, LineageError
from digit.nn.batch import CodeBatch, PixelBatch
from digit.nn.sampling import SamplerConfig
from digit.pipeline import to_uint8
from digit.prior import Prior, PriorConfig
from digit.progress import progress, say
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.run.device import choose_device
from digit.run.dry_run import DryRun, code_batch, describe_codes, dry_run
from digit.run.sample import grid
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read_status
from digit.training.loop import train
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss, perceptual_network
from digit.weights.artifact import artifact_of, load, save

PRIOR = TrainConfig(steps=125_000, batch=2048, optimizer=OptimizerConfig())
RENDERER = TrainConfig(steps=250_000, batch=2048, optimizer=OptimizerConfig(lr=5e-4))
VQGAN_TRAINING = TrainConfig(
    steps=100_000,
    batch=256,
    clip=1.0,
    ema=0.999,
    optimizer=OptimizerConfig(lr=2e-4, betas=(0.5, 0.99), weight_decay=0.0, schedule="cosine", warmup=1000),
)


def train_vqgan(
    images: str,
    out: Path,
    *,
    model: VQGANConfig = VQGANConfig(),  # noqa: B008  (frozen)
    losses: VQGANLossConfig = VQGANLossConfig(),  # noqa: B008
    training: TrainConfig = VQGAN_TRAINING,
    perceptual_weights: Path | None = None,
    under: str | None = None,
    held_out: str | None = None,
    held_out_under: str | None = None,
    crop: bool = False,
    threads: int | None = None,
    device: str | None = None,
    strict: bool = False,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the reconstructive tokenizer, pixels <-> VQ codes. The same command resumes an interrupted run.

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: the run's folder: artifact, log.jsonl, loss.png, samples/ (reconstructions below), state/.
        model: shape of the encoder and decoder; the official topology unless told otherwise.
        losses: weights of the reconstruction, perceptual and adversarial parts.
        training: steps, batch, learning rate and the rest of the loop.
        perceptual_weights: local safetensors of the perceptual network; else timm fetches the published ones.
        under: only pictures below this folder of `images`, such as `train`.
        held_out: unseen pictures (2,048 of them) for the reconstruction error; `images` if left out.
        held_out_under: only pictures below this folder of `held_out`.
        crop: train on random crops of slightly enlarged pictures, for sets with room around the object.
        threads: that decode pictures.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
        plan: what --dry-run estimates.
    """
    where, report = choose_device(device), Report()
    source = open_images(images, under=under)
    unseen = open_images(held_out, under=held_out_under) if held_out else source
    size = model.image_size
    with main_first():  # it may have to be downloaded
        network = perceptual_network(losses, perceptual_weights, empty=plan.dry_run)
    with seeded(training.seed), plan.building():
        stage = VQGANLoss(VQGAN(model), losses, network)
    if plan.dry_run:
        stage.assume(losses.adversarial_start + losses.adversarial_ramp)
        pictures = {"pictures": len(source), "held_out_pictures": len(unseen)}
        inputs = {"path": images, **pictures, "classes": len(source.classes)}
        batch = PixelBatch(torch.empty(2, 3, size, size, device="meta"), None)
        told = {"model": model, "inputs": inputs, "speed_is_known": False}
        return dry_run(stage, batch, training, out, plan, **told)
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
    index = np.linspace(0, len(unseen) - 1, min(len(unseen), 2048)).astype(np.int64)
    pixels = load_pixels(unseen, index, size, threads=threads, report=Report())[1]

    def evaluate(trained: VQGANLoss, step: int) -> Iterator[tuple[str, float]]:
        error, used = 0.0, set()
        for part in pixels.split(128):
            real = part.to(where).float() / 255
            codes = trained.vqgan.encode(real)
            used.update(codes.unique().tolist())
            error += float((trained.vqgan.decode(codes) - real).square().mean()) * len(part)
        yield "held_out_psnr", float(-10 * np.log10(error / len(pixels)))
        yield "held_out_usage", len(used) / model.codes

    def picture(trained: VQGANLoss, step: int) -> Image.Image:
        real = pixels[:: max(1, len(pixels) // 16)][:16].to(where)
        again = to_uint8(trained.vqgan.decode(trained.vqgan.encode(real.float() / 255)))
        return grid(torch.cat((real, again)), columns=16)

    def on_save(trained: VQGANLoss, state: Path | None) -> None:
        save(trained.vqgan, out, lineage={}, extra={"source": source.fingerprint, "losses": losses.__dict__})

    return run_stage(stage, data, training, out, where, evaluate, picture, on_save, title="vqgan")


def train_prior(
    codes: Path,
    out: Path,
    *,
    over: Literal["codes", "vq_codes"] = "codes",
    conditional: bool = True,
    width: int = 1024,
    layers: int = 16,
    heads: int | None = None,
    norm: Literal["post", "pre"] = "post",
    dropout: float = 0.1,
    label_dropout: float = 0.0,
    label_smoothing: float = 0.1,
    tied: bool = False,
    training: TrainConfig = PRIOR,
    held_out: Path | None = None,
    renderer: Path | None = None,
    vqgan: Path | None = None,
    device: str | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the GPT over codes (stage 1 of the paper). The same command resumes an interrupted run.

    Args:
        codes: folder of `digit tokenize`.
        out: the run's folder: artifact, log.jsonl, loss.png, samples/, state/.
        over: discriminative codes, or VQ codes for the paper's baseline.
        conditional: by class, where the codes have labels.
        width: channels.
        layers: transformer blocks.
        heads: attention heads; one per 64 channels if left out.
        norm: post as in the paper, or pre.
        dropout: share of values dropped.
        label_dropout: share of labels dropped; above 0 the prior also draws without a class, and guided.
        label_smoothing: of the cross-entropy.
        tied: one table for reading and predicting codes.
        training: steps, batch, learning rate and the rest of the loop.
        held_out: codes of unseen pictures, for the held-out loss.
        renderer: artifact, for sample pictures while training; else samples/ shows the codes as colours.
        vqgan: artifact, likewise.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        plan: what --dry-run estimates.
    """
    where = choose_device(device)
    opened = open_codes(codes)
    classes = len(opened.classes) if conditional and opened.labels is not None else 0
    config = PriorConfig(
        codes=opened.vocabulary(over),
        length=opened.length(over),
        classes=classes,
        width=width,
        layers=layers,
        heads=_heads(width, heads),
        norm=norm,
        dropout=dropout,
        label_dropout=label_dropout if classes else 0.0,
        label_smoothing=label_smoothing,
        tied=tied,
    )
    with seeded(training.seed), plan.building():
        stage = Prior(config)
    lineage = opened.lineage(over)
    second: Any = None if vqgan is None else load(vqgan, kind="vqgan", device=where)
    first: Any = None if renderer is None else load(renderer, kind="renderer", device=where)
    if first is not None:
        same_lineage(artifact_of(first)["lineage"], lineage, f"{renderer}")

    def picture(trained: Prior, step: int) -> Image.Image:
        seeds = list(range(64))
        labels = torch.arange(64, device=where) % classes if classes else None
        drawn = trained.sample(seeds, labels, SamplerConfig())
        if first is not None and second is not None:
            drawn = first.sample(drawn, seeds, SamplerConfig())
        elif over == "codes" or second is None:
            return code_map(drawn, config.codes)
        return grid(to_uint8(second.decode(drawn)), columns=classes if 0 < classes <= 16 else None)

    def on_save(trained: Prior, state: Path | None) -> None:
        save(trained, out, lineage=lineage, classes=opened.classes if classes else [])

    evaluate = _held_out(held_out, (over,), lineage, where, training)
    if plan.dry_run:
        batch = code_batch(config.length)
        return dry_run(stage, batch, training, out, plan, model=config, inputs=describe_codes(opened))
    data = CodeData(opened, batch_size=training.batch, arrays=(over,), seed=training.seed, device=where)
    return run_stage(stage, data, training, out, where, evaluate, picture, on_save, title="prior")


def train_renderer(
    codes: Path,
    out: Path,
    *,
    masked: bool = False,
    width: int = 1024,
    layers: int = 16,
    heads: int | None = None,
    norm: Literal["post", "pre"] = "pre",
    dropout: float = 0.1,
    label_smoothing: float = 0.1,
    training: TrainConfig = RENDERER,
    held_out: Path | None = None,
    vqgan: Path | None = None,
    device: str | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the renderer, codes -> VQ codes (stage 2 of the paper). The same command resumes a stopped run.

    Args:
        codes: folder of `digit tokenize` with both kinds of code.
        out: the run's folder: artifact, log.jsonl, loss.png, samples/, state/.
        masked: fill masks in a few steps (MaskGIT) instead of one code after another.
        width: channels.
        layers: transformer blocks.
        heads: attention heads; one per 64 channels if left out.
        norm: pre as in the paper, or post.
        dropout: share of values dropped.
        label_smoothing: of the cross-entropy.
        training: steps, batch, learning rate and the rest of the loop.
        held_out: codes of unseen pictures, for the held-out loss.
        vqgan: artifact, for sample pictures while training (its reconstructions above, renderings below).
        device: cpu, cuda or cuda:N; a GPU if there is one.
        plan: what --dry-run estimates.
    """
    where = choose_device(device)
    opened, names = open_codes(codes), ("codes", "vq_codes")
    shape = RendererConfig(
        codes=opened.vocabulary("codes"),
        length=opened.length("codes"),
        vq_codes=opened.vocabulary("vq_codes"),
        vq_length=opened.length("vq_codes"),
        width=width,
        layers=layers,
        heads=_heads(width, heads),
        norm=norm,
        dropout=dropout,
        label_smoothing=label_smoothing,
    )
    with seeded(training.seed), plan.building():
        stage = MaskedRenderer(MaskedConfig(**shape.__dict__)) if masked else Renderer(shape)
    lineage = opened.lineage(*names)
    decoder: Any = None if vqgan is None else load(vqgan, kind="vqgan", device=where)
    if decoder is not None:
        same_lineage({"vqgan": artifact_of(decoder)["id"]}, lineage, f"{vqgan}")
    shown = [torch.from_numpy(opened.array(name)[:16, 0].astype(np.int64)).to(where) for name in names]

    def picture(trained: Renderer | MaskedRenderer, step: int) -> Image.Image:
        drawn = trained.sample(shown[0], list(range(len(shown[0]))))
        if decoder is None:
            return code_map(torch.cat((shown[1], drawn)), shape.vq_codes)
        return grid(to_uint8(decoder.decode(torch.cat((shown[1], drawn)))), columns=len(shown[0]))

    def on_save(trained: Renderer | MaskedRenderer, state: Path | None) -> None:
        save(trained, out, lineage=lineage, classes=opened.classes)

    evaluate = _held_out(held_out, names, lineage, where, training)
    if plan.dry_run:
        batch, model = code_batch(shape.length, vq_length=shape.vq_length), stage.config
        return dry_run(stage, batch, training, out, plan, model=model, inputs=describe_codes(opened))
    data = CodeData(opened, batch_size=training.batch, arrays=names, seed=training.seed, device=where)
    return run_stage(stage, data, training, out, where, evaluate, picture, on_save, title="renderer")


def run_stage(
    stage: nn.Module,
    data: Callable[[int], Any],
    training: TrainConfig,
    out: Path,
    where: torch.device,
    evaluate: Any,
    picture: Any,
    on_save: Any,
    *,
    title: str,
) -> dict[str, Any]:
    """Train a stage by the one loop; what the verb prints: place, size, updates done and whether all are."""
    train(
        stage,
        data,
        training,
        out,
        evaluate=evaluate,
        picture=picture,
        on_save=on_save,
        device=where,
        title=title,
    )
    status = read_status(out)
    assert status is not None
    return {
        "out": out,
        "parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
        "step": status.step,
        "of": status.steps,
        "finished": status.finished,
        "seconds": status.seconds,
    }


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, first weights are those of `seed`; outside, randomness goes on as if nothing had happened."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        yield


def _held_out(
    path: Path | None,
    arrays: tuple[str, ...],
    lineage: dict[str, str],
    where: torch.device,
    training: TrainConfig,
) -> Callable[[Any, int], Iterator[tuple[str, float]]] | None:
    """The mean loss over the first view of every unseen image, or nothing to measure."""
    if path is None:
        return None
    opened = open_codes(path)
    opened.check_lineage(lineage, "this stage")
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


def code_map(codes: torch.Tensor, vocabulary: int) -> Image.Image:
    """Codes (b, n) as squares of colours, one fixed colour a code: what shows before there is a renderer."""
    side = int(codes.shape[1] ** 0.5)
    if side * side != codes.shape[1]:
        raise DigitError(f"{codes.shape[1]} codes a picture make no square")
    colours = torch.randint(
        0, 256, (vocabulary, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return grid(colours[codes.cpu()].view(-1, side, side, 3).permute(0, 3, 1, 2))


def _heads(width: int, heads: int | None) -> int:
    return heads if heads is not None else max(1, width // 64)


def same_lineage(there: dict[str, str], here: dict[str, str], who: str) -> None:
    """LineageError, naming `who`, where its lineage `there` and that of codes, `here`, contradict."""
    for name, identity in here.items():
        if there.get(name, identity) != identity:
            raise LineageError(
                f"{who} belongs to the {name} {there[name][:12]}, these codes to "
                f"{identity[:12]}: use stages of one lineage"
            )


def _steps(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """A (done, total) callback out of an `advance(count)`."""
    before = 0

    def report(done: int, total: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return report
