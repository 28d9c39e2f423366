"""What the training verbs build, measure while training and show; everything here may import torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from digit.data.codes import Codes, open_codes
from digit.data.images import ImageSource
from digit.data.loader import Report, load_pixels
from digit.data.pixels import PixelData
from digit.distributed import is_main, main_first, on_main
from digit.drawing import code_colours
from digit.errors import DigitError, check_lineage
from digit.files import write_text_atomic
from digit.nn.batch import CodeBatch
from digit.nn.sampling import SamplerConfig
from digit.printing import listed
from digit.prior import Prior, PriorConfig
from digit.progress import progress, say
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.rendering import to_uint8
from digit.run.best import keeping_best, tell_best
from digit.run.claim import Claim, claim, differences
from digit.run.class_names import labels_among
from digit.run.dry_run import DryRun
from digit.run.grid import grid
from digit.run.settings import NAME, text_of
from digit.run.table import print_table, saved
from digit.training import checkpoint
from digit.training.config import TrainConfig
from digit.training.log import OWN, read, read_status
from digit.training.loop import train
from digit.training.optimizer import warm_up_warning
from digit.training.update import TRAJECTORY
from digit.vqgan_config import VQGANLossConfig
from digit.vqgan_loss import VQGANLoss, perceptual_network
from digit.weights.artifact import MODEL, artifact_of, load, verify
from digit.weights.model_folder import part_of
from digit.weights.outline import Undrawn
from digit.weights.storage import to_dict

Stage = TypeVar("Stage", bound=nn.Module)
Evaluate = Callable[[Any, int], Iterator[tuple[str, float]]]
Picture = Callable[[Any, int], Image.Image]

# Beside what resuming tells of its own: what only measures, and the strength of losses and of dropout.
MAY_CHANGE = (
    "held_out",
    "losses",
    "model.dropout",
    "model.label_dropout",
    "model.label_smoothing",
    "wrong_codes",
)
MANY, TOO_MANY = 2 * 10**9, 10**11  # parameters: of which a line says the cost, and that nobody means
HELD_OUT = 2048  # pictures that the reconstruction error is measured on, at most


def build(
    make: Callable[[], Stage],
    training: TrainConfig,
    plan: DryRun,
    *,
    sized: Callable[[], nn.Module] | None = None,
) -> Stage:
    """A stage whose first weights are those of the seed; a dry run's weights have no values.

    Randomness outside goes on as if nothing had happened. Before memory is taken a line says how much a large
    stage needs: of `sized`, which can be made without values, where the stage itself cannot.

    Raises:
        DigitError: more parameters than can be meant.
    """
    with torch.random.fork_rng([]), torch.device("meta"), Undrawn():
        count = sum(each.numel() for each in (sized or make)().parameters())
    if count > MANY:
        taken = f"{count:,} parameters, {16 * count / 1e9:,.0f} GB with gradients and moments"
        if count > TOO_MANY:
            raise DigitError(f"the stage would have {taken}: give fewer --layers or a smaller --width")
        say(f"the stage has {taken}; --dry-run says what a run of it takes")
    with torch.random.fork_rng([]), plan.building():
        torch.default_generator.manual_seed(training.seed)
        return make()


def claimed(out: str | Path, verb: str, **made_of: Any) -> Claim:
    """See that the run's folder is empty or a training of the same model on the same data.

    What only measures, and what may change midway as the learning rate may, is told.
    """
    return claim(out, verb, made_of, may_change=MAY_CHANGE)


def is_finished(out: str | Path, training: TrainConfig) -> bool:
    """Whether all updates that are asked for are done, and the artifact is there and whole."""

    def finished() -> bool:
        status = read_status(out)
        done = status is not None and status.finished and status.step >= training.steps
        return done and _is_whole(Path(out))

    return on_main(finished)


def _is_whole(out: Path) -> bool:
    try:
        verify(out)
    except DigitError:
        return False
    return True


def _say_finished(out: Path, training: TrainConfig, told: Sequence[str]) -> None:
    """That nothing is done, and which settings that are asked for have no effect any more."""
    status, states = read_status(out), checkpoint.paths(out / "state")
    assert status is not None
    more = f", more than --steps {training.steps:,}" if status.step > training.steps else ""
    say(f"nothing is left to do: {out} has all of its {status.step:,} updates{more}")
    before = checkpoint.load(states[-1], verify=False).state.get("config") if states and is_main() else {}
    other = [name for name, *_ in differences(before or {}, to_dict(training))]
    names = [sentence.split()[0] for sentence in told if " from here" in sentence]
    names += [name for name in other if name in TRAJECTORY or name.startswith("optimizer.")]
    if names:
        say(f"asked for otherwise than it was trained, and not used: {listed(names)}")


def run_stage(
    stage: nn.Module,
    data: Callable[[], Callable[[int], Any]],
    training: TrainConfig,
    found: Claim,
    given: Mapping[str, Any],
    where: torch.device,
    evaluate: Evaluate | None,
    picture: Picture | None,
    save: Callable[..., Any],
    title: str,
) -> dict[str, Any]:
    """Train a stage by the one loop, print what came of it, and give the verb's record.

    `save(stage, folder)` writes the artifact, and with a third argument, of a prior or renderer, more that it
    says of itself. `given`, the verb's arguments, are left in the folder as a file of settings. Nothing is
    read, trained or written where the run is finished; a lost or damaged artifact is written again.
    """
    out = found.out
    if is_finished(out, training):
        _say_finished(out, training, found.told)
    else:
        how: dict[str, Any] = {"evaluate": evaluate, "picture": picture, "device": where, "title": title}
        how["told"] = found.told
        how["on_save"] = lambda trained, state: save(trained, out)
        if evaluate and training.evaluate_every:
            how["evaluate"] = keeping_best(evaluate, save, out, found.made_of.get("held_out"))
        with found.begun():
            if is_main():
                write_text_atomic(out / NAME, text_of(found.verb, given))
            trained = train(stage, data(), training, out, **how)
            if is_main() and not _is_whole(out):
                say(f"{out / MODEL} is lost or damaged: it is written again")
                save(trained, out)
    status, measured = read_status(out), {}
    assert status is not None
    for entry in read(out / "log.jsonl"):  # the last of each
        measured |= {name: value for name, value in entry.items() if name == "loss" or name not in OWN}
    parameters = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    best = {name: value for name, value in measured.items() if " layer " not in name}
    layers = [name for name in measured if name.startswith("top-1")]
    if layers:
        name = max(layers, key=measured.__getitem__)
        best[name] = measured[name]
    row = [f"{status.step:,} of {status.steps:,}", *best.values(), status.seconds]
    print_table(title, ["updates", *best, "seconds"], {f"{parameters:,} parameters": row})
    saved(out)
    progress = {"step": status.step, "of": status.steps, "finished": status.finished}
    progress |= tell_best(out, status.step)
    warning = warm_up_warning(training.optimizer, training.steps)
    progress["warnings"] = [] if warning is None else [warning]
    return {"out": out, "parameters": parameters, **progress, "seconds": status.seconds, **measured}


# --- the VQGAN ----------------------------------------------------------------------------------------------


def perceptual(losses: VQGANLossConfig, weights: Path | None, plan: DryRun) -> Any:
    """The frozen network that compares pictures, or None; the main process downloads it for all."""
    with main_first():
        return perceptual_network(losses, weights, empty=plan.dry_run)


def training_pixels(
    source: ImageSource, out: Path, size: int, training: TrainConfig, where: torch.device, **how: Any
) -> PixelData:
    """The training pictures; broken ones are counted on standard error and listed in out/skipped.json.

    `how`: PixelData's crop, threads and strict.
    """
    report = Report()
    how |= {"size": size, "batch_size": training.batch, "seed": training.seed, "device": where}
    with progress("read", len(source)) as bar:
        data = PixelData(source, report=report, progress=lambda done, _: bar(done - bar.done), **how)
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
    first, second = _loaded(renderer, "renderer", where), _loaded(vqgan, "vqgan", where)
    if first is not None:
        check_lineage(f"{renderer}", artifact_of(first)["lineage"], "these codes", lineage)
    seeds, classes = list(range(64)), config.classes
    labels = torch.arange(64, device=where) % classes if classes else None
    told = labels if first is not None and first.config.classes else None
    if first is not None:  # or it would refuse in the middle of the training
        first.config.labels_for(len(seeds), told, guidance=1.0)

    def picture(trained: Prior, step: int) -> Image.Image:
        drawn = trained.sample(seeds, labels, SamplerConfig())
        if first is not None and second is not None:
            drawn = first.sample(drawn, seeds, SamplerConfig(), labels=told)
        elif over == "codes" or second is None:
            return code_map(drawn, config.codes)
        return grid(to_uint8(second.decode(drawn)), columns=classes if 0 < classes <= 16 else None)

    return picture


def renderer_pictures(
    codes: Codes, vqgan: Path | None, lineage: dict[str, str], where: torch.device
) -> Picture:
    """VQ codes of 16 pictures, below them what the renderer makes of their codes; as colours or decoded."""
    decoder = _loaded(vqgan, "vqgan", where)
    if decoder is not None:
        check_lineage(f"{vqgan}", {"vqgan": artifact_of(decoder)["id"]}, "these codes", lineage)
    shown, real = (first_codes(codes, name)[:16].to(where) for name in ("codes", "vq_codes"))
    labels = None if codes.labels is None else torch.from_numpy(codes.labels[:16])

    def picture(trained: Renderer | MaskedRenderer, step: int) -> Image.Image:
        told = labels if trained.config.classes else None
        drawn = torch.cat((real, trained.sample(shown, list(range(len(shown))), labels=told)))
        if decoder is None:
            return code_map(drawn, trained.config.vq_codes)
        return grid(to_uint8(decoder.decode(drawn)), columns=len(shown))

    return picture


def _loaded(path: Path | None, kind: str, where: torch.device) -> Any:
    return None if path is None else load(part_of(path, kind), kind=kind, device=where)


def first_codes(codes: Codes, name: str) -> Int[Tensor, "b n"]:
    """The codes of each picture's first view, on the CPU."""
    return torch.from_numpy(codes.array(name)[:, 0].astype(np.int64))


def held_out_loss(
    path: Path | None,
    arrays: tuple[str, ...],
    lineage: dict[str, str],
    where: torch.device,
    training: TrainConfig,
    *,
    classes: Sequence[str] = (),
    unlabelled: bool = False,
) -> Evaluate | None:
    """The mean loss over the first view of every unseen picture, or nothing to measure.

    `classes` are the stage's own, by whose names the pictures' count; if it also draws without a class,
    `unlabelled`, pictures may have none. DigitError for pictures without classes, or of others.
    """
    if path is None:
        return None
    opened = open_codes(path)
    check_lineage("this stage", lineage, f"{path}", opened.lineage())
    parts = [first_codes(opened, name) for name in arrays]
    labels = None
    if classes and unlabelled and opened.labels is None:
        say(f"{path} has no labels: the held-out loss is that of pictures without a class")
    elif classes:
        labels = labels_among(opened, classes, known_to="this stage")
    size = training.micro_batch or training.batch

    def evaluate(stage: Prior | Renderer | MaskedRenderer, step: int) -> Iterator[tuple[str, float]]:
        total = 0.0
        for start in range(0, len(opened), size):
            rows = slice(start, start + size)
            codes, *more = (part[rows].to(where) for part in parts)
            batch = CodeBatch(codes, None if labels is None else labels[rows].to(where), *more)
            total += float(stage.loss(batch)) * len(codes)
        yield "held_out_loss", total / len(opened)

    return evaluate


def code_map(codes: Tensor, vocabulary: int) -> Image.Image:
    """Codes (b, n) as squares of colours, one fixed colour per code: what shows without a renderer."""
    side = int(codes.shape[1] ** 0.5)
    if side * side != codes.shape[1]:
        raise DigitError(f"{codes.shape[1]} codes per picture make no square")
    return grid(code_colours(vocabulary)[codes.cpu()].view(-1, side, side, 3).permute(0, 3, 1, 2))


# --- the linear probe of a frozen prior ---------------------------------------------------------------------
