"""K-means: a Lloyd iteration against other code on a GPU; on a CPU whole fits beside faiss and scikit-learn.

    python bench/kmeans.py [--device D] [--smoke] [--seconds S] [--out F] [--vectors N] [--width D]
        [--codes K] [--iterations I]

On a GPU: the assignment of N half-precision vectors to K centroids by our kernel (several tile shapes), by
all of the exact search, by a matrix product in pieces with an argmin (eager and compiled), by float32
products and by flash-kmeans where it is installed; the sums of each code's vectors; one whole iteration;
codes that differ from float64's, and whether a repeated fit is equal. Rates are counted as 2 N K D
operations, whatever was done. On a CPU: seconds and final inertia of our fit and theirs from one start, and
both over ours (above 1: ours is better). Part by part the JSON is written to --out.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import Report, kernel_times, median_seconds, parser, peak_gib
from torch import Tensor

from digit import kmeans
from digit.fast import usable
from digit.nn.nearest import nearest


def synthetic(n: int, width: int, device: torch.device, seed: int = 0) -> Tensor:
    """Vectors like a ViT's normed patch tokens: a few thousand overlapping groups in a decaying spectrum."""
    generator = torch.Generator(device).manual_seed(seed)
    scale = torch.arange(1, width + 1, device=device).float() ** -0.5
    groups = torch.randn(2000, width, generator=generator, device=device)
    member = torch.randint(len(groups), (n,), generator=generator, device=device)
    vectors = torch.empty(n, width, device=device)
    for rows, which in zip(vectors.split(1 << 18), member.split(1 << 18), strict=True):
        rows.normal_(generator=generator)
        rows.add_(groups[which]).mul_(scale)
    return vectors


def exact_inertia(vectors: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances to the nearest centroid, in float64, by one rule for all."""
    total = 0.0
    for part in vectors.split(4096):
        near = centroids[kmeans.assign(part, centroids)]
        total += (part.double() - near.double()).square().sum().item()
    return total


def start_of(vectors: Tensor, k: int) -> Tensor:
    """k vectors drawn by a seed."""
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))[:k]
    return vectors[chosen.to(vectors.device)].float()


class Assignments:
    """Ways to find the nearest centroid of every vector, as calls without arguments."""

    def __init__(self, vectors: Tensor, centroids: Tensor) -> None:
        from digit.fast.assigning import Halves
        from digit.fast.kernels.nearest import halve

        self.vectors, self.centroids, self.squares = vectors, centroids, centroids.square().sum(1)
        self.halves, self.rounded = (Halves(*halve(each)) for each in (vectors, centroids))

    def kernel(self, **tiles: Any) -> Callable[[], Tensor]:
        """The fused kernel alone, on vectors that are float16 already."""
        from digit.fast.kernels.nearest import Tiles, scan

        shape = Tiles(**tiles)
        return lambda: scan(self.halves.values, self.rounded.values, self.squares / 2, tiles=shape)[0]

    def whole(self) -> Callable[[], Tensor]:
        """`nearest` as `fit` calls it, what float16 leaves open computed again in float32."""
        return lambda: nearest(self.vectors, self.centroids, self.squares)

    def pieces(self, rows: int, compiled: bool) -> Callable[[], Tensor]:
        """A product of `rows` vectors at once and an argmin, as anybody writes it."""
        vectors = self.vectors if self.vectors.dtype != torch.float32 else self.halves.values
        table, squares = self.centroids.to(vectors.dtype), self.squares

        def near(part: Tensor) -> Tensor:
            return (squares - 2 * (part @ table.T)).argmin(1)

        # Several shapes of one function: without this the compiler would take sizes as unknown.
        step = torch.compile(near, dynamic=False) if compiled else near
        return lambda: torch.cat([step(part) for part in vectors.split(rows)])

    def flash(self) -> Callable[[], Tensor]:
        """flash-kmeans's kernel."""
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton

        vectors = self.vectors if self.vectors.dtype != torch.float32 else self.halves.values
        x, c = vectors[None], self.centroids.to(vectors.dtype)[None]
        lengths = self.halves.lengths.square()[None]
        return lambda: euclid_assign_triton(x, c, lengths)[0]


TILES: dict[str, dict[str, Any]] = {
    "128x256": {},
    "128x256, 4 stages": {"stages": 4},
    "128x128, 4 warps": {"columns": 128, "warps": 4},
    "64x256, 4 warps": {"rows": 64, "warps": 4},
}


def gpu(report: Report, device: torch.device, n: int, width: int, k: int) -> None:
    """All parts on a GPU; with `smoke` those of them that a CPU can run."""
    vectors = synthetic(n, width, device).bfloat16()
    centroids = start_of(vectors, k)
    report["sizes"] = {"vectors": n, "width": width, "codes": k, "dtype": str(vectors.dtype)}
    flash = importlib.util.find_spec("flash_kmeans") is not None
    if usable(device):
        assignments(report, Assignments(vectors, centroids), flash)
    report.part("update_ms", "all", lambda: sums(vectors, k))
    report.part("iteration", "digit float32", lambda: iteration(vectors, centroids, k, report))
    if flash:
        report.part("iteration", "flash-kmeans", lambda: flash_iteration(vectors, centroids, k, report))
    report.part("precision", "repeated", lambda: repeated(vectors[: max(n // 4, k)], k))
    if device.type == "cuda":
        report.part(
            "profile",
            "fit of two iterations",
            lambda: kernel_times(lambda: kmeans.fit(vectors, k, start=centroids, iterations=2)),
        )


def assignments(report: Report, ways: Assignments, flash: bool) -> None:
    """Rates of all ways to assign, and how often each errs."""
    work = 2 * ways.vectors.numel() * len(ways.centroids)
    answers: dict[str, Tensor] = {}

    def rate(name: str, build: Callable[[], Callable[[], Tensor]]) -> None:
        def measure() -> dict[str, Any]:
            run = build()
            answers[name] = run()
            seconds = median_seconds(run, report.device, warm_up=1)
            return {"ms": 1e3 * seconds, "tflops": work / seconds / 1e12, **report.share(work / seconds)}

        report.part("assign", name, measure)

    for name, tiles in TILES.items():
        rate(f"digit with second, {name}", lambda tiles=tiles: ways.kernel(**tiles))
    rate("digit float32", ways.whole)
    rate("pieces, eager", lambda: ways.pieces(1 << 15, False))
    rate("pieces, compiled", lambda: ways.pieces(1 << 15, True))
    if flash:
        rate("flash-kmeans", ways.flash)
    report.part(
        "assign", "float32 products", lambda: plain_float32(ways.vectors, ways.centroids, report.device)
    )
    report.part("precision", "codes", lambda: differing(ways, answers))


def plain_float32(vectors: Tensor, centroids: Tensor, device: torch.device) -> dict[str, Any]:
    """Float32 products of an eighth of the vectors: what exact codes cost without a bound."""
    part = vectors[: len(vectors) // 8].float()
    squares = centroids.square().sum(1)

    def run() -> None:
        for rows in part.split(1 << 15):
            torch.addmm(squares, rows, centroids.T, alpha=-2).argmin(1)

    seconds = 8 * median_seconds(run, device, repeats=3, warm_up=1)
    work = 2 * len(vectors) * centroids.numel()
    return {"ms": 1e3 * seconds, "tflops": work / seconds / 1e12}


def differing(ways: Assignments, answers: dict[str, Tensor]) -> dict[str, Any]:
    """Share of codes that float64 does not give, on the first vectors, and of rows that were done again."""
    from digit.fast.assigning import Halves, slack
    from digit.fast.kernels.nearest import scan

    count = min(len(ways.vectors), 1 << 16)
    table = ways.centroids.double()
    lengths = table.square().sum(1)
    truth = torch.cat(
        [(lengths - 2 * part.double() @ table.T).argmin(1) for part in ways.vectors[:count].split(4096)]
    )
    shares = {name: (codes[:count].long() != truth).float().mean().item() for name, codes in answers.items()}
    halves = Halves(*(entry[:count] for entry in ways.halves))
    _, best, second = scan(halves.values, ways.rounded.values, ways.squares / 2)
    open_rows = best - second <= slack(halves, ways.rounded, ways.squares, best, second)
    return {"differ": shares, "rows_done_again": open_rows.float().mean().item(), "rows": count}


def sums(vectors: Tensor, k: int) -> dict[str, float]:
    """Milliseconds to add up the vectors of each code in float64; the codes are in no order."""
    codes = torch.randint(k, (len(vectors),), device=vectors.device)

    def add() -> Tensor:
        total = torch.zeros(k, vectors.shape[1], dtype=torch.float64, device=vectors.device)
        for part, its in zip(vectors.split(1 << 18), codes.split(1 << 18), strict=True):
            total.index_add_(0, its, part.double())
        return total

    return {"index_add_ float64": 1e3 * median_seconds(add, vectors.device)}


def iteration(vectors: Tensor, centroids: Tensor, k: int, report: Report) -> dict[str, Any]:
    """One iteration of `fit`: the difference of fits of two lengths, preparation and last codes left out."""

    def fitted(count: int) -> float:
        start = time.perf_counter()
        kmeans.fit(vectors, k, start=centroids, iterations=count)
        return time.perf_counter() - start

    fitted(1)
    if vectors.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    short, long = 1, 6
    few = min(fitted(short) for _ in range(2))
    many = min(fitted(long) for _ in range(2))
    seconds = (many - few) / (long - short)
    work = 2 * vectors.numel() * k
    return {
        "ms": 1e3 * seconds,
        "tflops": work / seconds / 1e12,
        **report.share(work / seconds),
        "fit_of_1_s": few,
        "peak_gib": peak_gib(vectors.device),
    }


def flash_iteration(vectors: Tensor, centroids: Tensor, k: int, report: Report) -> dict[str, Any]:
    """The same difference for flash-kmeans."""
    from flash_kmeans import batch_kmeans_Euclid

    x, start = vectors[None], centroids.to(vectors.dtype)[None]

    def fitted(count: int) -> None:
        batch_kmeans_Euclid(x, k, max_iters=count, tol=-1.0, init_centroids=start.clone())

    few = median_seconds(lambda: fitted(1), vectors.device, repeats=3, warm_up=1)
    torch.cuda.reset_peak_memory_stats()
    many = median_seconds(lambda: fitted(6), vectors.device, repeats=3, warm_up=0)
    seconds = (many - few) / 5
    work = 2 * vectors.numel() * k
    return {
        "ms": 1e3 * seconds,
        "tflops": work / seconds / 1e12,
        **report.share(work / seconds),
        "peak_gib": peak_gib(vectors.device),
    }


def repeated(vectors: Tensor, k: int) -> dict[str, Any]:
    """Whether two fits of float32 vectors give the same centroids, to the last bit."""
    vectors, start = vectors.float(), start_of(vectors, k)
    again, once = (kmeans.fit(vectors, k, start=start, iterations=5) for _ in range(2))
    return {
        "repeated_fit_is_equal": torch.equal(again.centroids, once.centroids),
        "inertia": once.inertia[-1],
        "vectors": len(vectors),
    }


def cpu(n: int, width: int, codes: int, iterations: int) -> dict[str, Any]:
    """Fit once with each and report."""
    import faiss
    from sklearn.cluster import KMeans

    vectors = synthetic(n, width, torch.device("cpu"))
    start = start_of(vectors, codes)
    kmeans.fit(vectors[: 4 * codes], codes, iterations=1)  # warm up

    def ours() -> Tensor:
        return kmeans.fit(vectors, codes, iterations=iterations, start=start).centroids

    def with_faiss() -> Tensor:
        oracle = faiss.Kmeans(width, codes, niter=iterations, max_points_per_centroid=n)
        oracle.train(vectors.numpy(), init_centroids=start.numpy())
        return torch.from_numpy(oracle.centroids)

    def with_sklearn() -> Tensor:
        oracle = KMeans(codes, init=start.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
        return torch.from_numpy(oracle.fit(vectors.numpy()).cluster_centers_)

    runs = {"digit": ours, "faiss": with_faiss, "sklearn": with_sklearn}
    if n * width * codes * iterations > 10**12:
        del runs["sklearn"]
    results = {}
    for name, run in runs.items():
        begin = time.perf_counter()
        centroids = run().float()
        results[name] = {
            "seconds": time.perf_counter() - begin,
            "inertia": exact_inertia(vectors, centroids),
        }
    base = results["digit"]
    return {
        "vectors": n,
        "width": width,
        "codes": codes,
        "iterations": iterations,
        "results": results,
        "ratios": {
            name: {key: result[key] / base[key] for key in ("seconds", "inertia")}
            for name, result in results.items()
            if name != "digit"
        },
    }


def main() -> None:
    """Parse the sizes, measure, print."""
    options = parser(__doc__)
    options.add_argument("--vectors", type=int)
    options.add_argument("--width", type=int)
    options.add_argument("--codes", type=int)
    options.add_argument("--iterations", type=int, default=20, help="of the fits on a CPU")
    given = options.parse_args()
    report = Report.of(given)
    device = report.device
    if given.smoke:
        report.part("cpu", "fits", lambda: cpu(4096, 32, 32, 5))
        gpu(report, device, 256, 32, 32)
    elif device.type == "cpu":
        sizes = given.vectors or 131_072, given.width or 384, given.codes or 512
        report.part("cpu", "fits", lambda: cpu(*sizes, given.iterations))
    else:
        sizes = given.vectors or 1 << 21, given.width or 768, given.codes or 8192
        gpu(report, device, *sizes)
    report.finish()


if __name__ == "__main__":
    main()
