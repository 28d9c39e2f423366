"""What this machine can do at most, and how every bench times and writes: ceilings beside each value.

    python bench/machine.py [--device cuda] [--smoke] [--out F]

Prints the rate of a large matrix product (bfloat16 on a GPU) and of a large copy (bytes read and written).
"""

import argparse
import datetime
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

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


def heading(measurement: str, device: torch.device) -> dict[str, Any]:
    """`describe`, with what was measured, by which command, at which commit and when.

    The command's folders are left out. In a copy without git, COMMIT in the environment names the commit.
    """
    root, script = Path(__file__).parents[1], Path(sys.argv[0]).resolve()
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=root, capture_output=True, text=True).stdout.strip()
    own = str(script.relative_to(root)) if script.is_relative_to(root) else script.name
    return {
        "measurement": measurement,
        "command": shlex.join(["python", own, *(Path(each).name for each in sys.argv[1:])]),
        "commit": os.environ.get("COMMIT") or commit or None,
        "date": datetime.date.today().isoformat(),
        **describe(device),
    }


def parser(description: str | None, *, seconds: float = 240) -> argparse.ArgumentParser:
    """The options that every bench has: --smoke, --device, --seconds and --out."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--smoke", action="store_true", help="small sizes on the CPU, to see that it runs")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--seconds", type=float, default=seconds, help="after these no part is begun any more")
    made.add_argument("--out", type=Path, help="JSON file for the result")
    return made


def device_of(given: argparse.Namespace) -> torch.device:
    """Where to measure: a smoke run stays on the CPU."""
    return torch.device("cpu" if given.smoke else given.device)


class Report:
    """A result that grows part by part: each is written once known; one that fails is noted, not fatal."""

    def __init__(
        self, device: torch.device, out: Path | None, *, seconds: float, smoke: bool = False
    ) -> None:
        """`out`: the JSON file; no part begins later than `seconds` from now. Measures the ceilings first."""
        self.device, self.out = device, out
        self.failed = 0
        self.end = time.monotonic() + seconds
        small = {"side": 256, "megabytes": 8} if smoke or device.type == "cpu" else {}
        self.content: dict[str, Any] = {**describe(device), "ceilings": ceilings(device, **small)}

    def __setitem__(self, key: str, value: Any) -> None:
        """Note something at the top."""
        self.content[key] = value

    def share(self, flops: float) -> dict[str, float]:
        """A rate in FLOP/s as a share of the matrix product measured here."""
        return {"share_of_matmul": flops / 1e12 / self.content["ceilings"]["matmul_tflops"]}

    def rate(
        self,
        section: str,
        name: str,
        build: Callable[[], Callable[[torch.Tensor], object]],
        given: torch.Tensor,
        flops: float,
    ) -> None:
        """Images a second of the way that `build` makes, on the images or codes `given`, `flops` an image."""

        def measure() -> dict[str, Any]:
            run = build()
            with torch.inference_mode():
                start = time.perf_counter()
                run(given)
                wait(self.device)
                first = time.perf_counter() - start
                seconds = median_seconds(lambda: run(given), self.device, repeats=7)
            rate = len(given) / seconds
            return {
                "images_per_s": rate,
                "ms": 1e3 * seconds,
                "batch": len(given),
                "first_call_s": first,
                "tflops": rate * flops / 1e12,
                **self.share(rate * flops),
            }

        self.part(section, name, measure)

    def part(self, section: str, name: str, measure: Callable[[], Any]) -> None:
        """Measure one part, with the peak of GPU memory where the result is a table."""
        rows = self.content.setdefault(section, {})
        if time.monotonic() > self.end:
            rows[name] = {"left_out": "no time left"}
            return
        begin = time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            rows[name] = measure()
            if isinstance(rows[name], dict) and self.device.type == "cuda":
                rows[name].setdefault("peak_gib", peak_gib(self.device))
        except Exception as error:  # compilers and other people's code raise whatever they like
            self.failed = 1
            rows[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        taken = time.monotonic() - begin
        print(
            f"{section} / {name} ({taken:.1f} s): {json.dumps(rows[name])[:300]}", file=sys.stderr, flush=True
        )
        self.write()

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Report":
        """As the options of `parser` say."""
        return cls(device_of(given), given.out, seconds=given.seconds, smoke=given.smoke)

    def finish(self) -> NoReturn:
        """Print all and leave: with 1 if a part failed."""
        print(json.dumps(self.content, indent=2))
        raise SystemExit(self.failed)

    def write(self) -> None:
        """Replace the file by what is known."""
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.out.with_name(f".{self.out.name}.part")
            temporary.write_text(json.dumps(self.content, indent=2) + "\n")
            temporary.replace(self.out)


def kernel_times(work: Callable[[], object], *, most: int = 12) -> list[dict[str, Any]]:
    """The GPU kernels that one call spends most time in, after a call to warm up."""
    work()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows)
    return [
        {
            "kernel": row.key[:100],
            "ms": row.self_device_time_total / 1e3,
            "share": row.self_device_time_total / max(total, 1e-9),
            "calls": row.count,
        }
        for row in rows[:most]
    ]


def main() -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args()
    device = device_of(given)
    sizes = {"side": 256, "megabytes": 8} if device.type == "cpu" else {}
    result = {**describe(device), **ceilings(device, **sizes)}
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
