"""digit.kmeans: against faiss and scikit-learn, and the choices of both that we state."""

import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from digit import kmeans
from digit.errors import DigitError
from digit.kmeans import Reservoir, assign, fit
from digit.nn import nearest


def blobs(n: int = 4000, d: int = 12, centres: int = 40, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(centres, d, generator=generator) * 2
    return middles[torch.randint(centres, (n,), generator=generator)] + torch.randn(n, d, generator=generator)


def inertia(vectors: torch.Tensor, centroids: torch.Tensor) -> float:
    return torch.cdist(vectors.double(), centroids.double()).square().min(1).values.sum().item()


def test_same_start_gives_sklearns_centroids():
    vectors = blobs()
    start = vectors[:32]
    oracle = KMeans(32, init=start.numpy(), n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(
        vectors.numpy()
    )
    ours = fit(vectors, 32, start=start, iterations=20)
    assert ours.inertia[-1] == pytest.approx(oracle.inertia_, rel=1e-5)
    assert ours.inertia[-1] == pytest.approx(inertia(vectors, ours.centroids), rel=1e-5)


def test_inertia_is_that_of_faiss():
    vectors = blobs()
    theirs = faiss.Kmeans(12, 32, niter=20, max_points_per_centroid=10**6)
    theirs.train(vectors.numpy(), init_centroids=vectors[:32].numpy())
    same_start = fit(vectors, 32, start=vectors[:32])
    assert same_start.inertia[-1] == pytest.approx(
        inertia(vectors, torch.from_numpy(theirs.centroids)), rel=1e-4
    )

    # Where there are no clusters to miss, random starts of both end alike.
    vectors = torch.randn(8000, 12, generator=torch.Generator().manual_seed(5)) * torch.linspace(0.3, 2, 12)
    theirs.train(vectors.numpy())
    found = inertia(vectors, torch.from_numpy(theirs.centroids))
    assert fit(vectors, 32).inertia[-1] == pytest.approx(found, rel=5e-3)


def test_the_start_is_the_first_of_torchs_permutation():
    vectors = blobs(n=997)
    for k, seed in ((1, 0), (2, 7), (31, 3), (996, 11), (997, 12)):
        start = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[:k]]
        expected = fit(vectors, k, start=start, iterations=0).centroids
        assert torch.equal(fit(vectors, k, seed=seed, iterations=0).centroids, expected)


def test_inertia_falls_and_counts_are_the_final_codes():
    vectors = blobs()
    result = fit(vectors, 20, iterations=7)
    assert result.iterations == 7
    assert len(result.inertia) == 8
    assert all(later <= earlier for earlier, later in zip(result.inertia, result.inertia[1:], strict=False))
    assert torch.equal(result.counts, assign(vectors, result.centroids).bincount(minlength=20))


def test_stops_when_no_code_changes():
    calls = []
    result = fit(blobs(n=200), 3, iterations=100, progress=calls.append)
    assert result.iterations < 100
    assert calls == list(range(1, result.iterations + 1))


def test_empty_clusters_split_the_largest():
    vectors = torch.cat([blobs(n=1000, d=4), torch.full((1, 4), 100.0)])
    start = torch.cat([vectors[:1], vectors[-1:], torch.full((6, 4), -1000.0)])  # six that nothing is near to
    result = fit(vectors, 8, start=start, iterations=15)
    assert (result.counts > 0).all()
    assert result.inertia[-1] < 1.1 * fit(vectors, 8, iterations=15).inertia[-1]


def test_identical_vectors_do_not_hang():
    result = fit(torch.ones(10, 3), 4, iterations=5)
    assert result.inertia[-1] == pytest.approx(0, abs=1e-4)
    assert result.counts.sum() == 10


def test_pieces_change_nothing(monkeypatch):
    vectors = blobs(n=1000)
    whole = fit(vectors, 16, iterations=5)
    codes = [assign(vectors, whole.centroids, half=half) for half in (False, True)]
    for place in (kmeans, nearest):
        monkeypatch.setattr(place, "rows_at_once", lambda k, device: 97)
    pieces = fit(vectors, 16, iterations=5)
    torch.testing.assert_close(whole.centroids, pieces.centroids, rtol=1e-5, atol=1e-5)
    for half, expected in zip((False, True), codes, strict=True):
        assert torch.equal(assign(vectors, whole.centroids, half=half), expected)


def test_seed_decides():
    vectors = blobs(n=1000)
    assert torch.equal(fit(vectors, 8, seed=3).centroids, fit(vectors, 8, seed=3).centroids)
    assert not torch.equal(fit(vectors, 8, seed=3).centroids, fit(vectors, 8, seed=4).centroids)


def test_assign_is_the_float64_argmin():
    vectors, centroids = blobs(n=3000, d=24), blobs(n=50, d=24, seed=1)
    oracle = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert torch.equal(assign(vectors, centroids), oracle)
    assert torch.equal(assign(vectors.view(3, 10, 100, 24), centroids), oracle.view(3, 10, 100))
    assert assign(vectors[0], centroids).item() == oracle[0]
    assert assign(vectors[:0], centroids).shape == (0,)


def test_ties_go_to_the_lowest_index():
    centroids = torch.tensor([[2.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert assign(features, centroids).tolist() == [0, 0, 1, 0, 1]


def test_assign_is_exact_inside_autocast():
    vectors, centroids = blobs(n=500), blobs(n=64, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = assign(vectors, centroids)
    assert torch.equal(inside, assign(vectors, centroids))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assign(vectors, centroids)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bad_input_is_refused():
    with pytest.raises(DigitError, match="3 feature vectors cannot make 4 clusters"):
        fit(torch.zeros(3, 2), 4)
    for k in (0, -1):
        with pytest.raises(DigitError, match=f"^k: {k} is out of bounds"):
            fit(torch.zeros(3, 2), k)
    broken = torch.zeros(9, 2)
    broken[5] = torch.nan
    with pytest.raises(DigitError, match="not finite"):
        fit(broken, 2)
    with pytest.raises(DigitError, match="no features"):
        _ = Reservoir(4).vectors


def filled(pieces: list[int], capacity: int, seed: int = 0) -> torch.Tensor:
    stream = torch.arange(sum(pieces), dtype=torch.float32)[:, None].repeat(1, 70)
    reservoir = Reservoir(capacity, seed)
    for piece in stream.split(pieces):
        reservoir.add(piece)
    return reservoir.vectors


def test_reservoir_does_not_depend_on_the_pieces():
    whole = filled([1000], 100)
    assert torch.equal(whole, filled([1] * 30 + [70, 7, 393, 500], 100))
    assert torch.equal(whole, filled([99, 2, 899], 100))
    assert not torch.equal(whole, filled([1000], 100, seed=1))
    assert whole.shape == (100, 70)
    assert (whole[:, 0].diff() > 0).all()  # in the order of the stream, none twice
    assert (whole == whole[:, :1]).all()


def test_a_vector_is_drawn_by_its_place_not_by_when_it_comes():
    stream, places = torch.arange(900.0)[:, None], torch.arange(900) * 1_000_003
    samples = []
    for order in (torch.arange(900), torch.arange(900).flip(0), torch.arange(900).view(3, 300).T.flatten()):
        reservoir = Reservoir(50, 7)
        for piece in order.split(128):
            reservoir.add(stream[piece], places[piece])
        reservoir.over_processes()  # of one process: nothing changes
        samples.append(reservoir.vectors.clone())
        assert torch.equal(reservoir.places, 1_000_003 * samples[-1][:, 0].long())
    assert len(samples[0]) == 50
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])


def test_places_of_all_vectors_change_nothing():
    vectors = blobs(n=800)
    plain, placed = fit(vectors, 12), fit(vectors, 12, places=torch.arange(0, 8000, 10))
    assert torch.equal(plain.centroids, placed.centroids)
    assert plain.inertia == placed.inertia


def test_reservoir_holds_everything_until_it_is_full():
    assert torch.equal(filled([3, 4], 10)[:, 0], torch.arange(7.0))
    assert torch.equal(filled([3, 7], 10)[:, 0], torch.arange(10.0))
    reservoir = Reservoir(5)
    reservoir.add(torch.zeros(3, 2))
    assert len(reservoir) == 3
    reservoir.add(torch.zeros(9, 2))
    assert len(reservoir) == 5
    assert reservoir.seen == 12


def test_reservoir_goes_on_after_it_was_read():
    stream = torch.arange(500.0)[:, None]
    reservoir, other = Reservoir(20), Reservoir(20)
    for piece in stream.split(50):
        reservoir.add(piece)
        _ = reservoir.vectors
        other.add(piece)
    assert torch.equal(reservoir.vectors, other.vectors)


def test_reservoir_is_uniform():
    hits = np.zeros(60)
    for seed in range(600):
        hits[filled([25, 35], 20, seed)[:, 0].long().numpy()] += 1
    expected = 600 * 20 / 60
    # Chi-square of 59 degrees of freedom (scaled by 1 - 20/60, no replacement): mean plus 3.5 sigma is 97.
    assert ((hits - expected) ** 2 / (expected * (1 - 20 / 60))).sum() < 97


def test_half_distances_are_those_of_the_published_code():
    """|x|^2 of one to two thousand: float16 resolves it to 1 or 2, so near neighbours swap."""
    generator = torch.Generator().manual_seed(0)
    centroids = 1.3 * torch.randn(256, 768, generator=generator)
    features = centroids[torch.arange(512) % 256] + 1.3 * torch.randn(512, 768, generator=generator)
    features += 2 * centroids[torch.arange(512) * 7 % 256]  # between two centroids or more
    x, c = features.half(), centroids.half()
    expected = (x.square().sum(1, keepdim=True) - 2 * (x @ c.T) + centroids.square().sum(1).half()).argmin(1)
    half = assign(features, centroids, half=True)
    assert torch.equal(half, expected)
    halfway = (centroids[:128] + centroids[128:]) / 2  # as far from two centroids, but for rounding
    swapped = assign(halfway, centroids, half=True) != assign(halfway, centroids)
    assert swapped.sum() > 0


def test_norms_may_come_from_elsewhere():
    features, centroids = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.9, 0.0]])
    assert assign(features, centroids).item() == 0
    assert assign(features, centroids, squares=torch.tensor([9.0, 0.81])).item() == 1
