"""`digit evaluate stability`: how much of each tokenizer's codes survives disturbed pictures (table 1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digit.errors import DigitError
from digit.run.options import Device, Folder, Pictures, Pixels
from digit.run.table import print_table


def evaluate_stability(
    images: Pictures,
    tokenizers: tuple[Folder, ...],
    *,
    out: Path | None = None,
    size: Pixels | None = None,
    under: str | None = None,
    num: int | None = 1000,
    noise_only: bool = False,
    seed: int = 0,
    batch: int = 32,
    threads: int | None = None,
    device: Device | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Disturb pictures, and count which codes change: table 1 of the paper, for any number of tokenizers.

    Beside each tokenizer stand PSNR and sharpness of its reconstructions (a discriminative one has none to
    show) and the use of its codebook: one that keeps little of a picture is stable for the wrong reason.
    Noise must be added at the pictures' native resolution; enlarged small pictures mislead.

    Example: digit evaluate stability --images photos/ --tokenizers runs/tokenizer runs/vqgan --out stability

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        tokenizers: artifacts of kind tokenizer or vqgan, side by side.
        out: folder for stability.json and stability.png, or a JSON file with its plot beside it; not kept if
            left out.
        size: side in pixels at which pictures are disturbed; the VQGANs' if left out, 256 without one.
        under: only pictures below this folder of `images`, such as `test`.
        num: pictures at most, evenly spread over the set.
        noise_only: leave out blur, JPEG, shift and brightness.
        seed: of the noise.
        batch: pictures at once.
        threads: that decode pictures; where left out one a processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
    """
    from digit.data.images import open_images
    from digit.data.loader import Report
    from digit.evaluation.plots import draw_stability
    from digit.evaluation.stability import ALL, NOISE, PROTOCOL, as_tokenizer, stability
    from digit.progress import progress, say
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement

    where, report = choose_device(device), Report()
    if not tokenizers:
        raise DigitError("--tokenizers: give at least one folder of a tokenizer or VQGAN")
    names = measurement.unlike_names(tokenizers, "--tokenizers")
    opened = [measurement.open_one(path, ("tokenizer", "vqgan"), where) for path in tokenizers]
    side = _size(dict(zip(names, opened, strict=True)), size)
    source = open_images(images, under=under).spread(num)
    written = measurement.result_file(out, "stability")
    reads: dict[str, Any] = {"batch_size": batch, "threads": threads, "report": report, "strict": strict}
    how: dict[str, Any] = {"perturbations": NOISE if noise_only else ALL, "seed": seed}
    measured: dict[str, dict[str, float]] = {}
    with progress("stability", len(source) * len(opened)) as advance:
        for name, module in zip(names, opened, strict=True):
            pictures = measurement.pixels_of(source, side, where, advance, **reads)
            measured[name] = dict(stability(as_tokenizer(module), pictures, **how))
    if report.skipped:
        say(report.summary())
    count = len(source) - len(report.skipped)
    settings = {"images": Path(images).name, "under": under, "fingerprint": source.fingerprint, "size": side}
    value = measurement.record(
        "stability",
        measurement.by_name(measured),
        where,
        protocol=PROTOCOL,
        counts={"pictures": count},
        features=measurement.with_ids(names, opened),
        seed=seed,
        settings=settings,
    )
    title = f"{count} pictures of {Path(images).name}{f':{under}' if under else ''} at {side} px"
    _print(measured, title)
    plots = [] if written is None else [written.with_suffix(".png")]
    for path in plots:
        draw_stability(measured, path, title=title)
    measurement.keep(written, value, *plots, also=", and a plot")
    return value


def _size(modules: Mapping[str, Any], size: int | None) -> int:
    """The side in pixels at which pictures are disturbed; DigitError where it is not that of each VQGAN."""
    from digit.vqgan import VQGAN

    sizes = {name: m.config.image_size for name, m in modules.items() if isinstance(m, VQGAN)}
    side = size or max(sizes.values(), default=256)
    for name, its in sizes.items():
        if its != side:
            raise DigitError(
                f"the VQGAN {name} is made for {its} px, the pictures have {side}: compare VQGANs of one size"
            )
    return side


def _print(measured: Mapping[str, Mapping[str, float]], caption: str) -> None:
    """Tables by SNR with the paper's rows, by other perturbations, and of what each tokenizer is."""
    from digit.evaluation.stability import CHANGE, FEATURES, NOISE, OTHERS, PAPER, SNRS, VECTORS

    def row(values: Mapping[str, float], measure: str, perturbations: Sequence[Any]) -> list[float | None]:
        return [values.get(f"{measure}, {how.name}") for how in perturbations]

    def show(title: str, columns: Sequence[str], rows: Mapping[str, Any]) -> None:
        if any(number is not None for numbers in rows.values() for number in numbers):
            print_table(title, columns, rows, dim=PAPER)

    sides = {CHANGE: "lower", VECTORS: "higher", FEATURES: "higher"}
    for measure, better in sides.items():
        rows: dict[str, Any] = {name: row(values, measure, NOISE) for name, values in measured.items()}
        rows |= {name: list(given[measure]) for name, given in PAPER.items() if measure in given}
        show(f"{measure} by SNR in dB ({better} is better), {caption}", [f"{snr:g}" for snr in SNRS], rows)
    for kind in dict.fromkeys(how.kind for how in OTHERS):
        chosen = [how for how in OTHERS if how.kind == kind]
        rows = {name: row(values, CHANGE, chosen) for name, values in measured.items()}
        show(f"{CHANGE}: {kind}", [how.name.removeprefix(kind).strip() for how in chosen], rows)
    kept = {
        "PSNR": "PSNR, dB",
        "sharpness": "sharpness",
        "codes": "K",
        "usage": "used",
        "entropy, bits": "bits",
    }
    rows = {name: [values.get(what) for what in kept] for name, values in measured.items()}
    print_table("the tokenizers on undisturbed pictures (-: no decoder)", list(kept.values()), rows)
