"""Zips of photos and an encoder's weights: a smaller copy to carry, one zip with a split, made-up ones."""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from native.scale import Scale
from PIL import Image

from digit.errors import DigitError
from digit.evaluation.networks import squeezenet
from digit.features import Encoder, encoder_config
from digit.files import atomic_file
from digit.nn.backbone import create
from digit.tensors import read_safetensors, write_safetensors_atomic

WEIGHTS = "vits14-saliency.safetensors"
PERCEPTUAL = "efficientnet-lite0.safetensors"
JUDGE = "squeezenet1_1.safetensors"
NETWORK = "tf_efficientnet_lite0"  # whose weights PERCEPTUAL holds
READ = 9  # index of the block whose output is read: -3 of 12


def carry(data: Path, out: Path, megabytes: float) -> None:
    """Copy the weights without blocks that are not read, and as many photos of each zip as there is room for.

    Raises DigitError when the weights alone are larger.
    """
    tensors = read_safetensors(weights_file(data))
    kept = {name: tensor for name, tensor in tensors.items() if block_of(name) <= READ}
    write_safetensors_atomic(out / WEIGHTS, kept)
    for name in (PERCEPTUAL, JUDGE):
        (out / name).write_bytes(network_file(data, name).read_bytes())
    room = megabytes * 1e6 - sum((out / name).stat().st_size for name in (WEIGHTS, PERCEPTUAL, JUDGE))
    if room <= 0:
        raise DigitError(f"--megabytes {megabytes:g} is less than the weights: give more")
    zips = photo_zips(data)
    share = min(1.0, room / sum(path.stat().st_size for path in zips))
    for path in zips:
        with zipfile.ZipFile(path) as archive, atomic_file(out / path.name) as file:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            count = max(1, int(0.98 * share * len(names)))  # names take room too
            chosen = names if share == 1 else [names[i] for i in _spread(len(names), count)]
            with zipfile.ZipFile(file, "w") as copy:
                for name in chosen:
                    copy.writestr(name, archive.read(name))
    for path in sorted(out.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def gather(data: Path, out: Path, scale: Scale) -> None:
    """One zip of every set's photos: train/SET/AGAIN/..., held-out/SET/....

    A smaller set's training photos are in it several times, so that each set is about as much of an epoch.
    """
    sets = {path: _split(path) for path in photo_zips(data)}
    most = max(len(seen) for seen, _ in sets.values())
    with atomic_file(out) as file, zipfile.ZipFile(file, "w") as target:
        for path, (seen, unseen) in sets.items():
            with zipfile.ZipFile(path) as archive:
                for again in range(max(1, round(most / len(seen)))):
                    for name in seen:
                        target.writestr(f"train/{path.stem}/{again}/{name}", archive.read(name))
                for row in _spread(len(unseen), min(len(unseen), scale.held_out)):
                    target.writestr(f"held-out/{path.stem}/{unseen[row]}", archive.read(unseen[row]))


def _split(path: Path) -> tuple[list[str], list[str]]:
    """Names to train on and held out: the folder test is, of a zip without it every fifth photo."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    if {name.split("/")[0] for name in names} >= {"train", "test"}:
        unseen = [name for name in names if name.startswith("test/")]
    else:
        unseen = names[::5]
    return sorted({*names} - {*unseen}), unseen


def photo_zips(data: Path) -> list[Path]:
    """The zips of photos in a folder. DigitError when there is none."""
    found = sorted(path for path in data.glob("*.zip") if not path.name.startswith("cifar"))
    if not found:
        raise DigitError(f"{data} holds no zip of photos: give the folder of clothing-256.zip")
    return found


def weights_file(data: Path) -> Path:
    """The encoder's weights in a folder. DigitError when they are not there."""
    if not (data / WEIGHTS).is_file():
        raise DigitError(f"{data / WEIGHTS} does not exist: give the folder of the encoder's weights")
    return data / WEIGHTS


def network_file(data: Path, name: str) -> Path:
    """The weights of a network that looks on or judges, in a folder. DigitError when they are not there."""
    if not (data / name).is_file():
        script = {PERCEPTUAL: "efficientnet_lite0.py", JUDGE: "squeezenet.py"}[name]
        raise DigitError(f"{data / name} does not exist: make it with experiments/{script}")
    return data / name


def make_up(data: Path, scale: Scale) -> Path:
    """Two zips of noise and networks of random weights, for --smoke."""
    data.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, folders in (("split", ("train/a", "test/a")), ("flat", ("a", "b"))):
        with zipfile.ZipFile(data / f"{name}.zip", "w") as archive:
            for number in range(20):
                with archive.open(f"{folders[number % 2]}/{number:02d}.png", "w") as file:
                    pixels = rng.integers(0, 256, (scale.size, scale.size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(file, "PNG")
    torch.manual_seed(1)
    shape = encoder_config(
        scale.encoder, scale.encoder_size, arguments={"depth": 12, **scale.arguments}, block=-1
    )
    write_safetensors_atomic(data / WEIGHTS, Encoder(shape).vit.state_dict())
    write_safetensors_atomic(data / PERCEPTUAL, create(NETWORK).state_dict())
    write_safetensors_atomic(data / JUDGE, squeezenet().state_dict())
    return data


def block_of(name: str) -> int:
    """The number of the block that a tensor belongs to, -1 for none."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found.group(1)) if found else -1


def _spread(total: int, count: int) -> list[int]:
    return np.linspace(0, total - 1, count).round().astype(int).tolist()
