"""`digit fit`: pictures -> features -> K-means centroids -> a tokenizer artifact with its codebook report."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from digit import kmeans
from digit.data.images import ImageSource, open_images
from digit.data.loader import Report, in_blocks, load_pixels, stream
from digit.distributed import by_main, is_main, main_first, rank, wait, world_size
from digit.errors import DigitError
from digit.evaluation.codebook import codebook_report, patch_picture
from digit.features import Encoder, EncoderConfig, encoder_config, reading
from digit.files import atomic_path, locked, make_folder, write_json_atomic
from digit.progress import progress, say
from digit.run.device import choose_device
from digit.run.dry_run_data import plan_codebook
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import load, save
from digit.weights.config import to_dict

BLOCK = 512  # pictures that one process reads in a row


@torch.inference_mode()
def fit(
    images: str,
    out: Path,
    *,
    encoder: str = "dinov2-b-reg",
    encoder_weights: Path | None = None,
    encoder_arguments: dict[str, int] = {},  # noqa: B006  (never written to)
    encoder_size: int | None = None,
    encoder_mean: tuple[float, float, float] | None = None,
    encoder_std: tuple[float, float, float] | None = None,
    block: int = -3,
    norm: bool = True,
    size: int | None = None,
    under: str | None = None,
    clusters: int = 8192,
    per_cluster: int = 256,
    iterations: int = 20,
    mirror: bool = True,
    seed: int = 0,
    batch: int = 64,
    threads: int | None = None,
    device: str | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Fit a discriminative tokenizer: K-means over a frozen encoder's features (section 3.2 of the paper).

    Memory holds one reservoir of clusters x per_cluster feature vectors and one batch, never all features. An
    interrupted fit reads the pictures again. Several processes read a share of them each; sample and starting
    centroids are those of one process.

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: the artifact to write: config.json, model.safetensors, report.json, codebook.png.
        encoder: dinov2-s|b|l, dinov2-s|b|l-reg, ibot-b, mocov3-b, mae-b, any timm ViT by name, or the
            folder of an encoder that `digit convert` made.
        encoder_weights: local safetensors of the encoder; without it timm fetches the published weights.
        encoder_arguments: timm arguments of a ViT of your own, as `patch_size 4 embed_dim 256 depth 9`.
        encoder_size: side in pixels at which the encoder sees a picture.
        encoder_mean: of the pixels the encoder was trained on, red, green, blue; what timm knows if left out.
        encoder_std: their standard deviation, likewise.
        block: whose output is read, from the end: -3 of 12 is the tenth block.
        norm: apply the encoder's final norm to it.
        size: side in pixels of the pictures before the encoder resizes them; the encoder's size if left out.
        under: only pictures below this folder of `images`, such as `train`.
        clusters: K, the number of codes.
        per_cluster: feature vectors kept for K-means, for each cluster.
        iterations: of Lloyd's algorithm.
        mirror: also see every picture mirrored.
        seed: of the sample and the starting centroids.
        batch: pictures at once.
        threads: that decode pictures; where left out one a processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
        dry_run: only open everything, print pictures, settings and the sample's size, and stop.
    """
    where = choose_device(device)
    source = open_images(images, under=under)
    with main_first():  # it may have to fetch the weights
        network, lineage = _encoder(
            encoder,
            encoder_weights,
            {
                "image_size": encoder_size,
                "mean": encoder_mean,
                "std": encoder_std,
                "arguments": dict(encoder_arguments) or None,
            },
            block=block,
            norm=norm,
            random=dry_run,
        )
    config = network.config
    network = network.to(where)
    read = reading(network)
    side = size or config.image_size
    vectors = len(source) * network.tokens * (1 + mirror)
    if clusters > vectors:
        raise DigitError(
            f"--clusters {clusters} is more than the {vectors} feature vectors of {images}: choose fewer "
            "clusters or more pictures"
        )
    if dry_run:
        settings = {"encoder": to_dict(config), "size": side, "clusters": clusters, "mirror": mirror}
        return plan_codebook(
            source,
            out,
            clusters=clusters,
            per_cluster=per_cluster,
            vectors_of_a_picture=network.tokens * (1 + mirror),
            width=network.width,
            settings=settings | {"iterations": iterations, "seed": seed},
        )
    make_folder(out)
    with by_main(locked(out, f"another process is fitting a tokenizer into {out}: wait, or choose --out")):
        report = Report()
        reservoir = kmeans.Reservoir(clusters * per_cluster, seed=seed)
        blocks = in_blocks(len(source), max(BLOCK // batch, 1) * batch)[rank() :: world_size()]
        pictures = stream(
            source,
            side,
            batch_size=batch,
            views=1 + mirror,
            seed=seed,
            blocks=blocks,
            threads=threads,
            report=report,
            strict=strict,
        )
        with progress("features", sum(map(len, blocks))) as advance:
            for index, pixels in pictures:
                features = read(pixels.to(where).flatten(0, 1)).float().unflatten(0, pixels.shape[:2])
                features = features.flatten(1, 2)  # of each picture: those of its views, one after another
                places = torch.from_numpy(index)[:, None] * features.shape[1] + torch.arange(
                    features.shape[1]
                )
                reservoir.add(features.flatten(0, 1), places.flatten())
                advance(len(index))
        report = report.over_processes(source.names)
        if report.skipped:
            say(report.summary())
        reservoir.over_processes()
        with progress("k-means", iterations) as advance:
            result = kmeans.fit(
                reservoir.vectors,
                clusters,
                iterations=iterations,
                seed=seed,
                places=reservoir.places,
                device=where,
                progress=lambda _: advance(1),
            )
        written: dict[str, Any] = {}
        if is_main():
            tokenizer = Tokenizer(TokenizerConfig(encoder=config, codes=clusters))
            tokenizer.encoder.load_state_dict(network.state_dict())
            tokenizer.centroids.copy_(result.centroids)
            tokenizer.to(where).eval()
            written = _write(
                tokenizer,
                out,
                source,
                result,
                report,
                lineage=lineage,
                extra={
                    "size": side,
                    "encoder": config.name if lineage else encoder,
                    "source": source.fingerprint,
                },
                batch=batch,
                threads=threads,
                seed=seed,
            )
        wait()
    return written


def _write(
    tokenizer: Tokenizer,
    out: Path,
    source: ImageSource,
    result: kmeans.KMeansResult,
    report: Report,
    *,
    lineage: dict[str, str],
    extra: dict[str, Any],
    batch: int,
    threads: int | None,
    seed: int,
) -> dict[str, Any]:
    """The artifact with its report, of the codes of some pictures."""
    where = tokenizer.centroids.device
    shown = _first_pictures(source, extra["size"], min(len(source), 512), threads)
    codes = torch.cat([tokenizer.encode(part.to(where)).cpu() for part in shown.split(batch)])
    summary: dict[str, Any] = {
        "pictures": len(source) - len(report.skipped),
        "skipped": len(report.skipped),
        "vectors": int(result.counts.sum()),
        "inertia": result.inertia[-1],
        "on_pictures": len(shown),
        **codebook_report(codes.numpy(), tokenizer.config.codes),
    }
    identity = save(tokenizer, out, lineage=lineage, extra=extra, classes=source.classes)
    with atomic_path(out / "codebook.png") as temporary:
        patch_picture(tokenizer, [part.to(where) for part in shown.split(batch)], seed=seed).save(
            temporary, "png"
        )
    write_json_atomic(out / "report.json", {**summary, "inertia_by_iteration": result.inertia})
    if report.skipped:
        report.write(out / "skipped.json")
    return {"tokenizer": out, "id": identity, **summary}


def _encoder(
    name: str, weights: Path | None, settings: dict[str, Any], *, block: int, norm: bool, random: bool
) -> tuple[Encoder, dict[str, str]]:
    """The encoder of a name, or of an artifact's folder with the id of the artifact as lineage.

    `random`: of a name only the shape; nothing is downloaded.
    """
    given = {setting: value for setting, value in settings.items() if value is not None}
    if not Path(name).is_dir():
        config = encoder_config(name, **{"block": block, "norm": norm, **given})
        return Encoder(config, weights=weights, pretrained=weights is None and not random), {}
    network: Any = load(name, kind="encoder")
    default = EncoderConfig("", 1)
    if given or weights is not None:
        raise DigitError(
            f"the encoder {name} has its own weights and settings: leave out the other --encoder options"
        )
    for option, mine, usual, its in (
        ("block", block, default.block, network.config.block),
        ("norm", norm, default.norm, network.config.norm),
    ):
        if mine not in (usual, its):
            raise DigitError(
                f"the encoder {name} was made for {option} {its}, not {mine}: convert its file again"
            )
    return network, {"encoder": network.artifact["id"]}


def _first_pictures(source: ImageSource, size: int, count: int, threads: int | None) -> torch.Tensor:
    """`count` pictures spread evenly over the source, for the report."""
    index = np.linspace(0, len(source) - 1, count).astype(np.int64)
    return load_pixels(source, index, size, threads=threads, report=Report())[1].float() / 255
