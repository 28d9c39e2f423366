"""`digit tokenize`: pictures -> discriminative and/or VQ codes on disk, once, for every later training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from digit.bounds import Batch, Count, Depth, Seed
from digit.calls import checked
from digit.errors import DigitError, spoken
from digit.printing import put
from digit.run.options import Device, Folder, Name, Pictures, Pixels, Tokenizing
from digit.run.table import print_table, saved

if TYPE_CHECKING:
    import torch

    from digit.data.write_codes import CodeKind
    from digit.picture_tokenizer import PictureTokenizer


@checked
def tokenize(
    images: Pictures,
    out: Folder,
    *,
    tokenizer: Tokenizing | None = None,
    vqgan: Folder | None = None,
    under: Name | None = None,
    num: Count | None = None,
    size: Pixels | None = None,
    views: Depth = 2,
    seed: Seed = 0,
    batch: Batch | None = None,
    threads: Depth | None = None,
    device: Device | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write the codes of every picture: a uint16 memory map (images, views, codes) with labels and checksums.

    An interrupted run goes on when repeated, in any number of processes: each makes its share of the parts,
    and the codes are the same however many there are. Codes of two tokenizers are never mixed in one folder.

    Example: digit tokenize --images photos --tokenizer runs/tokenizer --vqgan runs/vqgan --out runs/codes

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: folder for the codes.
        tokenizer: artifact of `digit fit`, or code of your own as module:object or file.py:object
            (docs/own-parts.md): writes discriminative codes.
        vqgan: artifact of `digit train vqgan`: writes VQ codes, of the same pictures and views.
        under: only pictures below this folder of `images`, such as `train`.
        num: pictures at most, spread evenly over the set; all if left out.
        size: side in pixels of the pictures; the VQGAN's, or what the tokenizer was fitted on, if left out.
        views: 1 = centre crop, 2 = and its mirror, more = random crops too.
        seed: of the random crops.
        batch: pictures at once; 64 on a CPU and 256 on a GPU if left out.
        threads: that decode pictures; if left out one per processor, or processes if there are many.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        strict: stop at the first picture that is broken or lacks a class, instead of leaving it out.
        dry_run: only open everything, say what would be written, and stop.
    """
    if tokenizer is None and vqgan is None:
        raise DigitError("nothing to write: give --tokenizer, --vqgan, or both")
    from digit.data.write_codes import dry_run_of, write_codes
    from digit.distributed import is_main
    from digit.evaluation.codebook import codebook_report
    from digit.progress import progress, say
    from digit.run.claim import claim, nothing_left
    from digit.run.device import choose_device
    from digit.run.pictures import open_told

    out, where = Path(out), choose_device(device)
    kinds, lengths, side = open_kinds(tokenizer, vqgan, size=size, device=where)
    source = open_told(images, under=under, num=num, strict=strict)
    claimed = claim(out, "tokenize", {})  # what the codes are made of is their own plan's
    if dry_run:
        settings = {
            "tokenizer": tokenizer and str(tokenizer),
            "vqgan": vqgan,
            "size": side,
            "views": views,
            "seed": seed,
        }
        plan = dry_run_of(source, out, lengths, views=views)
        _tell_plan(plan, out)
        return {"dry_run": True, "settings": settings, **plan}
    with claimed.begun(), progress("tokenize", len(source)) as advance:
        codes, report = write_codes(
            source,
            out,
            kinds,
            size=side,
            views=views,
            seed=seed,
            batch_size=batch or (256 if where.type == "cuda" else 64),
            device=where,
            threads=threads,
            strict=strict,
            progress=advance,
        )
    if claimed.record is not None:
        nothing_left(out)
        return {**claimed.record, "out": out}
    if report.skipped:
        say(report.summary())
    if not is_main():
        return {}
    use = {
        name: codebook_report((block[:, 0] for block in codes.blocks(name)), codes.vocabulary(name))
        for name in kinds
    }
    rows = {
        name.replace("vq_", "VQ "): [
            lengths[name],
            row["codes"],
            f"{row['used']:,} ({row['usage']:.1%})",
            row["entropy_bits"],
            row["perplexity"],
        ]
        for name, row in use.items()
    }
    title = f"{len(codes):,} pictures at {side} px, {views} view{'s' * (views != 1)} of each"
    print_table(title, ["codes per picture", "codebook", "codes used", "entropy, bits", "perplexity"], rows)
    saved(out)
    counts = {"images": len(codes), "views": views, "skipped": len(report.skipped)}
    counts |= {"inputs": source.counts()}
    record = {"out": out, **counts, "classes": codes.classes, **use}
    claimed.finish(record, ["meta.json"])
    return record


def open_kinds(
    tokenizer: "Path | PictureTokenizer | None",
    vqgan: Path | None,
    *,
    size: int | None,
    device: "torch.device",
) -> tuple[dict[str, "CodeKind"], dict[str, int], int]:
    """What the artifacts write and its codes per picture, by the name of the array; the pictures' side.

    The side in pixels is `size`, or else the VQGAN's, or what the tokenizer was fitted on. Raises DigitError
    for a folder that is no such artifact, and for a tokenizer of somebody's own that cannot be used.
    """
    import torch

    from digit.data.write_codes import CodeKind
    from digit.progress import say
    from digit.run.own_code import open_own
    from digit.tokenizer import encoding
    from digit.vqgan import vq_encoding
    from digit.weights.artifact import artifact_of, load
    from digit.weights.model_folder import part_of

    kinds, lengths = {}, {}
    fitted: Any = None
    own = None if tokenizer is None else open_own(tokenizer, device)
    if own is not None:
        kinds["codes"], fitted = CodeKind(own.encode, own.vocabulary, own.id), own.size
    elif tokenizer is not None:
        module: Any = load(part_of(Path(str(tokenizer)), "tokenizer"), kind="tokenizer", device=device)
        artifact = artifact_of(module)
        kinds["codes"] = CodeKind(encoding(module), module.config.codes, artifact["id"])
        lengths["codes"] = module.length
        fitted = artifact["extra"].get("size", module.config.encoder.image_size)
    if vqgan is not None:
        module = load(part_of(vqgan, "vqgan"), kind="vqgan", device=device)
        kinds["vq_codes"] = CodeKind(vq_encoding(module), module.config.codes, artifact_of(module)["id"])
        lengths["vq_codes"], size = module.length, size or module.config.image_size
    side: int = size or fitted
    if own is not None:
        if side is None:
            raise DigitError(
                f"{own.name} does not say at which size it reads pictures: give --size or it a size"
            )
        lengths["codes"] = own.encode(torch.zeros(1, 3, side, side, device=device)).shape[1]
    if fitted not in (None, side):
        say(f"the tokenizer was fitted on pictures of {fitted} px, these are read at {side} px")
    return kinds, lengths, side


def _tell_plan(plan: dict[str, Any], out: Path) -> None:
    """What would be written, in a table."""
    disk = plan["disk"]
    rows: dict[str, list[str | float | int | None]] = {
        "pictures": [plan["inputs"]["pictures"]],
        "state": [plan["state"]],
        "parts of 512 pictures": [plan["parts"]],
        "processes": [plan["processes"]],
        **{f"{name.replace('vq_', 'VQ ')}, GiB": [size] for name, size in plan["codes_gib"].items()},
        "disk needed while parts are joined, GiB": [disk["most_gib"]],
        "disk free, GiB": [disk["free_gib"]],
    }
    print_table(f"dry run: codes of {plan['inputs']['path']} in {out}", ["value"], rows)
    if not disk["fits"]:
        put(spoken("the disk has too little room: make some or choose another --out"))
