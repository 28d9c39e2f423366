"""Does anything grow? Tokenise, train and sample over and over: resident memory, open files, threads.

    python bench/soak.py [--minutes 6] [--out results/soak.json] [--plot soak.png] [--smoke]

Twice: in one process, which calls the functions behind the verbs, and by fresh commands, of which one always
continues the training that the one before it left. Each round tokenises 16 pictures with the bundled model,
trains a tiny prior on the codes for 20 updates and draws one picture. After each round of the one process its
resident memory, open descriptors and threads are read from /proc (so this runs on Linux); of a command the
peaks are, read every 20 ms.

The first third of the rounds warms up: libraries load what they use first and the allocator finds its size.
Over the others a line is fitted by least squares; `per_round` is its slope, `error` that slope's standard
error and `growth` the line's rise over these rounds as a share of its height. What holds on to something in
every round has a slope beyond its error.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from memory import MODEL, ROOT, make_pictures, processor

from digit.files import atomic_file, write_json_atomic

VERBS = ("tokenize", "train", "sample")
GAUGES = {"resident_mb": "resident memory, MB", "descriptors": "open descriptors", "threads": "threads"}


def read_gauges(process: int | str = "self") -> dict[str, float] | None:
    """Resident megabytes (10^6 bytes), open descriptors and threads of a process; None once it is gone."""
    folder = Path("/proc") / str(process)
    try:
        lines = (folder / "status").read_text().splitlines()
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    status = dict(line.split(":", 1) for line in lines)
    if "VmRSS" not in status:  # it has ended and nobody has asked for its code yet
        return None
    resident = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return {"resident_mb": resident, "descriptors": descriptors, "threads": int(status["Threads"])}


class Work:
    """A folder with pictures, and what a round does in it."""

    def __init__(self, folder: Path, *, pictures: int, updates: int, draws: int) -> None:
        """Make the pictures."""
        self.folder, self.updates, self.draws = folder, updates, draws
        make_pictures(folder / "pictures.zip", pictures)

    def arguments(self, verb: str, turn: int) -> list[str]:
        """The command line of a verb in round `turn`, from 0."""
        codes, pictures = str(self.folder / "codes"), str(self.folder / "pictures.zip")
        if verb == "tokenize":
            made_by = ["--tokenizer", str(MODEL / "tokenizer"), "--vqgan", str(MODEL / "vqgan")]
            return ["tokenize", "--images", pictures, "--out", codes, *made_by, "--device", "cpu"]
        if verb == "train":
            shape = ["--width", "32", "--layers", "2", "--heads", "2", "--warmup", "5"]
            steps = ["--steps", str(self.updates * (turn + 1)), "--batch", "16", "--held-out", codes]
            prior = ["train", "prior", "--codes", codes, "--out", str(self.folder / "prior")]
            return [*prior, *shape, *steps, "--device", "cpu"]
        return ["sample", "--num", str(self.draws), "--out", str(self.folder / "drawn"), "--device", "cpu"]

    def clear(self) -> None:
        """Take away what the next round is to make again; the training stays and goes on."""
        for name in ("codes", "drawn"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def in_one_process(work: Work, seconds: float) -> Iterator[dict[str, float]]:
    """The gauges of this process after each round."""
    from digit.run.main import run

    begun = time.monotonic()
    turn = 0
    while time.monotonic() - begun < seconds:
        work.clear()
        for verb in VERBS:
            code = run(work.arguments(verb, turn))
            assert code == 0, f"{verb} ended with {code}"
        turn += 1
        found = read_gauges()
        assert found is not None
        yield {"minutes": (time.monotonic() - begun) / 60, "objects": len(gc.get_objects()), **found}


def by_commands(work: Work, seconds: float, verbs: Sequence[str] = VERBS) -> Iterator[dict[str, Any]]:
    """The peaks of each command of each round."""
    begun = time.monotonic()
    turn = 0
    while time.monotonic() - begun < seconds:
        work.clear()
        for verb in verbs:
            peaks = _peaks([sys.executable, "-m", "digit", *work.arguments(verb, turn)])
            yield {"verb": verb, "minutes": (time.monotonic() - begun) / 60, **peaks}
        turn += 1


def _peaks(command: list[str]) -> dict[str, float]:
    """The largest value of each gauge while a command runs, which must end well."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        peaks: dict[str, float] = dict.fromkeys(GAUGES, 0.0)
        while child.poll() is None:
            found = read_gauges(child.pid) or {}
            peaks = {name: max(peaks[name], found.get(name, 0.0)) for name in GAUGES}
            time.sleep(0.02)
        said.seek(0)
        assert child.returncode == 0, said.read().decode()[-2000:]
    return peaks


def slopes(values: list[float]) -> dict[str, float]:
    """The line through the later two thirds: rise a round with its standard error, and growth as a share.

    No line where there are fewer than six rounds to fit it to.
    """
    y = np.array(values[len(values) // 3 :])
    found = {"mean": float(y.mean()), "least": float(y.min()), "most": float(y.max()), "rounds": len(y)}
    if len(y) < 6:
        return found
    x = np.arange(len(y))
    slope, start = np.polyfit(x, y, 1) if np.ptp(y) else (0.0, y[0])  # and not a rounding error
    rest = y - (slope * x + start)
    error = np.sqrt(rest.var(ddof=2) * len(x) / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    growth = slope * (x[-1] - x[0]) / y.mean()
    return found | {"per_round": float(slope), "error": float(error), "growth": float(growth)}


def fitted(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The slopes of every gauge."""
    return {name: slopes([row[name] for row in rows]) for name in GAUGES}


def draw(result: dict[str, Any], path: Path) -> None:
    """A panel a gauge: the one process as a line, the commands as dots, and the fitted lines' slopes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (name, title) in zip(figure.subplots(1, 3), GAUGES.items(), strict=True):
        rows = result["one_process"]["rows"]
        places, values = [row["minutes"] for row in rows], [row[name] for row in rows]
        panel.plot(places, values, color="tab:red", label="one process, after each round")
        panel.axvspan(0, places[len(places) // 3], color="tab:grey", alpha=0.12, label="its warm-up")
        for verb, colour in zip(VERBS, ("tab:blue", "tab:green", "tab:orange"), strict=True):
            rows = [row for row in result["commands"]["rows"] if row["verb"] == verb]
            places, values = [row["minutes"] for row in rows], [row[name] for row in rows]
            panel.plot(places, values, ".", color=colour, markersize=4, label=f"digit {verb}, peak of each")
        panel.set(xlabel="minutes", ylabel=title, ylim=(0, None))
        panel.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8, loc="lower right")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def soak(
    way: Callable[[Work, float], Iterator[dict[str, Any]]], sizes: dict[str, int], seconds: float
) -> list[dict[str, Any]]:
    """All rounds of one way of running, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return list(way(Work(Path(folder), **sizes), seconds))


def main() -> None:
    """Run both ways, print the slopes, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6, help="of each way of running")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--plot", type=Path, help="PNG file")
    parser.add_argument("--smoke", action="store_true", help="one round of one process")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("this needs /proc: run it on Linux")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands; and here:
    torch.set_num_threads(1)
    sizes = {"pictures": 16, "updates": 20, "draws": 1}
    seconds = 60 * options.minutes
    verbs: Sequence[str] = VERBS
    if options.smoke:
        sizes, seconds, verbs = {"pictures": 2, "updates": 2, "draws": 1}, 1e-3, ()
        assert _peaks([sys.executable, "-c", "import time; time.sleep(0.1)"])["threads"] == 1
    rows = {
        "one_process": soak(in_one_process, sizes, seconds),
        "commands": soak(lambda work, time: by_commands(work, time, verbs), sizes, seconds),
    }
    result: dict[str, Any] = {
        "what": "tokenise, train, sample, over and over; slopes after a warm-up of a third of the rounds",
        **describe(torch.device("cpu")),
        "processor": processor(),
        "cores": os.cpu_count(),
        "minutes": seconds / 60,
        **sizes,
        "one_process": {"fit": fitted(rows["one_process"]), "rows": rows["one_process"]},
        "commands": {
            "fit": {verb: fitted([r for r in rows["commands"] if r["verb"] == verb]) for verb in verbs},
            "rows": rows["commands"],
        },
    }
    print(json.dumps({name: result[name]["fit"] for name in rows}, indent=2))
    if options.out:
        write_json_atomic(options.out, result)
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    main()
