"""What grows with the number of pictures: the order of training, checksums, and what pictures cost to decode.

    python bench/growth.py [--largest 100000000] [--out results/growth.json] [--smoke]

`order`: the first batch of an epoch over N pictures (digit/data/order.py makes the whole permutation),
in a fresh process for each N: seconds of processor time, and bytes of peak memory per picture beyond what the
process had before. `sha256`: gigabytes per second of one core. `decode`: pictures per second of one core,
from a JPEG of 500 x 375 to one and to four views of 256 x 256. Times are of the processor, not the clock:
others on the machine disturb little. Memory of the commands themselves: bench/memory.py.
"""

import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import parser
from memory import ROOT, megabytes, processor
from PIL import Image

from digit.data.decode import decode
from digit.data.order import order
from digit.data.transforms import render
from digit.files import sha256_file, write_json_atomic

BATCH = 2048


def order_of(pictures: int) -> dict[str, float]:
    """The first batch of an epoch, in this process."""
    before, begun = megabytes(), time.process_time()
    order(0, 0, min(BATCH, pictures), pictures)
    first = time.process_time() - begun
    begun = time.process_time()
    for step in range(1, 4):
        order(0, step, min(BATCH, pictures), pictures)
    return {
        "pictures": pictures,
        "seconds": first,
        "seconds_of_a_later_batch": (time.process_time() - begun) / 3,
        "bytes_a_picture": (megabytes() - before) * 1e6 / pictures,
    }


def order_in_fresh_processes(sizes: list[int]) -> list[dict[str, float]]:
    """The same for each size."""
    rows = []
    for size in sizes:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(size)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def sha256_rate(size: int) -> float:
    """Gigabytes (10^9) a second of a file that lies in memory."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(size))
        file.flush()
        sha256_file(file.name)
        begun = time.process_time()
        sha256_file(file.name)
        return size / 1e9 / (time.process_time() - begun)


def decode_rates(count: int) -> dict[str, float]:
    """Pictures a second of processor time: decoded, and with their views rendered."""
    random = np.random.default_rng(0)
    # Smooth noise: as many bytes as a photo has, about 110 kB.
    small = random.integers(0, 256, (94, 125, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
    noise = random.integers(-12, 13, (375, 500, 3))
    pixels = (np.asarray(picture).astype(int) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=90)
    data = buffer.getvalue()
    found = {"bytes": float(len(data))}
    for views in (1, 4):
        begun = time.process_time()
        for turn in range(count):
            image = decode(data)
            for view in range(views):
                render(image, 256, view=view, seed=0, name=str(turn))
        found[f"views_{views}"] = count / (time.process_time() - begun)
    return found


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--largest", type=int, default=100_000_000, help="number of pictures of `order`")
    options.add_argument("--child", type=int, help="this many pictures, in this process")
    given = options.parse_args()
    if given.child:
        print(json.dumps(order_of(given.child)))
        return
    sizes = [size for size in (10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8) if size <= given.largest]
    result: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "order": [order_of(1000)] if given.smoke else order_in_fresh_processes(sizes),
        "sha256_gb_per_second": sha256_rate(10**6 if given.smoke else 10**9),
        "decode_per_second": decode_rates(2 if given.smoke else 200),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        write_json_atomic(given.out, result)


if __name__ == "__main__":
    main()
