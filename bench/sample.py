"""How long the bundled model takes on this machine: whole processes, from the command to the pictures.

    python bench/sample.py [--num 64] [--repeats 3] [--out bench/results/sample.json] [--smoke]

The autoregressive renderer beside the masked one, in the same run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from digit.files import write_json_atomic


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=64, help="pictures")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--smoke", action="store_true", help="two pictures, once")
    options = parser.parse_args()
    num, repeats = (2, 1) if options.smoke else (options.num, options.repeats)
    result = {
        "machine": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "pictures": num,
        "seconds": {},
    }
    for renderer in ("autoregressive", "masked"):
        times = [_seconds(num, renderer) for _ in range(repeats)]
        result["seconds"][renderer] = {"median": statistics.median(times), "all": times}
    print(json.dumps(result, indent=2))
    if options.out:
        write_json_atomic(options.out, result)


def _seconds(num: int, renderer: str) -> float:
    call = [sys.executable, "-c", "from digit.run.main import main; main()", "sample", "--num", str(num)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([*call, "--renderer", renderer, "--out", folder], check=True, capture_output=True)
        return time.perf_counter() - start


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
