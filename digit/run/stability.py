"""`digit evaluate stability`: how much of each tokenizer's codes survives disturbed pictures (table 1)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digit.data.images import open_images
from digit.data.loader import Report, stream
from digit.errors import DigitError
from digit.evaluation.perturbations import ALL, NOISE, OTHERS, SNRS, Perturbation
from digit.evaluation.result import result, write_result
from digit.evaluation.stability import CHANGE, FEATURES, PAPER, PROTOCOL, VECTORS, as_tokenizer, stability
from digit.evaluation.stability_plot import draw_stability
from digit.files import make_folder
from digit.progress import progress, say
from digit.run.device import choose_device
from digit.run.table import print_table
from digit.vqgan import VQGAN
from digit.weights.artifact import artifact_of, load


@torch.inference_mode()
def evaluate_stability(
    images: str,
    tokenizers: tuple[Path, ...],
    *,
    out: Path | None = None,
    size: int | None = None,
    under: str | None = None,
    limit: int | None = 1000,
    noise_only: bool = False,
    seed: int = 0,
    batch: int = 32,
    threads: int | None = None,
    device: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Disturb pictures, and count which codes change: table 1 of the paper, for any number of tokenizers.

    Beside each tokenizer stand PSNR and sharpness of its reconstructions (a discriminative one has none to
    show) and the use of its codebook: one that keeps little of a picture is stable for the wrong reason.
    Noise must be added at the pictures' native resolution; enlarged small pictures mislead.

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        tokenizers: artifacts of kind tokenizer or vqgan, side by side.
        out: a folder for stability.json and stability.png, or a JSON file with its picture beside it.
        size: side in pixels at which pictures are disturbed; the VQGANs' if left out, 256 without one.
        under: only pictures below this folder of `images`, such as `test`.
        limit: pictures at most, evenly spread over the set.
        noise_only: leave out blur, JPEG, shift and brightness.
        seed: of the noise.
        batch: pictures at once.
        threads: that decode pictures; where left out one a processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
    """
    where, report = choose_device(device), Report()
    modules = _open(tokenizers, where)
    side = _size(modules, size)
    source = open_images(images, under=under)
    if limit is not None and limit < len(source):
        source = source.select(np.linspace(0, len(source) - 1, limit).astype(np.int64))
    written = None if out is None else out if out.suffix == ".json" else out / "stability.json"
    if written is not None:
        make_folder(written.parent)
    options: dict[str, Any] = {"batch_size": batch, "threads": threads, "report": report, "strict": strict}
    measured: dict[str, dict[str, float]] = {}
    with progress("stability", len(source) * len(modules)) as advance:

        def pictures() -> Iterator[Tensor]:
            for index, pixels in stream(source, side, **options):
                yield pixels[:, 0].to(where).float() / 255
                advance(len(index))

        perturbations = NOISE if noise_only else ALL
        for name, module in modules.items():
            tokenizer = as_tokenizer(module)
            measured[name] = dict(stability(tokenizer, pictures(), perturbations=perturbations, seed=seed))
    if report.skipped:
        say(report.summary())
    count = len(source) - len(report.skipped)
    _print(measured, f"{count} pictures of {Path(images).name} at {side} px")
    value = result(
        "stability",
        [(f"{name}: {what}", number) for name, row in measured.items() for what, number in row.items()],
        protocol=PROTOCOL,
        counts={"pictures": count},
        features=[{"name": name, "id": artifact_of(module)["id"]} for name, module in modules.items()],
        seed=seed,
        settings={
            "images": Path(images).name,
            "under": under,
            "fingerprint": source.fingerprint,
            "size": side,
        },
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    )
    if written is not None:
        write_result(written, value)
        title = f"{count} pictures of {Path(images).name}{f':{under}' if under else ''} at {side} px"
        draw_stability(measured, written.with_suffix(".png"), title=title)
    return value


def _open(paths: tuple[Path, ...], where: torch.device) -> dict[str, Any]:
    """The tokenizers by the names of their folders; whole paths where two folders have one name."""
    if not paths:
        raise DigitError("--tokenizers: give at least one folder of a tokenizer or VQGAN")
    if len(set(paths)) != len(paths):
        raise DigitError("--tokenizers names a folder twice: give each once")
    names = [path.resolve().name for path in paths]
    if len(set(names)) != len(names):
        names = [str(path) for path in paths]
    modules = {}
    for name, path in zip(names, paths, strict=True):
        module: Any = load(path, device=where)
        kind = artifact_of(module)["kind"]
        if kind not in ("tokenizer", "vqgan"):
            raise DigitError(f"{path} is a {kind}, which gives no codes: give a tokenizer or a vqgan")
        modules[name] = module
    return modules


def _size(modules: Mapping[str, Any], size: int | None) -> int:
    sizes = {name: m.config.image_size for name, m in modules.items() if isinstance(m, VQGAN)}
    side = size or max(sizes.values(), default=256)
    for name, its in sizes.items():
        if its != side:
            raise DigitError(
                f"the VQGAN {name} is made for {its} px, the pictures have {side}: compare VQGANs of one size"
            )
    return side


def _print(measured: Mapping[str, Mapping[str, float]], caption: str) -> None:
    """Tables for people: by SNR with the paper's rows, other perturbations, what each tokenizer is."""
    columns = [f"{snr:g} dB" for snr in SNRS]
    for measure in (CHANGE, VECTORS, FEATURES):
        rows = {name: _row(row, measure, NOISE) for name, row in measured.items()}
        rows |= {name: list(given[measure]) for name, given in PAPER.items() if measure in given}
        if any(number is not None for numbers in rows.values() for number in numbers):
            print_table(f"{measure} by SNR, {caption}", columns, rows, dim=PAPER)
    for kind in dict.fromkeys(how.kind for how in OTHERS):
        chosen = [how for how in OTHERS if how.kind == kind]
        rows = {name: _row(row, CHANGE, chosen) for name, row in measured.items()}
        if any(number is not None for numbers in rows.values() for number in numbers):
            print_table(f"{CHANGE}: {kind}", [how.name.removeprefix(kind).strip() for how in chosen], rows)
    kept = ("PSNR", "sharpness", "codes", "usage", "entropy, bits")
    rows = {name: [row.get(what) for what in kept] for name, row in measured.items()}
    print_table("the tokenizers on undisturbed pictures (-: no decoder)", kept, rows)


def _row(
    values: Mapping[str, float], measure: str, perturbations: Sequence[Perturbation]
) -> list[float | None]:
    return [values.get(f"{measure}, {how.name}") for how in perturbations]
