"""K-means, the nearest of 8,192 centroids and the tokenizer: on the GPU what float64 and a CPU find."""

import pytest
import torch

import digit.fast
from digit import kmeans
from digit.fast.assigning import Halves, slack
from digit.fast.kernels import nearest as kernels
from digit.nn import forms
from digit.pipeline import DigitPipeline

VECTORS, CENTROIDS, WIDTH = 8192, 8192, 768
PICTURES = 16
SAMPLE = (20_000, 64, 100)  # vectors, their width and clusters of a fit
FLOAT32 = 2.0**-23


@pytest.fixture(scope="module")
def features(device):
    """Vectors that lean towards centroids, a twentieth of them too near to two for float16."""
    torch.manual_seed(1)
    centroids = torch.randn(CENTROIDS, WIDTH, device=device)
    own = torch.randint(CENTROIDS, (VECTORS,), device=device)
    vectors = 0.12 * centroids[own] + 0.7 * torch.randn(VECTORS, WIDTH, device=device)
    return vectors, centroids


def distances(vectors, centroids):
    """All squared distances, float64, and what rounding of float32 may make of them."""
    a, b = vectors.double(), centroids.double()
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    return squares, (a.norm(dim=1) + b.norm(dim=1).max()).square() * 2 * FLOAT32


def ties(codes, others, vectors, centroids):
    """Where two codes of a vector differ, they are equally near but for float32's rounding; the share."""
    differ = torch.nonzero(codes != others).flatten()
    if len(differ):
        squares, allowed = distances(vectors[differ], centroids)
        pairs = torch.stack([codes[differ], others[differ]], 1)
        gap = squares.gather(1, pairs).diff(dim=1).abs().flatten()
        assert (gap <= allowed).all(), f"{int((gap > allowed).sum())} codes are not the nearest"
    return len(differ) / len(codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_are_float64s_but_for_ties(features, dtype, record):
    vectors, centroids = features[0].to(dtype), features[1]
    squares = centroids.square().sum(1)
    codes = digit.fast.nearest(vectors, centroids, squares)
    assert codes is not NotImplemented, "this GPU has no tensor cores of the kind that the kernel needs"
    record("share of ties", ties(codes, distances(vectors, centroids)[0].argmin(1), vectors, centroids))
    with forms.plain():
        record(
            "share unlike the plain search",
            ties(codes, kmeans.assign(vectors, centroids), vectors, centroids),
        )


def test_what_is_taken_as_sure_is(features, record):
    """The two best gains lie within the bound, and no code taken as sure is another than float64's."""
    vectors, centroids = features
    lengths = centroids.square().sum(1)
    halves, rounded = (Halves(*kernels.halve(each)) for each in features)
    codes, best, second = kernels.scan(halves.values, rounded.values, lengths / 2)
    gap = slack(halves, rounded, lengths, best, second)
    gains = vectors.double() @ centroids.double().T - lengths.double() / 2
    two = gains.topk(2, dim=1)
    assert ((two.values[:, 0] - best).abs() < gap / 2).all()
    assert ((two.values[:, 1] - second).abs() < gap / 2).all()
    sure = best - second > gap
    record("share taken as sure", float(sure.double().mean()))
    assert sure.double().mean() > 0.9
    assert torch.equal(codes[sure].long(), two.indices[sure, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_halves(features, dtype, near):
    vectors = features[0].to(dtype)
    values, lengths, losses = kernels.halve(vectors)
    assert torch.equal(values, vectors.half())
    near("lengths", lengths, vectors.double().norm(dim=1))
    near("losses", losses, (vectors.double() - values.double()).norm(dim=1))


def test_a_fit_is_the_cpus(device):
    count, width, clusters = SAMPLE
    vectors = torch.randn(count, width) * torch.linspace(0.3, 2, width)
    with forms.plain():
        cpu = kmeans.fit(vectors, clusters, iterations=8)
    gpu = kmeans.fit(vectors, clusters, iterations=8, device=device)
    torch.testing.assert_close(gpu.centroids.cpu(), cpu.centroids, rtol=1e-4, atol=1e-5)
    assert gpu.inertia == pytest.approx(cpu.inertia, rel=1e-6) and gpu.iterations == cpu.iterations
    assert torch.equal(gpu.counts.cpu(), cpu.counts)


@pytest.fixture(scope="module")
def bundled():
    """The bundled model on the CPU, pictures of its own, and their features there."""
    pipeline = DigitPipeline.from_pretrained()
    assert pipeline.tokenizer is not None
    with forms.plain():
        drawn = pipeline(seeds=range(PICTURES), labels=[seed % 10 for seed in range(PICTURES)])
        pixels = drawn.pixels.float() / 255
        features = pipeline.tokenizer.features(pixels)
        codes = pipeline.tokenizer.nearest(features).flatten()
    return pipeline, drawn, pixels, features.flatten(0, 1), codes


def test_a_tokenizers_codes_are_the_cpus(bundled, device, record, monkeypatch):
    """In float32 all but those of features that lie between two centroids; in bfloat16 most."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pipeline, _, pixels, features, cpu = bundled
    tokenizer = pipeline.tokenizer.to(device)
    try:
        exact = tokenizer.encode(pixels.to(device)).flatten().cpu()
        with torch.autocast(device.type, torch.bfloat16):
            half = tokenizer.encode(pixels.to(device)).flatten().cpu()
    finally:
        tokenizer.cpu()
    differ = exact != cpu
    squares = distances(features[differ], tokenizer.centroids)[0]
    pairs = squares.gather(1, torch.stack([exact[differ], cpu[differ]], 1))
    assert differ.double().mean() < 0.005
    assert (pairs.diff(dim=1).abs() < 1e-3 * pairs).all()
    record("share of float32 codes unlike the CPU's", float(differ.double().mean()))
    record("share of bfloat16 codes unlike the CPU's", float((half != cpu).double().mean()))
    assert (half == cpu).double().mean() > 0.8


def test_a_vqgans_pixels_are_the_cpus(bundled, device, record, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pipeline, drawn, pixels, *_ = bundled
    vqgan = pipeline.vqgan.to(device)
    try:
        with torch.inference_mode():
            found = vqgan.decode(drawn.vq_codes.to(device)).clamp(0, 1).cpu()
    finally:
        vqgan.cpu()
    apart = float((found - pixels).abs().max())
    record("largest difference of a pixel, of 1", apart)
    assert apart < 0.5 / 255 + 1e-3  # the CPU's were rounded to bytes
