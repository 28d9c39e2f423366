"""The paper's comparison on CIFAR-10: VQ codes alone against discriminative codes, measured by one command.

    python experiments/cifar10/reproduction.py --runs runs/cifar10 --data DATA \
        --out bench/results/cifar10.json

Every system draws the same number of pictures with every setting of one small grid, used for all of its
stages alike; its best setting is reported. Reference: the test pictures. report.py turns the result into
docs/reproduction.md.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digit.data.images import open_images
from digit.data.loader import Report, load_pixels
from digit.evaluation.images import compare
from digit.evaluation.measure import Measured, measure
from digit.evaluation.networks import Network, open_network
from digit.evaluation.pictures import open_pictures
from digit.evaluation.protocols import Metric
from digit.files import read_json, write_json_atomic
from digit.nn.sampling import DRAW, SamplerConfig
from digit.pipeline import DigitPipeline
from digit.rendering import to_uint8
from digit.run.grid import grid
from digit.weights.artifact import load

SETTINGS = [{"temperature": 1.0}, {"temperature": 0.9}, {"top_p": 0.95}, {"top_p": 0.9}, {"top_p": 0.8}]
GUIDANCE = [1.0, 2.0]
METRICS: tuple[Metric, ...] = ("fd", "is", "precision_recall", "class_accuracy")


def main() -> None:
    """Draw, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="what experiments/cifar10.sh wrote")
    parser.add_argument("--data", type=Path, help="cifar10-test.zip and squeezenet1_1.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="the JSON result; grids go beside it")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=2500)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop starting new settings after this")
    parser.add_argument("--system", action="append", help="only these systems")
    parser.add_argument("--top-p", type=float, help="only this setting of the grid")
    parser.add_argument("--guidance", type=float, help="only this guidance, and only with labels")
    parser.add_argument(
        "--merge", type=Path, nargs="*", help="results of several processes, joined into --out"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.merge:
        write_json_atomic(options.out, merged([read_json(path) for path in options.merge]))
        return
    bench = Bench(options)
    result = bench.floor()
    for name, pipeline in systems(options.runs, bench.device).items():
        if options.system and name not in options.system:
            continue
        for conditional in (True,) if options.guidance else (False, True):
            if time.monotonic() - bench.started > options.seconds:
                break
            kind = "conditional" if conditional else "unconditional"
            result["systems"].setdefault(name, {})[kind] = bench.best(name, pipeline, conditional)
            write_json_atomic(options.out, result)
    result["seconds"] = time.monotonic() - bench.started
    write_json_atomic(options.out, result)
    print(json.dumps(result, indent=1))


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One result out of several processes': all tries together, the best of each system and kind kept."""
    head, found = dict(results[0]), {}
    for result in results:
        if [each["sha256"] for each in result["features"]] != [each["sha256"] for each in head["features"]]:
            raise SystemExit("these results were measured on different features")
        for name, kinds in result["systems"].items():
            for kind, entry in kinds.items():
                for each in entry["tries"]:
                    each["machine"] = result["machine"]
                before = found.setdefault(name, {}).get(kind)
                tries = (before["tries"] if before else []) + entry["tries"]
                first = next(key for key in entry if key.startswith("FD-"))
                best = entry if before is None or entry[first] < before[first] else before
                found[name][kind] = {**best, "tries": tries}
    grid = {json.dumps(each): each for result in results for each in result["settings"]}
    machines = sorted({result["machine"] for result in results})
    return {**head, "machine": ", ".join(machines), "settings": list(grid.values()), "systems": found}


def systems(runs: Path, device: torch.device) -> dict[str, DigitPipeline]:
    """Every system whose parts have been trained."""

    def has(*names: str) -> bool:
        return all((runs / name / "config.json").exists() for name in names)

    def part(name: str) -> Any:
        return load(runs / name, device=device)

    found: dict[str, DigitPipeline] = {}
    for name, folder in (("vq_only", "prior_vq"), ("vq_only_compute", "prior_vq_compute")):
        if has(folder, "vqgan"):
            found[name] = DigitPipeline(part(folder), part("vqgan"))
    if has("prior", "renderer", "vqgan"):
        found["digit"] = DigitPipeline(part("prior"), part("vqgan"), renderer=part("renderer"))
    if has("prior", "renderer_masked", "vqgan"):
        found["digit_masked"] = DigitPipeline(
            part("prior"), part("vqgan"), renderer_masked=part("renderer_masked")
        )
    if has("saliency/prior", "saliency/renderer", "vqgan"):
        found["digit_saliency"] = DigitPipeline(
            part("saliency/prior"), part("vqgan"), renderer=part("saliency/renderer")
        )
    return found


class Bench:
    """The networks, the reference, and how one system is measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Open the networks and measure the reference first: what can fail fails before the hours."""
        self.options, self.started, self.device = options, time.monotonic(), torch.device(options.device)
        test = open_images(options.data / "cifar10-test.zip")
        _, self.real = load_pixels(test, np.arange(len(test)), 32, report=Report())
        self.networks = [
            open_network(f"classifier:{options.runs / 'classifier' / 'artifact'}", device=self.device),
            open_network(f"squeezenet:{options.data / 'squeezenet1_1.safetensors'}", device=self.device),
        ]
        self.reference = self.measure(self.real, self.networks)

    def measure(self, pixels: torch.Tensor, networks: list[Network], *, keep: bool = True) -> list[Measured]:
        """Every network's statistics of uint8 pixels."""
        return measure(
            open_pictures(pixels, batch_size=1000), networks, device=self.device, keep=keep, precision="fp32"
        )

    def floor(self) -> dict[str, Any]:
        """The result's head: what was used, and what the VQGAN alone costs."""
        vqgan: Any = load(self.options.runs / "vqgan", device=self.device)
        with torch.inference_mode():
            parts = []
            for part in self.real.split(1000):
                pixels = part.to(self.device).float() / 255
                parts.append(to_uint8(vqgan.decode(vqgan.encode(pixels))).cpu())
        again = torch.cat(parts)
        error = (again.float() - self.real.float()).square().mean() / 255**2
        values: dict[str, float] = {"psnr": float(-10 * error.log10())}
        for network, here, there in zip(
            self.networks, self.measure(again, self.networks), self.reference, strict=True
        ):
            values.update(compare(network, here, there, metrics=["fd", "precision_recall"]))
        real = dict(compare(self.networks[0], self.reference[0], self.reference[0], metrics=["fd"]))
        machine = torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor()
        return {
            "machine": machine,
            "torch": torch.__version__,
            "samples": self.options.samples,
            "draw": DRAW,
            "seeds": f"0-{self.options.samples - 1}",
            "reference": "CIFAR-10 test set, 10,000 pictures",
            "features": [{"name": n.name, "sha256": n.sha256} for n in self.networks],
            "settings": SETTINGS,
            "guidance": GUIDANCE,
            "self_distance": real,
            "vqgan": {"codes": vqgan.length, "vocabulary": vqgan.config.codes, **values},
            "systems": {},
        }

    def draw(
        self, pipeline: DigitPipeline, setting: dict[str, float], conditional: bool, guidance: float
    ) -> Any:
        """`samples` pictures with one setting for every stage, by the class of each seed or without."""
        config = SamplerConfig(**setting)
        pipeline.sampling = type(pipeline.sampling)(
            SamplerConfig(**setting, guidance=guidance), config, config, config, 8, 4.5
        )
        how: Any = {"batch_size": self.options.batch, "autocast": True}
        return pipeline(num_images=self.options.samples, unconditional=not conditional, **how)

    def best(self, name: str, pipeline: DigitPipeline, conditional: bool) -> dict[str, Any]:
        """Try the grid on the first network's distance; measure the winner on everything."""
        first = self.networks[0]
        tries: list[dict[str, Any]] = []
        winner: Any = None
        settings = SETTINGS if self.options.top_p is None else [{"top_p": self.options.top_p}]
        strengths = [self.options.guidance] if self.options.guidance else GUIDANCE
        for setting in settings:
            for guidance in strengths if conditional else [1.0]:
                before = time.monotonic()
                drawn = self.draw(pipeline, setting, conditional, guidance)
                here = self.measure(drawn.pixels, [first], keep=False)[0]
                labels = None if drawn.labels is None else torch.tensor(drawn.labels)
                values = dict(
                    compare(first, here, self.reference[0], labels=labels, metrics=["fd", "class_accuracy"])
                )
                tries.append(
                    {**setting, "guidance": guidance, **values, "seconds": time.monotonic() - before}
                )
                distance = values[first.metric("FD")]
                print(name, tries[-1], flush=True)
                if winner is None or distance < winner[0]:
                    winner = (distance, drawn, {**setting, "guidance": guidance}, labels)
        _, drawn, setting, labels = winner
        values = {}
        for network, here, there in zip(
            self.networks, self.measure(drawn.pixels, self.networks), self.reference, strict=True
        ):
            given = labels if network is first else None
            values.update(compare(network, here, there, labels=given, metrics=METRICS))
        kind = "conditional" if conditional else "unconditional"
        grid(drawn.pixels[:100], columns=10).save(self.options.out.parent / f"cifar10-{name}-{kind}.png")
        return {"setting": setting, **values, "tries": tries}


if __name__ == "__main__":
    main()
