"""`digit fit`: pictures -> features -> K-means centroids -> a tokenizer with a report of its codebook."""

from pathlib import Path
from typing import Annotated, Any

from digit.bounds import Batch, Bounds, Codebook, Count, Depth, Positive, Seed, Share, Whole
from digit.calls import checked
from digit.run.options import Device, File, Folder, Name, Pictures, Pixels
from digit.run.table import print_table, saved


@checked
def fit(
    images: Pictures,
    out: Folder,
    *,
    encoder: Name = "dinov2-b-reg",
    encoder_weights: File | None = None,
    encoder_arguments: dict[str, Annotated[int, Bounds(0, 2**16)]] = {},  # noqa: B006  (never written to)
    encoder_size: Pixels | None = None,
    encoder_mean: tuple[Share, Share, Share] | None = None,
    encoder_std: tuple[Positive, Positive, Positive] | None = None,
    block: Annotated[int, Bounds(-1024, 1023)] = -3,
    norm: bool = True,
    size: Pixels | None = None,
    under: Name | None = None,
    num: Count | None = None,
    clusters: Codebook = 8192,
    per_cluster: Count = 256,
    iterations: Whole = 20,
    mirror: bool = True,
    seed: Seed = 0,
    batch: Batch = 64,
    threads: Depth | None = None,
    device: Device | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Fit a discriminative tokenizer: K-means over a frozen encoder's features (section 3.2 of the paper).

    Memory holds one sample of clusters x per_cluster feature vectors and one batch, never all features. An
    interrupted fit reads the pictures again, a finished one is left as it is. Several processes read a share
    of them each; sample and starting centroids are those of one process.

    Example: digit fit --images photos --clusters 1024 --out runs/tokenizer

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: the tokenizer's folder: config.json, model.safetensors, report.json, codebook.png.
        encoder: dinov2-s|b|l, dinov2-s|b|l-reg, dinov3-s|b|l, siglip2-b|l|so400m, clip-b|l, ibot-b, mocov3-b,
            mae-b, any network of timm by its name there, or the folder of an encoder of `digit convert`.
        encoder_weights: local safetensors of the encoder; without it timm fetches the published weights.
        encoder_arguments: timm arguments of a ViT of your own, as `patch_size 4 embed_dim 256 depth 9`.
        encoder_size: side in pixels at which the encoder sees a picture; 224 of most named above.
        encoder_mean: of the pixels the encoder was trained on, red, green, blue in [0, 1]; what timm knows if
            left out.
        encoder_std: their standard deviation, likewise.
        block: whose output is read, from the end: -3 of 12 is the tenth block; or which stage.
        norm: apply the encoder's final norm to it, where it has one there.
        size: side in pixels of the pictures before the encoder resizes them; the encoder's size if left out.
        under: only pictures below this folder of `images`, such as `train`.
        num: pictures at most, spread evenly over the set; all if left out.
        clusters: K, the number of codes.
        per_cluster: feature vectors kept for K-means, per cluster.
        iterations: of Lloyd's algorithm.
        mirror: also see every picture mirrored.
        seed: of the sample and the starting centroids.
        batch: pictures at once.
        threads: that decode pictures; if left out one per processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first picture that is broken or lacks a class, instead of leaving it out.
        dry_run: only open everything, say what would be done and what it takes, and stop.
    """
    from digit.centroids import Plan, cluster
    from digit.data.identity import of_images
    from digit.distributed import by_main, is_main, main_first, wait
    from digit.files import check_writable, make_folder
    from digit.locks import locked
    from digit.run.claim import claim, nothing_left
    from digit.run.device import choose_device
    from digit.run.fitting import dry_run_of, made_of, open_encoder, write_tokenizer
    from digit.run.pictures import open_told

    out, where = Path(out), choose_device(device, float64=True)
    check_writable(out)  # before weights are fetched
    source = open_told(images, under=under, num=num, strict=strict)
    given = {"image_size": encoder_size, "mean": encoder_mean, "std": encoder_std}
    given["arguments"] = dict(encoder_arguments) or None
    with main_first():  # it may have to fetch the weights
        network, lineage = open_encoder(
            encoder, encoder_weights, given, block=block, norm=norm, random=dry_run
        )
    plan = Plan(
        source,
        network.to(where),
        lineage,
        size or network.config.image_size,
        clusters=clusters,
        per_cluster=per_cluster,
        mirror=mirror,
        seed=seed,
        batch=batch,
        threads=threads,
        strict=strict,
    )
    plan.check()
    if dry_run:
        claim(out, "fit", {})
        return _tell_plan(dry_run_of(plan, out, iterations=iterations))
    make_folder(out)
    with by_main(locked(out, f"another process is fitting a tokenizer into {out}: wait, or choose --out")):
        claimed = claim(out, "fit", made_of(plan, of_images(source), iterations=iterations))
        if claimed.record is not None:
            nothing_left(out)
            return {**claimed.record, "out": out, "tokenizer": out}
        with claimed.begun():
            result, report = cluster(plan, iterations=iterations)
            written = write_tokenizer(plan, result, report, out, encoder=encoder) if is_main() else {}
        files = ("report.json", "codebook.png", *(["skipped.json"] if report.skipped else []))
        claimed.finish(written, ("config.json", "model.safetensors", *files))
        wait()
    if written:
        _tell(written)
        saved(out, *(out / name for name in files))
    return written


def _tell(report: dict[str, Any]) -> None:
    """The codebook in a table."""
    rows: dict[str, list[str | float | int | None]] = {
        "pictures read": [report["pictures"]],
        "broken pictures left out": [report["skipped"]],
        "feature vectors clustered": [report["vectors"]],
        "mean squared distance to the nearest centroid": [report["inertia"] / report["vectors"]],
    }
    seen = f"codes used by {report['on_pictures']:,} pictures"
    rows |= {
        seen: [f"{report['used']:,} of {report['codes']:,} ({report['usage']:.1%})"],
        "entropy of their use, bits": [report["entropy_bits"]],
        "perplexity: as many codes, evenly used": [report["perplexity"]],
    }
    print_table(f"tokenizer of {report['codes']:,} codes", ["value"], rows)


def _tell_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """What would be read and what it takes, in a table; the record as it is."""
    vectors = plan["vectors"]
    rows: dict[str, list[str | float | int | None]] = {
        "pictures": [plan["inputs"]["pictures"]],
        "feature vectors of all pictures": [vectors["of_all_pictures"]],
        f"of these kept for K-means, {vectors['width']} channels": [vectors["kept"]],
        "processes": [plan["processes"]],
        **{f"memory, GiB: {name.replace('_', ' ')}": [size] for name, size in plan["memory_gib"].items()},
    }
    print_table(
        f"dry run: {plan['settings']['clusters']:,} codes of {plan['inputs']['path']}", ["value"], rows
    )
    return plan
