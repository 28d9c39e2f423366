"""A small valid file of every kind that digit writes or reads, in one folder, to be made hostile."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digit.data.images import open_images
from digit.data.write_codes import write_codes
from digit.evaluation.pictures import npz_writer
from digit.evaluation.result import result, write_result
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.nn.linear_probe import Probe, ProbeConfig
from digit.renderer_flow import FlowConfig, FlowRenderer
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.run import draw
from digit.run.evaluate.probe_states import cached_rows
from digit.run.main import run as command
from digit.run.tokenize import open_kinds
from digit.weights.artifact import load, save
from digit.weights.vit import vit_layout
from torture import tiny

FAIRSEQ = Path(__file__).parents[1] / "tests" / "fixtures"  # checkpoints in the layout of the published ones
TRAIN = "--width 16 --layers 1 --heads 2 --batch 8 --warmup 1 --save-every 1 --schedule constant --device cpu"


def make_specimens(folder: Path) -> Path:
    """Fill the folder; each name below is what the tests ask for.

    pictures.zip, the same alone in zip, photos (class folders), tables (a folder with a table of classes for
    each kind of table), shard.tar; stages, one artifact each; model;
    codes; parts (codes unfinished); run (a training); samples; drawn (pictures unfinished); states, results
    (a result and a sweep), cache, files (npz, pickles and tables of others).
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = tiny.make_pictures(folder / "pictures.zip", count=12)
    _unpack(images, folder)
    _tables(folder)
    (folder / "zip").mkdir()
    shutil.copyfile(images, folder / "zip" / "pictures.zip")
    stages = _more_stages(tiny.make_stages(folder / "stages"), folder / "stages")
    model = {name: stages[name] for name in ("tokenizer", "vqgan", "prior", "renderer", "renderer_masked")}
    tiny.make_model(model, folder / "model")
    codes = tiny.make_codes(images, stages, folder / "codes")
    tiny.make_state(folder / "states")
    _unfinished_codes(images, stages, folder / "parts")
    _run(f"train prior --codes {codes} --out {folder / 'run'} {TRAIN} --steps 2")
    _run(f"{drawing(folder)} --out {folder / 'samples'} --npz {folder / 'samples.npz'}")
    with _stopped_at_the_end():
        _run(f"{drawing(folder)} --out {folder / 'drawn'}")
    (folder / "results").mkdir()
    measure = f"--reference {images} --features classifier:{stages['classifier']} --few --device cpu"
    _run(f"evaluate sweep {folder / 'model'} {measure} --num 4 --out {folder / 'results' / 'sweep.json'}")
    _run(f"evaluate images --samples {images} {measure} --out {folder / 'results' / 'images.json'}")
    _states(folder / "cache")
    (folder / "files").mkdir()
    _others(folder / "files", stages)
    return folder


def drawing(folder: Path) -> str:
    """The command line that drew `samples` and, up to its end, `drawn`."""
    return f"sample {folder / 'model'} --num 4 --batch 2 --codes --device cpu"


def _run(line: str) -> None:
    if (code := command(line.split())) != 0:
        raise RuntimeError(f"digit {line} ended with {code}")


def _unpack(images: Path, folder: Path) -> None:
    """The pictures as class folders, and as a shard with labels."""
    with zipfile.ZipFile(images) as archive, tarfile.open(folder / "shard.tar", "w") as shard:
        archive.extractall(folder / "photos")
        for name in archive.namelist():
            label, _, file = name.partition("/")
            for member, data in ((file, archive.read(name)), (f"{file[:-4]}.cls", str(len(label)).encode())):
                about = tarfile.TarInfo(member)
                about.size = len(data)
                shard.addfile(about, BytesIO(data))


def _tables(folder: Path) -> None:
    """Pictures in no folders of classes, each class in a table beside them."""
    names = {f"{i}.png": f"class {i % 2}" for i in range(4)}
    rows = [{"file_name": name, "label": label} for name, label in names.items()]
    written = {
        "labels.csv": "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in names.items()),
        "labels.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "labels.json": json.dumps(names, indent=1),
    }
    source = sorted((folder / "photos").rglob("*.png"))
    for table, content in written.items():
        own = folder / "tables" / table.partition(".")[2]
        own.mkdir(parents=True)
        for name, path in zip(names, source, strict=False):
            shutil.copyfile(path, own / name)
        (own / table).write_text(content, encoding="utf-8")


def _more_stages(stages: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The kinds of artifacts that a tiny model does not need."""
    made = json.loads((stages["renderer"] / "config.json").read_text())["lineage"]
    size: dict[str, Any] = {"codes": 8, "length": 16, "width": 16, "layers": 1, "heads": 2}
    tokenizer: Any = load(stages["tokenizer"])
    others = {
        "renderer_masked": MaskedRenderer(MaskedConfig(**size, vq_codes=16, vq_length=16)),
        "renderer_flow": FlowRenderer(
            FlowConfig(codes=8, length=16, image_size=16, width=16, layers=1, heads=2)
        ),
        "classifier": Classifier(ClassifierConfig(classes=3, width=4, image_size=16)),
        "probe": Probe(ProbeConfig(layers=2, width=16, classes=3)),
        "encoder": tokenizer.encoder,
    }
    for name, module in others.items():
        save(module, folder / name, lineage=made if name == "renderer_masked" else {})
    return stages | {name: folder / name for name in others}


def _unfinished_codes(images: Path, stages: dict[str, Path], out: Path) -> None:
    """What a tokenization leaves that is stopped before its parts are joined."""
    kinds, _, side = open_kinds(stages["tokenizer"], stages["vqgan"], size=16, device=torch.device("cpu"))

    def stop(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    try:
        write_codes(open_images(images), out, kinds, size=side, views=2, progress=stop)
    except KeyboardInterrupt:
        return
    raise RuntimeError("a tokenization was to be stopped and was not")


@contextmanager
def _stopped_at_the_end() -> Iterator[None]:
    """Inside, drawing leaves the lists of its batches, as if it were killed before the last file."""
    from digit.run import sample

    names = [(place, "finish_drawing") for place in (draw, sample) if hasattr(place, "finish_drawing")]
    kept = [(place, name, getattr(place, name)) for place, name in names]
    for place, name in names:
        setattr(place, name, lambda out, content: None)
    try:
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


def _states(cache: Path) -> None:
    """Cached features, and their note."""
    rows = torch.randn(20, 2, 8).half()
    cached_rows(lambda start: rows[start : start + 5], (20, 2, 8), **caching(cache))


def caching(cache: Path) -> dict[str, Any]:
    """How the features of `cache` are asked for."""
    return {
        "title": "features", "key": {"of": "noise"}, "cache": cache, "limit": 0, "batch": 5,
        "where": torch.device("cpu"),
    }  # fmt: skip


def _others(folder: Path, stages: dict[str, Path]) -> None:
    """Files of other programs: arrays, statistics, weights."""
    rng = np.random.default_rng(0)
    with npz_writer(folder / "pictures.npz", 4) as add:
        add(torch.from_numpy(rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)), [0, 1, 2, 0])
    np.savez(folder / "statistics.npz", mu=np.zeros(8), sigma=np.eye(8), mu_s=np.zeros(4), sigma_s=np.eye(4))
    np.save(folder / "km_8.npy", rng.normal(size=(8, 16)).astype(np.float32))
    vqgan: Any = load(stages["vqgan"])
    layout = vit_layout(16, 3, patch=4, positions=17, scaled=False, mask_token=False)
    torch.save({name: torch.randn(shape) * 0.1 for name, shape in layout.items()}, folder / "vit.pth")
    torch.save({"state_dict": vqgan.state_dict(), "epoch": 3}, folder / "vqgan.ckpt")
    write_result(
        folder / "small.json",
        result("colour", [("mean", 0.5)], protocol="by hand", counts={"samples": 3}, features=[]),
    )
