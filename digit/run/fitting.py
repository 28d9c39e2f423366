"""centroids -> a tokenizer's folder with its report: what `digit fit` does beside clustering."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from digit import kmeans
from digit.centroids import Plan
from digit.data.loader import Report, load_pixels
from digit.distributed import world_size
from digit.errors import DigitError
from digit.evaluation.codebook import codebook_report, nearest_patches
from digit.features import Encoder, EncoderConfig, encoder_config
from digit.files import atomic_file, check_writable, write_json_atomic
from digit.run.grid import grid
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import identity, load, save
from digit.weights.storage import to_dict

SEEN = 512  # pictures that the report is made of, at most
GIB = 2**30


def open_encoder(
    name: str, weights: Path | None, settings: dict[str, Any], *, block: int, norm: bool, random: bool
) -> tuple[Encoder, dict[str, str]]:
    """The encoder of a name, or of an artifact's folder with the id of the artifact as lineage.

    `random`: of a name only the shape; nothing is downloaded.

    Raises:
        DigitError: settings for an artifact, which has its own, or a name that nobody knows.
    """
    given = {setting: value for setting, value in settings.items() if value is not None}
    if not Path(name).is_dir():
        config = encoder_config(name, **{"block": block, "norm": norm, **given})
        return Encoder(config, weights=weights, pretrained=weights is None and not random), {}
    network: Any = load(name, kind="encoder")
    default = EncoderConfig("any", 1)
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


def made_of(plan: Plan, pictures: dict[str, Any], *, iterations: int) -> dict[str, Any]:
    """All that decides the tokenizer, where `pictures` is the identity of the set."""
    return {
        "images": pictures,
        "encoder": {**to_dict(plan.encoder.config), "weights": identity(plan.encoder)},
        "size": plan.side,
        "clusters": plan.clusters,
        "per_cluster": plan.per_cluster,
        "mirror": plan.mirror,
        "seed": plan.seed,
        "iterations": iterations,
    }


def dry_run_of(plan: Plan, out: Path, *, iterations: int) -> dict[str, Any]:
    """What would be read and held in memory; DigitError where `out` cannot be written."""
    check_writable(out)
    width = plan.encoder.width
    most = plan.clusters * plan.per_cluster
    kept = min(plan.vectors, most)
    return {
        "dry_run": True,
        "settings": {
            "encoder": to_dict(plan.encoder.config),
            "size": plan.side,
            "clusters": plan.clusters,
            "mirror": plan.mirror,
            "iterations": iterations,
            "seed": plan.seed,
        },
        "inputs": plan.source.counts(),
        "vectors": {"of_all_pictures": plan.vectors, "kept": kept, "width": width},
        "processes": world_size(),
        "memory_gib": {
            # Each process has room for the whole sample while it collects, and its share afterwards.
            "sample_of_each_process": most * width * 4 / GIB,
            "sample_in_k_means": kept * width * 4 / world_size() / GIB,
            "its_float16_form_on_a_gpu": kept * (2 * width + 12) / world_size() / GIB,
            "centroids_and_sums": plan.clusters * width * (4 + 8) / GIB,
        },
        "warnings": plan.warnings,
    }


@torch.inference_mode()
def write_tokenizer(
    plan: Plan, result: kmeans.KMeansResult, report: Report, out: Path, *, encoder: str
) -> dict[str, Any]:
    """Write the tokenizer, report.json, codebook.png, and skipped.json if pictures are broken; the report.

    `encoder` is its name as it was given.
    """
    config = plan.encoder.config
    tokenizer = Tokenizer(
        TokenizerConfig(encoder=config, codes=plan.clusters), encoder=plan.encoder, centroids=result.centroids
    ).eval()
    tokenizer.to(plan.encoder.device)
    shown = _some_pictures(plan)
    seen = nearest_patches(tokenizer, _in_batches(shown, plan.batch, tokenizer), seed=plan.seed)
    summary: dict[str, Any] = {
        "pictures": len(plan.source) - len(report.skipped),
        "skipped": len(report.skipped),
        "vectors": int(result.counts.sum()),
        "inertia": result.inertia[-1],
        "on_pictures": len(shown),
        "warnings": plan.warnings,
        "inputs": plan.source.counts(),
        **codebook_report(seen.all_codes.numpy(), plan.clusters),
    }
    identity = save(
        tokenizer,
        out,
        lineage=plan.lineage,
        extra={
            "size": plan.side,
            "encoder": config.name if plan.lineage else encoder,
            "source": plan.source.fingerprint,
        },
        classes=plan.source.classes,
    )
    counts = seen.all_codes.flatten().bincount(minlength=plan.clusters)
    with atomic_file(out / "codebook.png") as file:
        sheet = grid(
            seen.patches.flatten(0, 1),
            columns=seen.patches.shape[1],
            above=["nearest"],
            beside=[f"code {code} ({int(counts[code]):,} times)" for code in seen.codes],
        )
        sheet.save(file, "png")
    write_json_atomic(out / "report.json", {**summary, "inertia_by_iteration": result.inertia})
    if report.skipped:
        report.write(out / "skipped.json")
    return {"out": out, "tokenizer": out, "id": identity, **summary}


def _some_pictures(plan: Plan) -> UInt8[Tensor, "n 3 s s"]:
    """Pictures spread evenly over the source, without the broken ones."""
    index = np.linspace(0, len(plan.source) - 1, min(len(plan.source), SEEN)).astype(np.int64)
    return load_pixels(plan.source, index, plan.side, threads=plan.threads, report=Report())[1]


def _in_batches(pixels: UInt8[Tensor, "n 3 s s"], size: int, tokenizer: Tokenizer) -> Iterator[Tensor]:
    """Pixels in [0, 1] where the tokenizer is."""
    for part in pixels.split(size):
        yield part.to(tokenizer.centroids.device).float() / 255
