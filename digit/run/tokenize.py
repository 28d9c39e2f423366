"""`digit tokenize`: pictures -> discriminative and/or VQ codes on disk, once, for every later training."""

from pathlib import Path
from typing import Any

import torch

from digit import tokenizer as tokenizers
from digit import vqgan as vqgans
from digit.data.images import open_images
from digit.data.write_codes import Stream, write_codes
from digit.distributed import is_main
from digit.errors import DigitError
from digit.evaluation.codebook import codebook_report
from digit.progress import progress, say
from digit.run.device import choose_device
from digit.run.dry_run_data import plan_codes
from digit.weights.artifact import artifact_of, load


@torch.inference_mode()
def tokenize(
    images: str,
    out: Path,
    *,
    tokenizer: Path | None = None,
    vqgan: Path | None = None,
    under: str | None = None,
    size: int | None = None,
    views: int = 2,
    seed: int = 0,
    batch: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write the codes of every picture: a uint16 memory map (images, views, codes) with labels and checksums.

    An interrupted run goes on when repeated, in any number of processes: each makes its share of the parts,
    and the codes are the same however many there are. Codes of two tokenizers are never mixed in one folder.

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: folder for the codes.
        tokenizer: artifact of `digit fit`: writes discriminative codes.
        vqgan: artifact of `digit train vqgan`: writes VQ codes, of the same pictures and views.
        under: only pictures below this folder of `images`, such as `train`.
        size: side in pixels of the pictures; the VQGAN's, or what the tokenizer was fitted on, if left out.
        views: 1 = centre crop, 2 = and its mirror, more = random crops too.
        seed: of the random crops.
        batch: pictures at once; 64 on a CPU and 256 on a GPU if left out.
        threads: that decode pictures; where left out one a processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
        dry_run: only open everything, print pictures, settings and the codes' size, and stop.
    """
    if tokenizer is None and vqgan is None:
        raise DigitError("nothing to write: give --tokenizer, --vqgan, or both")
    where = choose_device(device)
    streams: dict[str, Stream] = {}
    lengths: dict[str, int] = {}
    sides: dict[str, int] = {}
    if tokenizer is not None:
        module: Any = load(tokenizer, kind="tokenizer", device=where)
        there = artifact_of(module)
        streams["codes"] = Stream(tokenizers.encoding(module), module.config.codes, there["id"])
        sides["tokenizer"], lengths["codes"] = there["extra"]["size"], module.length
    if vqgan is not None:
        module = load(vqgan, kind="vqgan", device=where)
        streams["vq_codes"] = Stream(vqgans.encoding(module), module.config.codes, artifact_of(module)["id"])
        sides["vqgan"], lengths["vq_codes"] = module.config.image_size, module.length
    side = size or sides.get("vqgan") or sides["tokenizer"]
    if "tokenizer" in sides and sides["tokenizer"] != side:
        say(f"the tokenizer was fitted on pictures of {sides['tokenizer']} px, these are read at {side} px")
    source = open_images(images, under=under)
    if dry_run:
        settings = {"tokenizer": tokenizer, "vqgan": vqgan, "size": side, "views": views, "seed": seed}
        return plan_codes(source, out, lengths, views=views, settings=settings)
    with progress("tokenize", len(source)) as advance:
        codes, report = write_codes(
            source,
            out,
            streams,
            size=side,
            views=views,
            seed=seed,
            batch_size=batch or (256 if where.type == "cuda" else 64),
            device=where,
            threads=threads,
            strict=strict,
            progress=advance,
        )
    if report.skipped:
        say(report.summary())
    if not is_main():
        return {}
    return {
        "out": out,
        "images": len(codes),
        "views": views,
        "skipped": len(report.skipped),
        "classes": codes.classes,
        **{
            name: codebook_report((block[:, 0] for block in codes.blocks(name)), codes.vocabulary(name))
            for name in streams
        },
    }
