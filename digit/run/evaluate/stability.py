"""`digit evaluate stability`: how much of each tokenizer's codes survives disturbed pictures (table 1)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from digit.bounds import Batch, Count, Seed
from digit.calls import checked
from digit.errors import DigitError
from digit.run.options import Device, Folder, Pictures, Pixels, Tokenizing
from digit.run.table import print_table


@checked
def evaluate_stability(
    images: Pictures,
    tokenizers: tuple[Tokenizing, ...],
    *,
    renderer_flow: Folder | None = None,
    out: Path | None = None,
    size: Pixels | None = None,
    under: str | None = None,
    num: Count | None = 1000,
    noise_only: bool = False,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device | None = None,
) -> dict[str, Any]:
    """Disturb pictures, and count which codes change: table 1 of the paper, for any number of tokenizers.

    Beside each tokenizer stand PSNR and sharpness of its reconstructions (a discriminative one has none to
    show, unless a flow renderer draws of its codes) and the use of its codebook: one that keeps little of a
    picture is stable for the wrong reason.
    Noise must be added at the pictures' native resolution; enlarged small pictures mislead.

    Example: digit evaluate stability --images photos/ --tokenizers runs/tokenizer runs/vqgan --out stability

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        tokenizers: artifacts of kind tokenizer or vqgan, or your own as module:object or file.py:object (a
            PictureTokenizer, docs/own-parts.md), side by side.
        renderer_flow: artifact of `digit train renderer --flow`, of the codes of one of the tokenizers.
        out: folder for stability.json and stability.png, or a JSON file; not kept if left out.
        size: side in pixels at which pictures are disturbed; the decoders' if left out, 256 without one.
        under: only pictures below this folder of `images`, such as `test`.
        num: pictures at most, evenly spread over the set.
        noise_only: leave out blur, JPEG, shift and brightness.
        seed: of the noise.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    given = dict(locals())
    from digit.evaluation.plots import draw_stability
    from digit.evaluation.stability import ALL, NOISE, PROTOCOL, as_tokenizer, stability
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement
    from digit.run.own_code import known
    from digit.run.pictures import open_told

    where = choose_device(device, float64=True)
    if not tokenizers:
        raise DigitError("--tokenizers: give at least one folder of a tokenizer or VQGAN")
    names = measurement.unlike_names(tokenizers, "--tokenizers")
    kinds = "tokenizer", "vqgan"
    opened = {n: measurement.open_one(path, kinds, where) for n, path in zip(names, tokenizers, strict=True)}
    flow = None if renderer_flow is None else measurement.open_one(renderer_flow, ("renderer_flow",), where)
    read_by = None if flow is None else _tokenizer_of(flow, opened)
    side = _size(opened if flow is None else {**opened, "flow renderer": flow}, size)
    source = open_told(images, under=under, num=num)
    written = measurement.result_file(out, "stability")
    given["tokenizers"] = [known(path, opened[name]) for name, path in zip(names, tokenizers, strict=True)]
    made_of = measurement.asked(out, given)
    if (before := measurement.measured(written, made_of)) is not None:
        return before
    how: dict[str, Any] = {"perturbations": NOISE if noise_only else ALL, "seed": seed}
    measured: dict[str, dict[str, float]] = {}
    with measurement.reading("stability", source, side, where, batch, times=len(opened)) as (pixels, seen):
        for name, module in opened.items():
            tokenizer = as_tokenizer(module, flow if name == read_by else None)
            measured[name] = dict(stability(tokenizer, pixels(), **how))
    told = {"images": Path(images).name, "under": under}
    value = measurement.record(
        "stability",
        measurement.by_name(measured),
        where,
        protocol=PROTOCOL,
        counts={"pictures": len(seen)},
        features=measurement.with_ids(opened if flow is None else {**opened, "flow renderer": flow}),
        seed=seed,
        settings={**told, "fingerprint": source.fingerprint, "size": side, "read_as": source.read_as},
    )
    title = f"{len(seen)} pictures of {Path(images).name}{f':{under}' if under else ''} at {side} px"
    _print(measured, title)
    plot = partial(draw_stability, measured, title=title)
    measurement.keep(written, value, made_of=made_of, plot=plot, also=", and a plot")
    return value


def _tokenizer_of(flow: Any, modules: Mapping[str, Any]) -> str:
    """The name of the tokenizer whose codes a flow renderer reads; DigitError if it is not among them."""
    from digit.run.own_code import id_of
    from digit.weights.artifact import artifact_of

    made_with = artifact_of(flow)["lineage"].get("tokenizer")
    for name, module in modules.items():
        if id_of(module) == made_with:
            return name
    raise DigitError(
        f"--renderer-flow reads codes of the tokenizer {str(made_with)[:12]}, which is not among "
        "--tokenizers: give it too"
    )


def _size(modules: Mapping[str, Any], size: int | None) -> int:
    """The side in pixels at which pictures are disturbed; DigitError where a decoder makes others."""
    from digit.own_tokenizer import OwnTokenizer
    from digit.renderer_flow import FlowRenderer
    from digit.vqgan import VQGAN

    kinds = VQGAN, FlowRenderer
    sizes = {name: m.config.image_size for name, m in modules.items() if isinstance(m, kinds)}
    own = {name: m.size for name, m in modules.items() if isinstance(m, OwnTokenizer) and m.size}
    sizes |= {name: its for name, its in own.items() if hasattr(modules[name], "decode")}
    side = size or max(sizes.values(), default=max(own.values(), default=256))
    for name, its in sizes.items():
        if its != side:
            raise DigitError(
                f"the {name} is made for {its} px, the pictures have {side}: compare decoders of one size"
            )
    return side


def _print(measured: Mapping[str, Mapping[str, float]], caption: str) -> None:
    """Tables by SNR with the paper's rows, by other perturbations, and of what each tokenizer is."""
    from digit.evaluation.stability import CHANGE, FEATURES, NOISE, OTHERS, PAPER, SNRS, VECTORS

    def show(title: str, measure: str, chosen: Any, words: Sequence[str], paper: Mapping[str, Any]) -> None:
        names = [f"{measure}, {how.name}" for how in chosen]
        rows = {name: [values.get(each) for each in names] for name, values in measured.items()} | dict(paper)
        if any(number is not None for numbers in rows.values() for number in numbers):
            print_table(title, words, rows, dim=PAPER)

    for measure, better in {CHANGE: "lower", VECTORS: "higher", FEATURES: "higher"}.items():
        published = {name: given[measure] for name, given in PAPER.items() if measure in given}
        title = f"{measure} by SNR in dB ({better} is better), {caption}"
        show(title, measure, NOISE, [f"{snr:g}" for snr in SNRS], published)
    for kind in dict.fromkeys(how.kind for how in OTHERS):
        chosen = [how for how in OTHERS if how.kind == kind]
        show(f"{CHANGE}: {kind}", CHANGE, chosen, [how.name.removeprefix(kind).strip() for how in chosen], {})
    kept = ("PSNR", "sharpness", "codes", "usage", "entropy, bits")
    columns = ("PSNR, dB", "sharpness", "K", "used", "bits")
    rows = {name: [values.get(what) for what in kept] for name, values in measured.items()}
    print_table("the tokenizers on undisturbed pictures (-: no decoder)", columns, rows)
