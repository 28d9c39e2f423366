"""The work of a fit: the sample of features, their clusters, and the report."""

import numpy as np
import pytest
import torch

from digit import centroids, kmeans
from digit.centroids import Plan, cluster
from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.run.fitting import open_encoder, write_tokenizer
from digit.weights.artifact import load


@pytest.fixture
def plan(chain):
    """A fit of eight codes on the tiny pictures, whose sample holds every feature."""
    network, lineage = open_encoder(
        chain.fitted["encoder"],
        chain.fitted["encoder_weights"],
        {"image_size": 16, "arguments": chain.fitted["encoder_arguments"]},
        block=-3,
        norm=True,
        random=False,
    )
    return Plan(
        open_images(chain.images), network, lineage, 16, clusters=8, per_cluster=400, mirror=True, seed=3,
        batch=7, threads=1, strict=False,
    )  # fmt: skip


def test_the_clusters_are_those_of_all_features(plan):
    result, report = cluster(plan, iterations=3)
    assert not report.skipped and int(result.counts.sum()) == plan.vectors == 48 * 16 * 2
    views = [load_pixels(plan.source, np.arange(48), 16, view=view)[1] for view in (0, 1)]
    with torch.no_grad():
        features = torch.stack([plan.encoder(pixels / 255) for pixels in views], 1).flatten(0, 2)
    expected = kmeans.fit(features, 8, iterations=3, seed=3, places=torch.arange(len(features)))
    torch.testing.assert_close(result.centroids, expected.centroids, rtol=1e-5, atol=1e-5)


def test_what_pictures_cost_the_encoder_is_said_where_it_is_much(plan, monkeypatch):
    assert plan.warnings == []
    monkeypatch.setattr(centroids, "COSTLY", plan.encoder.flops - 1)
    (told,) = plan.warnings
    whole = plan.encoder.flops * 48 * 2
    assert "16 patches of a picture at 16 px" in told and f"{whole / 1e15:.3g} PFLOP" in told


def test_the_report_is_of_the_codes_that_the_artifact_gives(plan, tmp_path):
    result, report = cluster(plan, iterations=2)
    written = write_tokenizer(plan, result, report, tmp_path, encoder="vit")
    pixels = load_pixels(plan.source, np.arange(48), 16)[1]
    codes = load(tmp_path, kind="tokenizer").encode(pixels / 255)
    assert written["used"] == len(codes.unique()) and written["on_pictures"] == 48
    share = codes.flatten().bincount(minlength=8) / codes.numel()
    assert written["entropy_bits"] == pytest.approx(
        -(share[share > 0] * share[share > 0].log2()).sum().item()
    )
