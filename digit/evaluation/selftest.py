"""Checks of the measurements on this machine: closed forms, merging, and torch-fidelity where it is."""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from digit.evaluation.inception import Inception
from digit.evaluation.scores import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from digit.nn.backbone import timm

PARITY = 1e-3  # how far a value may be from torch-fidelity's


class Check(NamedTuple):
    """A check's error and what it may be at most; None where there is nothing to check against."""

    name: str
    error: float | None
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it held; a check that could not be made did not fail."""
        return self.error is None or self.error <= self.limit


def checks(device: str | torch.device = "cpu") -> Iterator[Check]:
    """Yield every check, made on `device`; without torch-fidelity those against it have no error."""
    draw = torch.Generator().manual_seed(0)
    yield from _closed_forms(draw, torch.device(device))
    yield from _fidelity(draw, torch.device(device))


def random_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Tensors as in the file of FID's InceptionV3, random, but so that features differ between pictures."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in Inception().layout().items():
        if name.endswith("conv.weight"):
            fan_in = shape[1] * shape[2] * shape[3]
            tensors[name] = torch.randn(shape, generator=draw) * (2 / fan_in) ** 0.5
        elif name.endswith("bn.bias") or name.endswith("running_mean"):
            tensors[name] = torch.randn(shape, generator=draw) * 0.1
        elif name.startswith("fc"):
            tensors[name] = torch.randn(shape, generator=draw) / shape[-1] ** 0.5
        else:
            tensors[name] = 0.5 + torch.rand(shape, generator=draw)
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return tensors


def smooth_pictures(n: int, size: int, *, seed: int = 0) -> Tensor:
    """Random coloured clouds, uint8 n 3 size size: unlike noise, their features differ."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=draw) * 1.4 - 0.2
    large = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return (large.clamp(0, 1) * 255).round().to(torch.uint8)


def _closed_forms(draw: torch.Generator, device: torch.device) -> Iterator[Check]:
    noise = torch.randn(3000, 16, generator=draw, dtype=torch.float64)
    # Whitened exactly, so that the moments below are exact too.
    noise = (noise - noise.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    scale, shift = torch.linspace(0, 2, 16).double(), torch.linspace(-1, 1, 16).double()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=draw, dtype=torch.float64))[0]
    a, b = noise @ turn, (noise * scale + shift) @ turn
    expected = float(shift.square().sum() + (1 - scale).square().sum())
    whole, other = _moments(a, device), _moments(b, device)
    found = frechet_distance(whole, other)
    yield Check("Fréchet distance of Gaussians, closed form", abs(found - expected), 1e-6)
    yield Check("Fréchet distance of a set to itself", frechet_distance(other, other), 1e-6)
    merged = _moments(a[:1234], device).merge(_moments(a[1234:], device))
    # Against a covariance that is not singular: the square root of an eigenvalue of 0 turns 1e-16 into 1e-8.
    regular = _moments(b + noise @ turn, device)
    found = frechet_distance(whole, regular)
    error = abs(frechet_distance(merged, regular) - found)
    yield Check("merged parts against the whole", error, 1e-9 * found)
    certain = torch.eye(10).repeat(30, 1).to(device)
    yield Check("inception score of certain guesses", abs(inception_score(certain, splits=1)[0] - 10), 1e-6)
    x, y = a[:40].to(device), b[:40].to(device)
    direct = (
        sum(_cubic(x[i], x[j]) + _cubic(y[i], y[j]) for i in range(40) for j in range(40) if i != j) / 1560
        - 2 * sum(_cubic(x[i], y[j]) for i in range(40) for j in range(40)) / 1600
    )
    found = kernel_distance(x, y, subsets=1, size=40)[0]
    yield Check("kernel distance, pair by pair", abs(found - direct), 1e-9)
    same, far = precision_recall(x, x.clone()), precision_recall(x, x + 1000)
    yield Check("precision and recall of equal and distant sets", abs(sum(same) - 2) + sum(far), 0)


def _fidelity(draw: torch.Generator, device: torch.device) -> Iterator[Check]:
    """Every metric on random features, and the network with random weights, beside torch-fidelity's own."""
    timm()  # lets torch-fidelity import torchvision
    try:
        part: Callable[[str], Any] = lambda name: importlib.import_module(f"torch_fidelity.{name}")  # noqa: E731
        fid, isc, kid, prc = part("metric_fid"), part("metric_isc"), part("metric_kid"), part("metric_prc")
        network = part("feature_extractor_inceptionv3")
    except ImportError:
        yield Check("torch-fidelity is not installed: its values", None, PARITY)
        return
    mix = torch.randn(32, 32, generator=draw) / 4
    a = torch.randn(1200, 32, generator=draw) @ mix
    b = torch.randn(1100, 32, generator=draw) @ mix * 1.1 + 0.1
    statistics = [fid.fid_features_to_statistics(features.double()) for features in (a, b)]
    theirs = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    ours = frechet_distance(_moments(a, device), _moments(b, device))
    yield Check("torch-fidelity: FID", abs(ours - theirs), PARITY)
    theirs = isc.isc_features_to_metric(a * 2)["inception_score_mean"]
    yield Check("torch-fidelity: inception score", _off(inception_score, theirs, (a * 2).softmax(1)), PARITY)
    theirs = kid.kid_features_to_metric(a, b, kid_subsets=5, verbose=False)["kernel_inception_distance_mean"]
    ours = kernel_distance(a.to(device), b.to(device), subsets=5)[0]
    yield Check("torch-fidelity: KID", abs(ours - theirs), PARITY)
    shares = prc.calculate_precision_recall_full(a, b, neighborhood=3)
    found = precision_recall(b.to(device), a.to(device))
    yield Check(
        "torch-fidelity: precision, recall",
        max(abs(x - y) for x, y in zip(shares, found, strict=True)),
        PARITY,
    )
    tensors, pictures = random_tensors(), smooth_pictures(3, 64)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(tensors, Path(folder) / "random.pth")
        extractor = network.FeatureExtractorInceptionV3(
            "random",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(Path(folder) / "random.pth"),
        )
    module = Inception()
    module.fill(tensors, where="random weights")
    with torch.inference_mode():
        pooled, _, logits = module.to(device)(pictures.to(device))
        for name, ours, theirs in zip(
            ("features", "logits"), (pooled, logits), extractor(pictures), strict=True
        ):
            error = float((ours.cpu() - theirs).abs().max() / theirs.abs().max())
            yield Check(f"torch-fidelity: InceptionV3's {name}, random weights", error, PARITY)


def _moments(features: Tensor, device: torch.device) -> Moments:
    moments = Moments(features.shape[1], device=device)
    moments.update(features)
    return moments


def _cubic(x: Tensor, y: Tensor) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def _off(score: Callable[[Tensor], tuple[float, float]], expected: float, guesses: Tensor) -> float:
    return abs(score(guesses)[0] - expected)
