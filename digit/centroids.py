"""pictures -> centroids: a sample of an encoder's features, clustered (DiGIT, section 3.2)."""

from dataclasses import dataclass

import torch

from digit import kmeans
from digit.data.images import ImageSource
from digit.data.loader import Report, in_blocks, stream
from digit.distributed import rank, world_size
from digit.errors import DigitError, spoken
from digit.features import Encoder, reading
from digit.progress import progress, say

BLOCK = 512  # pictures that one process reads in a row
COSTLY = 10**13  # floating-point operations of an encoder for a picture: three hundred times DINOv2-B at 224
FEW = 39  # vectors a cluster below which faiss warns (Clustering.cpp, min_points_per_centroid)


@dataclass(frozen=True)
class Plan:
    """Which features are clustered, and how."""

    source: ImageSource
    encoder: Encoder
    lineage: dict[str, str]  # of the encoder, if it is an artifact
    side: int  # of the pictures, in pixels
    clusters: int
    per_cluster: int  # feature vectors kept for each
    mirror: bool
    seed: int
    batch: int
    threads: int | None
    strict: bool

    @property
    def vectors(self) -> int:
        """Feature vectors of all pictures, also of those that turn out broken."""
        return len(self.source) * self.encoder.tokens * (1 + self.mirror)

    @property
    def warnings(self) -> list[str]:
        """A sentence where clusters have few vectors each, so that many become codes that nothing uses, and
        one where a picture takes many times the work of a usual one."""
        found, each = [], min(self.vectors / self.clusters, self.per_cluster)
        if each < FEW:
            found.append(
                f"{each:.3g} feature vectors a cluster, fewer than {FEW}: give fewer --clusters, more "
                "pictures or a larger --per-cluster, else many codes stay unused"
            )
        cost, side = self.encoder.flops, self.encoder.config.image_size
        if cost > COSTLY:
            whole = cost * len(self.source) * (1 + self.mirror)
            found.append(
                f"{self.encoder.tokens:,} patches of a picture at {side} px cost the encoder "
                f"{cost / 1e12:.3g} TFLOP, all pictures {whole / 1e15:.3g} PFLOP, {whole / 3.6e17:.2g} hours "
                "at 100 TFLOP/s: a smaller --encoder-size takes less"
            )
        return [spoken(sentence) for sentence in found]

    def check(self) -> None:
        """DigitError for more clusters than feature vectors; a line for each warning."""
        if self.clusters > self.vectors:
            raise DigitError(
                f"--clusters {self.clusters} is more than the {self.vectors} feature vectors of "
                f"{self.source.path}: choose fewer clusters or more pictures"
            )
        for warning in self.warnings:
            say(f"digit: {warning}")


@torch.inference_mode()
def cluster(plan: Plan, *, iterations: int) -> tuple[kmeans.KMeansResult, Report]:
    """Read all pictures, keep a sample of their features, and cluster it; in all processes the same.

    Memory holds the sample and one batch. Raises DigitError where too few pictures can be read.
    """
    report, tokens = Report(), plan.encoder.tokens * (1 + plan.mirror)
    reservoir = kmeans.Reservoir(plan.clusters * plan.per_cluster, seed=plan.seed)
    read = reading(plan.encoder)
    where = plan.encoder.device
    blocks = in_blocks(len(plan.source), max(BLOCK // plan.batch, 1) * plan.batch)[rank() :: world_size()]
    pictures = stream(
        plan.source,
        plan.side,
        batch_size=plan.batch,
        views=1 + plan.mirror,
        seed=plan.seed,
        blocks=blocks,
        threads=plan.threads,
        report=report,
        strict=plan.strict,
    )
    with progress("features", sum(map(len, blocks))) as advance:
        for index, pixels in pictures:
            features = read(pixels.to(where).flatten(0, 1)).float()
            # Numbered by picture, of each picture those of its views one after another.
            places = torch.from_numpy(index)[:, None] * tokens + torch.arange(tokens)
            reservoir.add(features.flatten(0, 1), places.flatten())
            advance(len(index))
    report = report.over_processes(plan.source.names)
    if report.skipped:
        say(report.summary())
    reservoir.over_processes()
    with progress("k-means", iterations) as advance:
        result = kmeans.fit(
            reservoir.vectors,
            plan.clusters,
            iterations=iterations,
            seed=plan.seed,
            places=reservoir.places,
            device=where,
            progress=lambda _: advance(1),
        )
    return result, report
