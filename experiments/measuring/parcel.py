"""OUT <-> a few files that can be carried: results and logs, and the weights that a later call needs."""

import shutil
import tarfile
from pathlib import Path

from measuring.plan import MODELS

from digit.errors import DigitError
from digit.files import atomic_file, atomic_folder

# By name of the file: what lies in it, relative to OUT. Weights are stored in 8 bits: below 16 MiB each. The
# VQGAN of the models is the bundled one and is not carried.
CONTENTS = {
    "measurements.tar": ("results", "logs", "done"),
    "classifier.tar": ("classifier/artifact", "results/classifier.json"),
    "model_vq.tar": ("model_vq/prior", "model_vq/config.json"),
    "model_vq_compute.tar": ("model_vq_compute/prior", "model_vq_compute/config.json"),
}


def pack(out: Path, results: Path) -> None:
    """Write those files whose contents are there; weights are packed once."""
    results.mkdir(parents=True, exist_ok=True)
    for name, contents in CONTENTS.items():
        there = [out / each for each in contents if (out / each).exists()]
        if name != "measurements.tar" and (len(there) < len(contents) or (results / name).exists()):
            continue
        with atomic_file(results / name) as file, tarfile.open(fileobj=file, mode="w") as archive:
            for each in there:
                archive.add(each, each.relative_to(out).as_posix())


def unpack(folder: Path, out: Path, bundled: Path) -> None:
    """Put back what `pack` wrote and is not in `out`, each model with the VQGAN of the one in `bundled`.

    DigitError where there is nothing.
    """
    found = [folder / name for name in CONTENTS if (folder / name).exists()]
    if not found:
        raise DigitError(f"{folder} holds none of {', '.join(CONTENTS)}: give the folder of --results")
    for path in found:
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if not (out / member.name).exists() or member.isdir():
                    archive.extract(member, out, filter="data")
    for name in MODELS.values():
        if (out / name).is_dir() and not (out / name / "vqgan").exists():
            with atomic_folder(out / name / "vqgan") as temporary:
                shutil.copytree(bundled / "vqgan", temporary, dirs_exist_ok=True)
