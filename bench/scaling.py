"""What N GPUs of one host are worth: the same work by one process and by N, in the same call.

    python bench/scaling.py [--processes 2] [--parts train_219M ...] [--out F] [--seconds S] [--smoke]

Parts: train_219M and train_732M (updates of the recipes' global batch of 2,048, compiled), sample (codes of
the base prior, top-k 200), tokenize (pictures in memory -> codes by DINOv2 ViT-B/14, K = 8192; JPEG decoding
is left out, which takes processor cores) and kmeans (Lloyd iterations over 2,097,152 vectors). The work is
the same, not N times as much: `ratio` is the time of one over the time of N, and `efficiency` ratio / N. The
goal is a ratio of 1.9 for two. `agrees` says that N processes gave what one gives: losses to 1e-3, inertia to
1e-6, codes to the last one. Beside K-means stand the seconds to its first update, from each
to the next and after the last.

The script starts the processes itself, by torchrun's agent; on more hosts than one run it by torchrun's own
options around `--child PART`. --smoke and machines without a GPU take small shapes on CPUs, one thread each;
such ratios say that the parts run and agree, and little about GPUs.

`traffic` is what one update sends: every process sends and receives 2 (N - 1) / N of the gradients' bytes,
once an update whatever the number of micro-batches; `seconds_by_nvlink` divides it by 450 GB/s, one direction
of the H100's NVLink by its data sheet.
"""

import argparse
import faulthandler
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import describe, parser, peak_gib, wait
from memory import ROOT
from torch import Tensor

from digit import kmeans
from digit.distributed import gather, gather_rows, is_main, joined, leave, rank, share, world_size
from digit.distributed import wait as wait_for_all
from digit.features import EncoderConfig
from digit.files import read_json, write_json_atomic
from digit.nn.batch import CodeBatch
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior
from digit.run.device import choose_device
from digit.run.processes import run_together
from digit.run.recipes import RECIPES
from digit.tokenizer import Tokenizer, TokenizerConfig, encoding
from digit.training.update import Updater

NVLINK = 450e9  # bytes per second in one direction
GOAL = 1.9  # for two
HANGS = 240  # seconds after which a process on a GPU says where it stands, and ends: the other parts go on


@dataclass(frozen=True)
class Sizes:
    """How much work a part is."""

    small: bool  # tiny shapes
    batch: int = 2048  # samples of an update, of all processes
    updates: int = 4
    images: int = 2048  # drawn
    drawn_at_once: int = 1024
    pictures: int = 16_384  # tokenised
    vectors: int = 2_097_152
    codes: int = 8192
    iterations: int = 20  # as `digit fit` unless told otherwise

    def model(self, name: str) -> Any:
        """A recipe's prior, or a tiny one."""
        shape: Any = RECIPES[name].model
        if self.small:
            shape = replace(shape, codes=80, length=16, width=32, layers=2, heads=2)
        return shape


SIZES = {
    "gpu": Sizes(small=False),
    "cpu": Sizes(True, 256, 8, 512, 128, 512, 65_536, 64, 10),
    "smoke": Sizes(True, 8, 1, 4, 2, 4, 64, 4, 2),
}


class Clock:
    """Seconds between two moments at which all processes have done what they were given."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, work: Callable[[], object]) -> float:
        """Time `work`."""
        self._meet()
        begun = time.perf_counter()
        work()
        self._meet()
        return time.perf_counter() - begun

    def _meet(self) -> None:
        wait(self.device)
        wait_for_all()


def train(name: str, micro: int) -> Callable[[Sizes, torch.device, Clock], dict[str, Any]]:
    """Updates of a recipe."""

    def measure(sizes: Sizes, device: torch.device, clock: Clock) -> dict[str, Any]:
        shape, recipe = sizes.model(name), RECIPES[name]
        micro_batch = min(micro, sizes.batch // 8)  # as large in 8 processes as in one, for the same masks
        config = replace(recipe.training, batch=sizes.batch, micro_batch=micro_batch, steps=10**6)
        torch.manual_seed(1)
        with device:
            stage = Prior(shape)
        updater = Updater(stage, config, device)
        random = torch.Generator().manual_seed(2)
        codes = torch.randint(shape.codes, (sizes.batch, shape.length), generator=random)
        here = codes[share(sizes.batch)].to(device)
        labels = None if not shape.classes else here[:, 0] % shape.classes

        def update() -> None:
            updater.update(CodeBatch(here, labels))

        with ExitStack() as until:
            updater.accelerate(until)
            for _ in range(1 if sizes.small else 3):
                update()
            seconds = clock(lambda: [update() for _ in range(sizes.updates)]) / sizes.updates
        updater.read_losses("random codes")
        parameters = sum(p.numel() for p in stage.parameters())
        traffic = 2 * (world_size() - 1) / world_size() * 4 * parameters
        return {
            "seconds": seconds,
            "tokens_per_second": sizes.batch * shape.length / seconds,
            "parameters": parameters,
            "traffic_bytes": traffic,
            "seconds_by_nvlink": traffic / NVLINK,
            "result": updater.losses[-1],
        }

    return measure


def sample(sizes: Sizes, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Codes of pictures, seed by seed, by the base prior."""
    shape = sizes.model("base")
    torch.manual_seed(1)
    with device:
        prior = Prior(shape).eval()
    seeds = range(sizes.images)[share(sizes.images)]
    config = SamplerConfig(top_k=min(200, shape.codes))

    def draw(batch: int) -> Tensor:
        return prior.sample(seeds[: batch or None], config=config, batch_size=sizes.drawn_at_once)

    draw(min(sizes.drawn_at_once, len(seeds)))  # kernels and graphs
    found: list[Tensor] = []
    seconds = clock(lambda: found.append(draw(0)))
    return {
        "seconds": seconds,
        "images_per_second": sizes.images / seconds,
        "result": _digest(found[0]),
    }


def tokenize(sizes: Sizes, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Pictures from memory to codes in memory."""
    name, side = ("vit_tiny_patch16_224", 32) if sizes.small else ("vit_base_patch14_reg4_dinov2", 224)
    torch.manual_seed(1)
    config = TokenizerConfig(EncoderConfig(name, image_size=side), codes=sizes.codes)
    tokenizer = Tokenizer(config)
    tokenizer.centroids.normal_()
    encode = encoding(tokenizer.to(device).eval())
    part = 512 if not sizes.small else 16
    random = torch.Generator().manual_seed(2)
    some = torch.randint(256, (part, 3, side, side), generator=random, dtype=torch.uint8)
    if device.type == "cuda":
        some = some.pin_memory()
    mine = range(*share(sizes.pictures).indices(sizes.pictures))

    def all_of_them() -> list[Tensor]:
        found = []
        for first in range(mine.start, mine.stop, part):
            pictures = some[first % part :][: min(part, mine.stop - first)]
            found.append(encode(pictures.to(device, non_blocking=True)).short().cpu())
        return found

    encode(some.to(device))
    found: list[Tensor] = []
    seconds = clock(lambda: found.extend(all_of_them()))
    return {
        "seconds": seconds,
        "images_per_second": sizes.pictures / seconds,
        "result": _digest(torch.cat(found)),
    }


def cluster(sizes: Sizes, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Lloyd's iterations over vectors of which each process has its part."""
    width = 32 if sizes.small else 768
    piece = sizes.vectors // 32
    mine = range(32)[share(32)] if sizes.vectors >= 32 else range(1)
    # A piece is made from its own number, so that the vectors are the same however many processes there are.
    made = []
    for number in mine:
        random = torch.Generator(device).manual_seed(number)
        made.append(torch.randn(piece, width, generator=random, device=device))
    vectors, places = torch.cat(made), torch.arange(mine[0] * piece, (mine[-1] + 1) * piece)
    options = {"iterations": sizes.iterations, "places": places, "device": device}
    kmeans.fit(vectors, sizes.codes, **options)  # later iterations load kernels that the first does not
    found: list[Any] = []
    marks: list[float] = []

    def mark(_: int = 0) -> None:
        marks.append(time.perf_counter())

    def fitted() -> None:
        mark()
        found.append(kmeans.fit(vectors, sizes.codes, progress=mark, **options))
        mark()

    seconds = clock(fitted)
    first, *between, last = [later - earlier for earlier, later in pairwise(marks)]
    return {
        "seconds": seconds / found[0].iterations,
        "to_first_update": first,
        "between_updates": between,
        "after_last_update": last,
        "iterations": found[0].iterations,
        "result": found[0].inertia[-1],
    }


PARTS: dict[str, Callable[[Sizes, torch.device, Clock], dict[str, Any]]] = {
    "train_219M": train("base", 256),
    "train_732M": train("large_cond", 128),
    "sample": sample,
    "tokenize": tokenize,
    "kmeans": cluster,
}


def _digest(codes: Tensor) -> str:
    """The sha256 of all processes' codes, in their order."""
    everything = torch.cat(gather_rows(codes.cpu().to(torch.int64)))
    return hashlib.sha256(everything.numpy().tobytes()).hexdigest()


def measure(parts: list[str], sizes: Sizes, device: torch.device, out: Path) -> None:
    """What each process does: the parts, one after the other; the main process writes."""
    found = {}
    for part in parts:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        found[part] = PARTS[part](sizes, device, Clock(device))
        peaks = gather(peak_gib(device))
        found[part] |= {"processes": world_size()} | ({} if peaks[0] is None else {"peak_gib": max(peaks)})
    if is_main():
        write_json_atomic(out, found)


def launch(parts: list[str], processes: int, kind: str) -> dict[str, Any]:
    """Run `parts` in processes of their own; their rows, or the error in each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        if processes == 1 and kind == "smoke":  # a process less to start
            measure(parts, SIZES[kind], torch.device("cpu"), out)
            return read_json(out)
        command = [str(Path(__file__).resolve()), "--child", *parts, "--kind", kind, "--out", str(out)]
        if processes > 1:
            code = run_together(command, processes, program=())
        else:
            code = subprocess.run([sys.executable, *command], check=False).returncode
        if code or not out.exists():
            return {part: {"error": f"ended with code {code}", "processes": processes} for part in parts}
        return read_json(out)


def compare(one: dict[str, Any], several: dict[str, Any]) -> dict[str, Any]:
    """The ratio of one process's time to that of several, and whether they found the same."""
    row: dict[str, Any] = {"one": one, "several": several}
    if "error" in one or "error" in several:
        return row
    ratio = one["seconds"] / several["seconds"]
    first, second = one["result"], several["result"]
    if isinstance(first, str):
        same = first == second
    else:
        same = abs(first - second) <= (1e-6 if "iterations" in one else 1e-3) * abs(first)
    return row | {"ratio": ratio, "efficiency": ratio / several["processes"], "agrees": same}


def child(given: argparse.Namespace) -> None:
    """One of the processes."""
    sizes = SIZES[given.kind]
    if given.kind == "gpu":
        faulthandler.dump_traceback_later(HANGS, exit=True)
    with joined():
        device = choose_device(None if given.kind == "gpu" else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        torch.set_float32_matmul_precision("high")
        if rank() == 0:
            print(f"{world_size()} processes, {', '.join(given.child)}", file=sys.stderr, flush=True)
        measure(given.child, sizes, device, given.out)
    leave()


def main() -> None:
    """Run every part in one process and in N, print and write after each."""
    options = parser(__doc__, seconds=540)
    options.add_argument("--processes", type=int, help="all GPUs if left out, or two on a CPU")
    options.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options.add_argument("--repeats", type=int, default=1, help="times in turn; the median ratio counts")
    options.add_argument("--child", nargs="+", choices=list(PARTS), help=argparse.SUPPRESS)
    options.add_argument("--kind", choices=list(SIZES), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        child(given)
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    gpus = 0 if given.smoke or given.device == "cpu" else torch.cuda.device_count()
    processes = given.processes or max(2, gpus)
    if gpus and gpus < processes:
        sys.exit(f"there are {gpus} GPUs: give --processes {gpus} or fewer, or --device cpu")
    kind = "smoke" if given.smoke else "gpu" if gpus else "cpu"
    begun = time.monotonic()
    load = os.getloadavg()
    result: dict[str, Any] = {
        **describe(torch.device("cuda" if gpus else "cpu")),
        "cores": os.cpu_count(),
        "load_average_at_the_start": load,
        "processes": processes,
        "sizes": kind,
        "goal_for_two": GOAL,
        "rows": {},
    }
    # On a GPU each part has fresh processes, so that one that fails takes no other with it.
    groups = [[part] for part in given.parts] if kind == "gpu" else [given.parts]
    for parts in groups:
        if time.monotonic() - begun > given.seconds:
            result["rows"] |= {part: {"skipped": f"{given.seconds:.0f} seconds were over"} for part in parts}
            continue
        rounds = []
        for _ in range(given.repeats):
            one, several = launch(parts, 1, kind), launch(parts, processes, kind)
            rounds.append({part: compare(one[part], several[part]) for part in parts})
        for part in parts:
            rows = sorted((each[part] for each in rounds), key=lambda row: row.get("ratio", 0.0))
            ratios = [row.get("ratio") for row in rows]
            result["rows"][part] = rows[len(rows) // 2] | ({"ratios": ratios} if len(rows) > 1 else {})
            print(part, json.dumps(result["rows"][part]), flush=True)
        if given.out:
            write_json_atomic(given.out, result)
    for part, row in result["rows"].items():
        if "ratio" in row:
            print(
                f"{part:12} {row['ratio']:6.3f}x in {processes} processes, efficiency "
                f"{row['efficiency']:6.1%}, {'agrees' if row['agrees'] else 'DIFFERS'}"
            )
    wrong = [part for part, row in result["rows"].items() if not row.get("agrees", "skipped" in row)]
    if wrong:
        sys.exit(f"failed or differ: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
