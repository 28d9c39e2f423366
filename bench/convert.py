"""What it takes to convert a published model and to draw with it: files of the base model's exact shapes.

    python bench/convert.py [--num 8] [--repeats 3] [--out bench/results/convert.json] [--smoke]

The weights are random, so the pictures are noise; shapes, sizes and the way through the code are those of
base_cond: prior and renderer checkpoints with copies of DINOv2-B and the VQGAN, K-means table, VQGAN file.
Drawing is timed from labels to bytes, model already loaded, by the autoregressive renderer.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digit.files import write_json_atomic
from digit.pipeline import DigitPipeline
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.fairseq import Facts, decoder_layout
from digit.weights.official import OfficialFile, OfficialModel, Published
from digit.weights.official_model import convert_model
from digit.weights.vit import vit_layout

NAMES = {"prior": "stlm", "renderer": "st2vtlm"}


def main() -> None:
    """Make the files, convert, draw, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=8, help="pictures")
    parser.add_argument("--repeats", type=int, default=3, help="times they are drawn")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, one picture, once")
    options = parser.parse_args()
    num, repeats = (1, 1) if options.smoke else (options.num, options.repeats)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        model = _write_files(Path(folder), small=options.smoke)
        written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        start = time.perf_counter()
        convert_model(model, Path(folder) / "model", name="random", files=Path(folder))
        converted = time.perf_counter() - start
        size = sum(path.stat().st_size for path in (Path(folder) / "model").rglob("*") if path.is_file())
        start = time.perf_counter()
        pipeline = DigitPipeline.from_pretrained(Path(folder) / "model", device=device)
        loaded = time.perf_counter() - start
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            drawn = pipeline(["golden retriever"], num_images=num)
            times.append(time.perf_counter() - start)
        assert drawn.pixels.shape[0] == num
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "files_gb": written / 1e9,
        "convert_seconds": converted,
        "model_gb": size / 1e9,
        "load_seconds": loaded,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "pictures": num,
        "draw_seconds": {"median": statistics.median(times), "all": times},
    }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json_atomic(options.out, result)


def _write_files(folder: Path, *, small: bool) -> OfficialModel:
    """The five files under their kinds' names; values are float16's, as in the published ones."""
    generator = torch.Generator().manual_seed(0)
    width, features = (64, 64) if small else (1024, 768)
    shared: dict[str, Any] = {"width": width, "layers": 1 if small else 16, "heads": width // 64}
    shared |= {"codes": 64 if small else 8192, "length": 256, "positions": 1026, "features": features}
    shared |= {"dropout": 0.1, "label_smoothing": 0.1}
    prior = Facts(kind="prior", norm="post", classes=1000, vq_codes=0, vq_length=0, **shared)
    renderer = Facts(kind="renderer", norm="pre", classes=0, vq_codes=1024, vq_length=256, **shared)
    config = VQGANConfig(width=32 if small else 128)
    with torch.device("meta"):
        vqgan = {name: tuple(value.shape) for name, value in VQGAN(config).state_dict().items()}

    def random(layout: Any) -> dict[str, torch.Tensor]:
        made = {}
        for name, shape in layout.items():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            values = torch.randn(shape, generator=generator) * 0.02 + centre
            made[name] = values.half().float()
        return made

    encoder, autoencoder = random(vit_layout(features, 12, registers=4)), random(vqgan)
    centroids = torch.randn(shared["codes"], features, generator=generator)
    copies = {f"pretrained_encoder.{name}": value for name, value in encoder.items()}
    copies |= {"centroids": centroids.half().float().T.contiguous()}
    copies |= {"centroid_norm": centroids.square().sum(1)[None].half().float()}
    with_vqgan = copies | {f"vqgan.{name}": value for name, value in autoencoder.items()}
    for facts, carried in ((prior, copies), (renderer, with_vqgan)):
        torch.save(
            {"args": None, "cfg": _settings(facts), "model": random(decoder_layout(facts)) | carried},
            folder / f"{facts.kind}.pt",
        )
    np.save(folder / "centroids.npy", centroids.numpy())
    torch.save({"state_dict": autoencoder}, folder / "vqgan.ckpt")
    paths = ("prior.pt", "renderer.pt", "centroids.npy", "vqgan.ckpt")
    files = [OfficialFile("nobody/nothing", path, None, None) for path in paths]
    return OfficialModel(*files, 300, Published(0.0, 0.0, "random weights"))


def _settings(facts: Facts) -> dict[str, Any]:
    return {
        "model": {
            "_name": NAMES[facts.kind],
            "decoder_embed_dim": facts.width,
            "decoder_ffn_embed_dim": 4 * facts.width,
            "decoder_layers": facts.layers,
            "decoder_attention_heads": facts.heads,
            "decoder_normalize_before": facts.norm == "pre",
            "class_conditional": facts.classes > 0,
            "dropout": facts.dropout,
            "pretrained_enc_config": {"layer": 3},
        },
        "task": {"input_size": 256},
        "criterion": {"label_smoothing": facts.label_smoothing},
    }


if __name__ == "__main__":
    main()
