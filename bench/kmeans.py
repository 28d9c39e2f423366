"""K-means: our fit against faiss and scikit-learn on the same features, starts and number of iterations.

python bench/kmeans.py [--smoke] [--vectors N] [--width D] [--codes K] [--iterations I] [--device D] [--out F]

Prints one JSON object: seconds and final inertia of each, and both over ours (above 1: ours is better).
faiss runs on the CPU, as in the published code; scikit-learn is left out above 10^12 multiply-adds.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from digit import kmeans


def synthetic(n: int, width: int, seed: int = 0) -> Tensor:
    """Vectors like a ViT's normed patch tokens: a few thousand overlapping groups in a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, width + 1).float() ** -0.5
    groups = torch.randn(2000, width, generator=generator)
    member = torch.randint(len(groups), (n,), generator=generator)
    return (groups[member] + torch.randn(n, width, generator=generator)) * scale


def inertia(vectors: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances to the nearest centroid, in float64, by one rule for all."""
    total = 0.0
    for part in vectors.split(4096):
        nearest = centroids[kmeans.assign(part, centroids)]
        total += (part.double() - nearest.double()).square().sum().item()
    return total


def timed(run: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """Seconds of one run, and its centroids on the CPU."""
    start = time.perf_counter()
    centroids = run().float()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, centroids.cpu()


def measure(n: int, width: int, codes: int, iterations: int, device: str) -> dict[str, object]:
    """Fit once with each and report."""
    vectors = synthetic(n, width)
    placed = vectors.to(device)
    start = vectors[torch.randperm(n, generator=torch.Generator().manual_seed(1))[:codes]]
    kmeans.fit(placed[: 4 * codes], codes, iterations=1)  # warm up

    def ours() -> Tensor:
        return kmeans.fit(placed, codes, iterations=iterations, start=start.to(device)).centroids

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
        seconds, centroids = timed(run, device if name == "digit" else "cpu")
        results[name] = {"seconds": seconds, "inertia": inertia(vectors, centroids)}
    base = results["digit"]
    ratios = {
        name: {key: result[key] / base[key] for key in ("seconds", "inertia")}
        for name, result in results.items()
        if name != "digit"
    }
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "vectors": n,
        "width": width,
        "codes": codes,
        "iterations": iterations,
        "device": gpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "results": results,
        "ratios": ratios,
    }


def main() -> None:
    """Parse the sizes, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a second of work, to see that it runs")
    parser.add_argument("--vectors", type=int, default=131_072)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sizes = (4096, 32, 32, 5) if given.smoke else (given.vectors, given.width, given.codes, given.iterations)
    text = json.dumps(measure(*sizes, device=given.device), indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
