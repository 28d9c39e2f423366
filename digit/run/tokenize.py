"""`digit tokenize`: pictures -> discriminative and/or VQ codes on disk, once, for every later training."""

from pathlib import Path
from typing import Any

from digit.errors import DigitError
from digit.run.options import Device, Folder, Name, Pictures, Pixels
from digit.run.table import print_table, saved


def tokenize(
    images: Pictures,
    out: Folder,
    *,
    tokenizer: Folder | None = None,
    vqgan: Folder | None = None,
    under: Name | None = None,
    num: int | None = None,
    size: Pixels | None = None,
    views: int = 2,
    seed: int = 0,
    batch: int | None = None,
    threads: int | None = None,
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
        tokenizer: artifact of `digit fit`: writes discriminative codes.
        vqgan: artifact of `digit train vqgan`: writes VQ codes, of the same pictures and views.
        under: only pictures below this folder of `images`, such as `train`.
        num: pictures at most, spread evenly over the set; all if left out.
        size: side in pixels of the pictures; the VQGAN's, or what the tokenizer was fitted on, if left out.
        views: 1 = centre crop, 2 = and its mirror, more = random crops too.
        seed: of the random crops.
        batch: pictures at once; 64 on a CPU and 256 on a GPU if left out.
        threads: that decode pictures; if left out one per processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
        dry_run: only open everything, say what would be written, and stop.
    """
    if tokenizer is None and vqgan is None:
        raise DigitError("nothing to write: give --tokenizer, --vqgan, or both")
    from digit.data.images import open_images
    from digit.data.write_codes import dry_run_of, write_codes
    from digit.distributed import is_main
    from digit.evaluation.codebook import codebook_report
    from digit.progress import progress, say
    from digit.run.device import choose_device
    from digit.run.streams import open_streams

    out, where = Path(out), choose_device(device)
    streams, lengths, side = open_streams(tokenizer, vqgan, size=size, device=where)
    source = open_images(images, under=under).spread(num)
    if dry_run:
        settings = {"tokenizer": tokenizer, "vqgan": vqgan, "size": side, "views": views, "seed": seed}
        plan = dry_run_of(source, out, lengths, views=views)
        return _tell_plan({"dry_run": True, "settings": settings, **plan}, out)
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
    use = {
        name: codebook_report((block[:, 0] for block in codes.blocks(name)), codes.vocabulary(name))
        for name in streams
    }
    _tell(use, lengths, f"{len(codes):,} pictures at {side} px, {views} view{'s' * (views != 1)} of each")
    saved(out)
    counts = {"images": len(codes), "views": views, "skipped": len(report.skipped)}
    return {"out": out, **counts, "classes": codes.classes, **use}


def _tell(use: dict[str, dict[str, int | float]], lengths: dict[str, int], title: str) -> None:
    """How the codes of the first view use their codebooks."""
    print_table(
        title,
        ["codes per picture", "codebook", "codes used", "entropy, bits", "perplexity"],
        {
            {"codes": "codes", "vq_codes": "VQ codes"}[name]: [
                lengths[name],
                row["codes"],
                f"{row['used']:,} ({row['usage']:.1%})",
                row["entropy_bits"],
                row["perplexity"],
            ]
            for name, row in use.items()
        },
    )


def _tell_plan(plan: dict[str, Any], out: Path) -> dict[str, Any]:
    """What would be written, in a table; the record as it is."""
    disk = plan["disk"]
    sizes = {f"{name.replace('vq_', 'VQ ')}, GiB": [size] for name, size in plan["codes_gib"].items()}
    rows: dict[str, list[str | float | int | None]] = {
        "pictures": [plan["inputs"]["pictures"]],
        "state": [plan["state"]],
        "parts of 512 pictures": [plan["parts"]],
        "processes": [plan["processes"]],
        **sizes,
        "disk needed while parts are joined, GiB": [disk["most_gib"]],
        "disk free, GiB": [disk["free_gib"]],
    }
    print_table(f"dry run: codes of {plan['inputs']['path']} in {out}", ["value"], rows)
    if not disk["fits"]:
        print("the disk has too little room: make some or choose another --out")
    return plan
