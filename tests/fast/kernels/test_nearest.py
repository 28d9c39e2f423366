"""The fused nearest-centroid search: against float64, at odd sizes, with ties, overflow and bad luck."""

import pytest
import torch

from digit import kmeans
from digit.fast.kernels import open_rows
from digit.fast.kernels.nearest import Tiles, halve, scan
from digit.nn import nearest as module
from digit.nn.nearest import Halves, nearest, prepare, slack

SIZES = [
    (70, 40, 24, Tiles(32, 16, 16, 4, 2)),
    (33, 33, 40, Tiles(16, 32, 16, 4, 2, False)),
    (64, 16, 32, Tiles(32, 16, 16)),
    (5, 2, 8, Tiles(16, 16, 16)),
    (1, 300, 72, Tiles(16, 256, 64)),
]


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of the interpreter


@pytest.fixture
def kernels(monkeypatch):
    """The path of GPUs on this machine, by Triton's interpreter."""
    if not torch.cuda.is_available():
        for place in (module, kmeans):
            monkeypatch.setattr(place, "has_kernels", lambda device, width: width % 8 == 0)
    torch.manual_seed(0)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("count", "k", "width", "tiles"), SIZES)
@pytest.mark.parametrize("second", [True, False])
def test_best_two(kernels, count, k, width, tiles, second):
    vectors, centroids = (torch.randn(n, width, device=kernels).half() for n in (count, k))
    squares = centroids.float().square().sum(1)
    codes, best, other = scan(vectors, centroids, squares / 2, second=second, tiles=tiles)
    gains = vectors.float() @ centroids.float().T - squares / 2
    expected = gains.topk(2, dim=1).values
    torch.testing.assert_close(best, expected[:, 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gains.gather(1, codes.long()[:, None])[:, 0], best, rtol=1e-4, atol=1e-3)
    if second:
        torch.testing.assert_close(other, expected[:, 1], rtol=1e-4, atol=1e-3)


def test_halves(kernels):
    vectors = torch.randn(37, 40, device=kernels)
    values, lengths, losses = halve(vectors)
    assert torch.equal(values, vectors.half())
    torch.testing.assert_close(lengths, vectors.norm(dim=1))
    torch.testing.assert_close(losses, (vectors - vectors.half().float()).norm(dim=1))
    assert halve(vectors.bfloat16())[2].max() == 0


def assert_nearest(codes, vectors, centroids):
    """The codes are float64's but where float32 cannot tell: distances apart by a few of its last bits."""
    vectors, centroids = vectors.double(), centroids.double()
    chosen = (vectors - centroids[codes]).square().sum(1)
    best = torch.cdist(vectors, centroids, compute_mode="donot_use_mm_for_euclid_dist").square().min(1).values
    size = (vectors.norm(dim=1) + centroids.norm(dim=1).max()).square()
    assert ((chosen - best) / size).max() < 2 * torch.finfo(torch.float32).eps


def test_codes_are_exact_where_float16_errs(kernels):
    """Pairs of centroids much closer together than float16 resolves, and vectors near the middle of each."""
    width = 64
    ones = torch.randn(20, width, device=kernels)
    centroids = torch.cat([ones, ones + 1e-2 * torch.randn(20, width, device=kernels)])
    vectors = (ones + centroids[20:]).repeat(6, 1) / 2 + 5e-3 * torch.randn(120, width, device=kernels)
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    table = prepare(centroids)
    assert (nearest(vectors, table, precision="float16") != expected).float().mean() > 0.02
    codes, plain = nearest(vectors, table), module._plain(vectors, table, "float32")
    assert torch.equal(codes, expected)  # the centroids in question were compared in float64
    assert (plain == expected).float().mean() > 0.97
    assert_nearest(plain, vectors, centroids)


def test_the_bound_holds(kernels):
    """Never is a code taken as sure that float64 does not find, and most are taken as sure."""
    vectors, centroids = torch.randn(200, 64, device=kernels) * 3, torch.randn(150, 64, device=kernels) * 3
    table, halves = prepare(centroids), Halves(*halve(vectors))
    half_squares = table.squares / 2
    assert table.rounded is not None
    codes, best, second = scan(
        halves.values, table.rounded.values, half_squares, second=True, tiles=Tiles(64, 64, 32)
    )
    sure = best - second > slack(halves, best, second, table.squares, table.rounded)
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert sure.float().mean() > 0.9
    assert torch.equal(codes[sure].long(), expected[sure])
    worst = slack(halves, best, second, table.squares, table.rounded) / 2
    gains = vectors.double() @ centroids.double().T - half_squares.double()
    assert ((gains.max(1).values - best).abs() < worst).all()


def test_ties_go_to_the_lowest_index_and_overflow_is_done_again(kernels):
    centroids = torch.randn(12, 16, device=kernels)
    centroids[7] = centroids[2]
    vectors = torch.cat([centroids[[7, 2, 5]], 1e6 * centroids[[3, 4]]])
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert expected[:2].tolist() == [2, 2]
    for precision in ("float32", "float16"):
        assert torch.equal(nearest(vectors, prepare(centroids), precision=precision), expected)


def test_pieces_and_given_halves_change_nothing(kernels):
    vectors, centroids = torch.randn(50, 24, device=kernels), torch.randn(9, 24, device=kernels)
    table = prepare(centroids)
    whole = nearest(vectors, table)
    assert torch.equal(whole, nearest(vectors, table, chunk=17))
    assert torch.equal(whole, nearest(vectors, table, halves=Halves(*halve(vectors)), chunk=17))
    assert torch.equal(whole, nearest(vectors.T.contiguous().T, table))
    assert nearest(vectors[:0], table).shape == (0,)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_fit_is_that_of_the_plain_path(kernels, monkeypatch, precision):
    vectors = torch.randn(200, 16, device=kernels) * torch.linspace(0.3, 2, 16, device=kernels)
    fused = kmeans.fit(vectors, 12, iterations=3, precision=precision)
    again = kmeans.fit(vectors, 12, iterations=3, precision=precision, chunk=67)
    torch.testing.assert_close(again.centroids, fused.centroids, rtol=1e-6, atol=1e-6)
    for place in (module, kmeans):
        monkeypatch.setattr(place, "has_kernels", lambda device, width: False)
    plain = kmeans.fit(vectors, 12, iterations=3, precision=precision)
    torch.testing.assert_close(fused.centroids, plain.centroids, rtol=1e-5, atol=1e-5)
    assert fused.inertia == pytest.approx(plain.inertia, rel=1e-6)
    assert torch.equal(fused.counts, plain.counts)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_fit_that_settles_or_splits_is_that_of_the_plain_path(kernels, monkeypatch, precision):
    """The GPU has gone on by then, in vain."""
    groups = 4 * torch.randn(5, 16, device=kernels)
    vectors = groups.repeat(12, 1) + 0.1 * torch.randn(60, 16, device=kernels)
    start = torch.cat([groups[:3], groups[:3] + 50])  # three of six are nearest to nothing
    fused = kmeans.fit(vectors, 6, start=start, iterations=9, precision=precision)
    for place in (module, kmeans):
        monkeypatch.setattr(place, "has_kernels", lambda device, width: False)
    plain = kmeans.fit(vectors, 6, start=start, iterations=9, precision=precision)
    assert fused.iterations == plain.iterations < 9
    torch.testing.assert_close(fused.centroids, plain.centroids, rtol=1e-5, atol=1e-5)
    lengths = vectors.square().sum().item()  # of which the inertia is what is left
    assert fused.inertia == pytest.approx(plain.inertia, rel=0, abs=1e-7 * lengths)
    assert torch.equal(fused.counts, plain.counts) and fused.counts.min() > 0


def test_few_centroids_are_compared_one_by_one(kernels, monkeypatch):
    """Of the open rows only those are compared with all centroids that more than a few could win."""
    width = 64
    ones = torch.randn(20, width, device=kernels)
    pairs = torch.cat([ones, ones + 1e-2 * torch.randn(20, width, device=kernels)])
    crowd = 3 * torch.randn(1, width, device=kernels) + 1e-3 * torch.randn(30, width, device=kernels)
    centroids = torch.cat([pairs, crowd, pairs[:1]])  # the last ties with the first
    vectors = torch.cat([(ones + pairs[20:]) / 2, crowd[:6] + 1e-3, pairs[:1]])
    done = []
    whole = open_rows._search_all

    def counted(rows, number, codes, **how):
        done.append(int(number))
        whole(rows, number, codes, **how)

    monkeypatch.setattr(open_rows, "_search_all", counted)
    codes = nearest(vectors, prepare(centroids))
    assert done == [6]
    assert_nearest(codes, vectors, centroids)
    assert codes[-1] == 0


@pytest.mark.parametrize("programs", [1, 5, 1024])
def test_open_rows_are_decided_however_many_programs_there_are(kernels, monkeypatch, programs):
    """Rows of one candidate, several, too many, none and of no floor; the others stay as they are."""
    monkeypatch.setattr(open_rows, "_PROGRAMS", programs)
    vectors, centroids = torch.randn(140, 40, device=kernels), torch.randn(150, 40, device=kernels)
    centroids[149] = centroids[3]
    vectors[:8] = centroids[3] + 0.1 * vectors[:8]
    half_squares = centroids.square().sum(1) / 2
    distances = (vectors.double()[:, None] - centroids.double()).square().sum(2)
    gains = vectors @ centroids.T - half_squares
    reach = torch.arange(140, device=kernels) % 40  # how many centroids are above the floor
    floor = gains.sort(1, descending=True).values.gather(1, reach[:, None])[:, 0] - 2e-2
    floor[::13] = float("nan")
    floor[1::13] = 1e9
    floor[2::13] = -float("inf")
    opened = torch.arange(140, device=kernels) % 3 < 2
    codes = torch.full((140,), 77, device=kernels)
    how = {"vectors": vectors, "centroids": centroids, "half_squares": half_squares}
    open_rows.decide(opened, codes, halves=vectors.half(), rounded=centroids.half(), floor=floor, **how)
    decided = opened & (reach < 16) & (floor.abs() < 1e8)
    assert torch.equal(codes[decided], distances.argmin(1)[decided])
    assert decided[:8].any() and (codes[:8][decided[:8]] == 3).all()  # not 149
    assert_nearest(codes[opened], vectors[opened], centroids)
    assert (codes[~opened] == 77).all()


def test_all_centroids_are_searched_in_float32(kernels):
    """Many pieces; the sign of a distance, a number that is none, and rows that are not asked for."""
    vectors, centroids = torch.randn(70, 24, device=kernels), torch.randn(1100, 24, device=kernels)
    vectors[5] = -float("nan")
    vectors[6:40] *= 1e-3  # all distances are about |c|^2 / 2
    half_squares = centroids.square().sum(1) / 2
    opened = torch.arange(70, device=kernels) != 50
    codes = torch.full((70,), 77, device=kernels)
    open_rows.search(opened, codes, vectors=vectors, centroids=centroids, half_squares=half_squares)
    assert codes[5] == 0 and codes[50] == 77
    opened[5] = False
    assert_nearest(codes[opened], vectors[opened], centroids)
    assert (codes[opened] == (half_squares - vectors @ centroids.T).argmin(1)[opened]).float().mean() > 0.97
