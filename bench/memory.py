"""Resident memory of `digit fit`, `digit tokenize` and image statistics on a set and on five times that set.

python bench/memory.py [--smoke] [--images ZIP] [--tokenize N] [--out F]

The larger set repeats the zip's members under other names; both give every command the same batch,
reservoir and networks. Each command runs in a process of its own, whose peak comes from getrusage. The
index (names, sizes and offsets of the zip's members) must grow with the set: `index` is a process that only
opens the zip, and `flat` is the ratio with the index's growth taken off. A page of a memory-mapped file
counts as resident once touched, though the kernel can take it back: the commands read and write their
arrays through plain files, so none is hidden here.

On two CPU cores 10,000 pictures of 32 px take about two minutes, and 40 ms per picture more for
`digit tokenize`; --tokenize N gives that command N of the pictures, evenly spaced, and five times N.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "digit" / "models" / "cifar10"
TIMES = 5  # the larger set over the smaller
SIDE = 32  # pixels, what the bundled model reads
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
MEASURES = ("index", "fit", "tokenize", "statistics")


def make_pictures(path: Path, count: int) -> None:
    """A zip of `count` pictures of noise in two classes."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "png")
            archive.writestr(f"{'odd' if i % 2 else 'even'}/{i:06d}.png", buffer.getvalue())


def repeat(images: Path, out: Path, *, times: int, first: int | None = None) -> int:
    """Write the first members of a zip `times` times, each time under other names; how many there are."""
    with zipfile.ZipFile(images) as archive, zipfile.ZipFile(out, "w") as copy:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        # Evenly spaced, so that the first N hold all the classes.
        kept = (
            names
            if first is None
            else [names[i * len(names) // first] for i in range(min(first, len(names)))]
        )
        for turn in range(times):
            for name in kept:
                folder, _, file = name.rpartition("/")
                copy.writestr(f"{folder}/{turn}-{file}" if folder else f"{turn}-{file}", archive.read(name))
        return times * len(kept)


def fit(images: Path, work: Path) -> None:
    """`digit fit` with a tiny random ViT."""
    import torch
    from safetensors.torch import save_file

    from digit.nn.backbone import timm
    from digit.run.fit import fit as run

    torch.manual_seed(0)
    vit = timm().create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=0, **VIT)
    save_file(vit.state_dict(), work / "encoder.safetensors")
    run(
        str(images),
        work / "tokenizer",
        encoder="vit_tiny_patch16_224",
        encoder_weights=work / "encoder.safetensors",
        encoder_arguments=VIT,
        encoder_size=SIDE,
        block=-1,
        clusters=16,
        per_cluster=8,
        iterations=5,
        device="cpu",
    )


def tokenize(images: Path, work: Path) -> None:
    """`digit tokenize` with the bundled tokenizer and VQGAN."""
    from digit.run.tokenize import tokenize as run

    run(
        str(images),
        work / "codes",
        tokenizer=MODEL / "tokenizer",
        vqgan=MODEL / "vqgan",
        views=1,
        device="cpu",
    )


def statistics(images: Path, _: Path) -> None:
    """One set's statistics as `digit evaluate images` gathers them, without features kept for precision."""
    import torch

    from digit.evaluation.measure import measure
    from digit.evaluation.networks import classifier_network
    from digit.evaluation.pictures import open_pictures
    from digit.nn.classifier import Classifier, ClassifierConfig

    torch.manual_seed(0)
    network = classifier_network(Classifier(ClassifierConfig(classes=10, width=8, image_size=SIDE)))
    measure(open_pictures(images, size=SIDE), [network], keep=False)


def index(images: Path, _: Path) -> None:
    """Only open the zip, with everything imported that the commands import."""
    import digit.run.main  # noqa: F401
    from digit.data.images import open_images

    assert len(open_images(images))


def megabytes() -> float:
    """This process's peak resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)  # macOS counts bytes, Linux KiB


def child(name: str, images: Path) -> None:
    """Run one command and print what it took."""
    import torch

    torch.set_num_threads(2)  # each thread has buffers of its own
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        {"index": index, "fit": fit, "tokenize": tokenize, "statistics": statistics}[name](images, Path(work))
    print(json.dumps({"megabytes": megabytes(), "seconds": time.perf_counter() - start}))


def in_a_fresh_process(name: str, images: Path) -> dict[str, float]:
    """Peak and seconds of one command."""
    # This process must stay small: on Linux a child's peak begins with its parent's size.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, "--images", str(images)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_all(pictures: Path, work: Path, tokenized: int | None) -> dict[str, dict[str, float]]:
    """Every command on both sets."""
    rows: dict[str, dict[str, float]] = {}
    index_of: dict[int, float] = {}
    for first in dict.fromkeys((None, tokenized)):
        for name in MEASURES:
            if name != "index" and (name == "tokenize") != (first == tokenized) and tokenized is not None:
                continue
            row: dict[str, float] = {}
            for times in (1, TIMES):
                images = work / f"{times}x-{first}.zip"
                if not images.exists():
                    index_of[times] = 0
                    repeat(pictures, images, times=times, first=first)
                with zipfile.ZipFile(images) as archive:
                    row[f"pictures_{times}x"] = len(archive.namelist())
                found = in_a_fresh_process(name, images)
                row[f"megabytes_{times}x"] = found["megabytes"]
                row[f"seconds_{times}x"] = found["seconds"]
                if name == "index":
                    index_of[times] = found["megabytes"]
            small, large = row["megabytes_1x"], row[f"megabytes_{TIMES}x"]
            row["ratio"] = large / small
            row["flat"] = (large - index_of[TIMES] + index_of[1]) / small
            if name != "index" or first is None:
                rows[name] = row
            print(
                f"{name:<11} {row['pictures_1x']:>8.0f} {small:>9.1f} {row[f'pictures_{TIMES}x']:>9.0f}"
                f" {large:>9.1f} {row['ratio']:>7.3f} {row['flat']:>7.3f}",
                flush=True,
            )
    return rows


def processor() -> str:
    """The processor's name."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main() -> None:
    """Parse, make both sets, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a few dozen pictures, to see that it runs")
    parser.add_argument("--images", type=Path, help="a zip of pictures; 4,096 of noise if left out")
    parser.add_argument(
        "--tokenize", type=int, metavar="N", help="pictures for `digit tokenize`; all if left out"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON; results/memory.json beside this script unless --smoke"
    )
    parser.add_argument("--child", choices=MEASURES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.images)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures = given.images
        if pictures is None:
            pictures = work / "noise.zip"
            make_pictures(pictures, 12 if given.smoke else 4096)
        print(f"{'':<11} {'pictures':>8} {'MB':>9} {'pictures':>9} {'MB':>9} {'ratio':>7} {'flat':>7}")
        rows = measure_all(pictures, work, given.tokenize)
    out = given.out or (None if given.smoke else Path(__file__).parent / "results" / "memory.json")
    if out is not None:
        result = {
            "what": "peak resident megabytes (10^6 bytes) of a process; `flat`: less the index's growth",
            "images": "noise" if given.images is None else given.images.name,
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": 2,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pillow")},
            "results": rows,
        }
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
