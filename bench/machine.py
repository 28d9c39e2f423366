"""What this machine can do at most, and how every bench times and writes: ceilings beside each value.

    python bench/machine.py [--device cuda] [--smoke]

Prints the rate of a large matrix product (bfloat16 on a GPU) and of a large copy (bytes read and written).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def ceilings(device: torch.device, *, side: int = 8192, megabytes: int = 4096) -> dict[str, float]:
    """`matmul_tflops` of a square product and `copy_tb_per_s`, on random data, as medians."""
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=half) for _ in range(2))
    product = median_seconds(lambda: a @ b, device, repeats=10)
    source = torch.randint(256, (megabytes << 20,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copied = median_seconds(lambda: target.copy_(source), device, repeats=10)
    return {
        "matmul_tflops": 2 * side**3 / product / 1e12,
        "copy_tb_per_s": 2 * source.numel() / copied / 1e12,
    }


def median_seconds(
    work: Callable[[], object], device: torch.device, *, repeats: int = 5, warm_up: int = 2
) -> float:
    """Seconds of one call; the device has finished before each reading of the clock."""
    for _ in range(warm_up):
        work()
    wait(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float | None:
    """The most GPU memory allocated since `torch.cuda.reset_peak_memory_stats`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def describe(device: torch.device) -> dict[str, Any]:
    """Whose figures these are: the first entries of every result."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    device = torch.device("cpu" if options.smoke else options.device)
    sizes = {"side": 256, "megabytes": 8} if options.smoke or device.type == "cpu" else {}
    print(json.dumps({**describe(device), **ceilings(device, **sizes)}, indent=2))


if __name__ == "__main__":
    main()
