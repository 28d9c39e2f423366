"""FID and inception score of pictures that lie on the device: ours beside torch-fidelity's in the same run.

    python bench/fid.py [--images 50000] [--batch 256] [--device cuda] [--out F] [--smoke] [--variants]

The InceptionV3 has random weights: time does not depend on them, and both read the same file. The reference's
statistics are known before the clock starts, for both. torch-fidelity reads a Dataset of CPU tensors, as it
must for its workers; its extractor and statistics over pictures on the device are timed too. Prints seconds,
pictures per second, ratios and differences of the values; `--variants` also times layouts and cuDNN's search
on 4,096 pictures.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.evaluation.images import compare
from digit.evaluation.measure import Measured, Precision, measure
from digit.evaluation.networks import Network, open_network
from digit.evaluation.pictures import open_pictures
from digit.evaluation.selftest import random_tensors
from digit.files import write_json_atomic
from digit.nn.backbone import timm

Timed = dict[str, float]  # seconds, images_per_s, fid, is


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=5000, help="pictures behind the known statistics")
    parser.add_argument("--size", type=int, default=256, help="px")
    parser.add_argument("--batch", type=int, default=256, help="ours; torch-fidelity takes its default of 64")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--no-rival", action="store_true", help="leave torch-fidelity out")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--smoke", action="store_true", help="a dozen pictures, to see that it runs")
    options = parser.parse_args()
    options.width = 2048  # of the features: the eigenvalues of 2,048 would take a smoke run minutes
    if options.smoke:
        options.images, options.reference, options.size, options.batch, options.width = 4, 3, 32, 2, 16
    device = torch.device(options.device)
    pictures = clouds(options.images, options.size, device, seed=0)
    reference = clouds(options.reference, options.size, device, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.pth"
        torch.save(random_tensors(), weights)
        result = times(pictures, reference, weights, options)
    print(json.dumps(result, indent=2))
    if options.out is not None:
        write_json_atomic(options.out, result)


def times(pictures: Tensor, reference: Tensor, weights: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, for JSON."""
    device = pictures.device
    started = time.perf_counter()
    network = open_network("inception", inception_weights=weights, device=device)
    opening = time.perf_counter() - started
    if options.smoke:
        network = narrow(network, options.width)
    rows: dict[str, Timed] = {}
    precisions: tuple[Precision, ...] = ("fp32", "tf32") if device.type == "cuda" else ("fp32",)
    for precision in precisions:
        rows[f"digit, {precision}"] = ours(pictures, reference, network, precision, options.batch)
    if options.no_rival or importlib.util.find_spec("torch_fidelity") is None:
        print("torch-fidelity is left out or not installed here: only ours is timed", flush=True)
    else:
        timm()  # lets torch-fidelity import torchvision
        if not options.smoke:
            rows["torch-fidelity"] = as_people_call_it(pictures, reference, weights)
        rows["torch-fidelity, pictures on the device"] = on_the_device(
            pictures, reference, weights, options.width
        )
    first = rows["digit, fp32"]
    result: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": torch.__version__,
        "images": len(pictures),
        "size": options.size,
        "reference": len(reference),
        "batch": options.batch,
        "weights": "random",
        "seconds_to_open_the_network": opening,
        "results": rows,
        "seconds_over_digit_fp32": {name: row["seconds"] / first["seconds"] for name, row in rows.items()},
        "difference_to_digit_fp32": {
            name: {key: row[key] - first[key] for key in ("fid", "is")} for name, row in rows.items()
        },
    }
    if options.variants:
        result["variants_images_per_s"] = variants(pictures[:4096], network, options.batch)
    return result


def clouds(n: int, size: int, device: torch.device, *, seed: int) -> Tensor:
    """Random coloured clouds, uint8 n 3 size size, on the device."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    pictures = torch.empty(n, 3, size, size, dtype=torch.uint8, device=device)
    for part, place in zip(coarse.split(500), pictures.split(500), strict=True):
        large = torch.nn.functional.interpolate(part.to(device), (size, size), mode="bilinear")
        place.copy_((large.clamp(0, 1) * 255).round())
    return pictures


def timed(run: Callable[[], tuple[float, float]], n: int) -> Timed:
    """Seconds of one run that gives FID and inception score."""
    _wait()
    started = time.perf_counter()
    fid, score = run()
    _wait()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "images_per_s": n / seconds, "fid": fid, "is": score}


def ours(pictures: Tensor, reference: Tensor, network: Network, precision: Precision, batch: int) -> Timed:
    """`digit evaluate images` without its files."""

    def of(source: Tensor) -> Measured:
        opened = open_pictures(source, batch_size=batch)
        return measure(opened, [network], device=source.device, precision=precision)[0]

    known = of(reference)
    of(pictures[: 2 * batch])  # warm up

    def run() -> tuple[float, float]:
        values = dict(compare(network, of(pictures), known, metrics=["fd", "is"]))
        return values[network.metric("FD")], values[network.metric("IS")]

    return timed(run, len(pictures))


class Bytes(torch.utils.data.Dataset):
    """Pictures of one tensor in CPU memory."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        """Picture i."""
        return self.pictures[i]


def as_people_call_it(pictures: Tensor, reference: Tensor, weights: Path) -> Timed:
    """`calculate_metrics` with its defaults, the reference's statistics in its cache."""
    from torch_fidelity import calculate_metrics

    here, there = Bytes(pictures.cpu()), Bytes(reference.cpu())
    with tempfile.TemporaryDirectory() as cache:
        options = {
            "input2": there,
            "input2_cache_name": "reference",
            "cache_root": cache,
            "cuda": pictures.is_cuda,
            "isc": True,
            "fid": True,
            "isc_splits": min(10, len(pictures)),
            "feature_extractor_weights_path": str(weights),
            "verbose": False,
        }
        calculate_metrics(input1=Bytes(here.pictures[:64]), **options)  # fills the cache

        def run() -> tuple[float, float]:
            found = calculate_metrics(input1=here, **options)
            return found["frechet_inception_distance"], found["inception_score_mean"]

        return timed(run, len(pictures))


def on_the_device(pictures: Tensor, reference: Tensor, weights: Path, width: int) -> Timed:
    """Its extractor in its batches of 64 over pictures on the device, then its own statistics."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric

    extractor = FeatureExtractorInceptionV3(
        "random", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    ).to(pictures.device)

    def of(source: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            parts = [extractor(part) for part in source.split(64)]
        features, logits = (torch.cat([part[i].cpu() for part in parts]) for i in (0, 1))
        return features[:, :width], logits

    known = fid_features_to_statistics(of(reference)[0])

    def run() -> tuple[float, float]:
        features, logits = of(pictures)
        fid = fid_statistics_to_metric(fid_features_to_statistics(features), known, verbose=False)
        score = isc_features_to_metric(logits, splits=min(10, len(logits)))
        return fid["frechet_inception_distance"], score["inception_score_mean"]

    return timed(run, len(pictures))


def narrow(network: Network, width: int) -> Network:
    """The network with its first `width` features only."""

    def forward(pixels: Tensor) -> tuple[Tensor, ...]:
        features, *others = network.forward(pixels)
        return features[:, :width], *others

    return dataclasses.replace(network, forward=forward)


def variants(pictures: Tensor, network: Network, batch: int) -> dict[str, float]:
    """Pictures a second of the network alone, by precision, layout in memory, and cuDNN's search."""
    rates = {}
    layouts = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
    module: Any = network.module
    for precision in ("fp32", "tf32"):
        for layout, memory_format in layouts.items():
            for search in (False, True):
                module.to(memory_format=memory_format)
                torch.backends.cudnn.benchmark = search
                for part in pictures.split(batch)[:2]:
                    network.outputs(part, tf32=precision == "tf32")
                _wait()
                started = time.perf_counter()
                for part in pictures.split(batch):
                    network.outputs(part, tf32=precision == "tf32")
                _wait()
                rate = len(pictures) / (time.perf_counter() - started)
                rates[f"{precision}, {layout}{', search' if search else ''}"] = rate
    torch.backends.cudnn.benchmark = False
    module.to(memory_format=torch.channels_last)
    return rates


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
