"""How long the published runs take on this machine: training updates at full size, on random codes.

    python bench/recipes.py [--only base large] [--updates 4] [--no-compile] [--out F] [--smoke]

Each recipe of digit/run/recipes.py is trained for a few updates of one micro-batch (forward, backward,
clipping, optimizer), eagerly and compiled, in bf16 on a GPU; codes are on the device already. A whole update
is many micro-batches and one step of the optimizer, so the hours given here, which count one step for each
micro-batch, are an upper bound by a per cent or so. A micro-batch that does not fit into memory is halved.

Model FLOPs are the matrix products of loss and gradient (digit/training/flops.py). A recipe that fails leaves
its error in its row, and the others go on. After --seconds no compiled measurement is begun any more. How the
update was made fast, and how fast a plain GPT is beside it: bench/train.py.
"""

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from digit.errors import DigitError
from digit.evaluation.probe import pooled_states
from digit.files import write_json_atomic
from digit.nn.batch import CodeBatch
from digit.nn.linear_probe import FeatureBatch, Probe, ProbeConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.run.recipes import RECIPES, Recipe
from digit.training.flops import flops_per_sample, peak_flops
from digit.training.update import Updater

RESULT = Path(__file__).parent / "results" / "recipes.json"
# The most telling ones first: time may run out. Those of 400 epochs are the others, run twice as long.
ORDER = ("base", "large", "renderer_ar", "renderer_masked", "vq_only", "linear_probe", "ablation_39m")
WARM_UP = 2  # updates before the timed ones; a compiled stage compiles in the first


@dataclass(frozen=True)
class Job:
    """One recipe with its shape and the prior that its probe reads."""

    recipe: Recipe
    shape: Any
    prior: PriorConfig

    def build(self, device: torch.device) -> tuple[Any, Callable[[int], Any]]:
        """The stage, and `batch(size)` that gives it random codes."""
        recipe, shape = self.recipe, self.shape
        torch.manual_seed(recipe.training.seed)

        def codes(count: int, kinds: int, length: int) -> torch.Tensor:
            return torch.randint(kinds, (count, length), device=device)

        with device:
            if isinstance(shape, ProbeConfig):
                prior = Prior(self.prior).eval().requires_grad_(False)
                bf16 = torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda")

                def features(count: int) -> FeatureBatch:
                    with bf16:
                        states = pooled_states(prior, codes(count, self.prior.codes, self.prior.length))
                    return FeatureBatch(states, codes(count, shape.classes, 1)[:, 0])

                return Probe(shape), features
            if isinstance(shape, PriorConfig):
                labels = shape.classes or 1
                return Prior(shape), lambda count: CodeBatch(
                    codes(count, shape.codes, shape.length), codes(count, labels, 1)[:, 0]
                )
            stage = MaskedRenderer(shape) if isinstance(shape, MaskedConfig) else Renderer(shape)
            return stage, lambda count: CodeBatch(
                codes(count, shape.codes, shape.length), None, codes(count, shape.vq_codes, shape.vq_length)
            )


def main() -> None:
    """Measure, print and write after every recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), help="recipes to measure")
    parser.add_argument("--updates", type=int, default=4, help="timed updates")
    parser.add_argument("--no-compile", action="store_true", help="eager measurements only")
    parser.add_argument("--seconds", type=float, default=330, help="after which nothing more is compiled")
    parser.add_argument("--out", type=Path, help=f"JSON file for the result; {RESULT.name} in bench/results")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, eagerly, on the CPU; no file")
    options = parser.parse_args()
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() and not options.smoke else "cpu")
    out = options.out or (None if options.smoke else RESULT)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    limit = peak_flops(device)
    rows: dict[str, dict[str, Any]] = {}
    result = {"device": name, "torch": torch.__version__, "dense_bf16_flops": limit, "recipes": rows}
    chosen = sorted(options.only or RECIPES, key=lambda name: (*ORDER, name).index(name))
    modes = ["eager"] if options.smoke or options.no_compile else ["eager", "compiled"]
    known: dict[Any, dict[str, Any]] = {}
    for mode in modes:
        for recipe_name in chosen:
            recipe = RECIPES[recipe_name]
            row = rows.setdefault(recipe_name, describe(recipe))
            job = small(recipe) if options.smoke else Job(recipe, recipe.model, _prior())
            key = (mode, recipe.stage, job.shape, recipe.training.micro_batch)
            if key not in known:
                if mode == "compiled" and time.monotonic() - started > options.seconds:
                    known[key] = {"skipped": f"{options.seconds:.0f} seconds were over"}
                else:
                    known[key] = attempt(job, device, mode == "compiled", options.updates, limit)
            row[mode] = with_hours(known[key], recipe)
            print(recipe_name, mode, json.dumps(row[mode]), flush=True)
            result["seconds"] = time.monotonic() - started
            if out:
                write_json_atomic(out, result)
    failed = [f"{name} {mode}" for name, row in rows.items() for mode in modes if "error" in row[mode]]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the errors are in the rows above")


def describe(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the measurements rest on."""
    training = recipe.training
    return {
        "steps": training.steps,
        "batch": training.batch,
        "micro_batch": training.micro_batch,
        "seed": training.seed,
    }


def attempt(
    job: Job, device: torch.device, compiled: bool, updates: int, limit: float | None
) -> dict[str, Any]:
    """A measurement at the largest micro-batch that fits, or the error that prevented it."""
    size = job.recipe.training.micro_batch or job.recipe.training.batch
    while True:
        try:
            return measure(job, device, compiled, updates, limit, size)
        except torch.OutOfMemoryError as error:
            problem = str(error)
        except (RuntimeError, ValueError, DigitError) as error:
            return {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        finally:
            gc.collect()
            if compiled:
                torch._dynamo.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        if size == 1:
            return {"error": problem}
        size //= 2


def measure(
    job: Job, device: torch.device, compiled: bool, updates: int, limit: float | None, size: int
) -> dict[str, Any]:
    """Time `updates` updates of `size` samples, after a warm-up; memory is the peak in GiB."""
    flops = flops_per_image(job)
    stage, batch = job.build(device)
    training = replace(job.recipe.training, batch=size, micro_batch=None, compile=compiled)
    updater = Updater(stage, training, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def run(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            updater.update(batch(size))
        updater.read_losses("random codes")  # waits for the device
        return time.perf_counter() - begun

    with contextlib.ExitStack() as until:
        updater.accelerate(until)
        warm_up, seconds = run(WARM_UP), run(updates)
    rate = size * updates / seconds
    found = {
        "micro_batch": size,
        "parameters": sum(p.numel() for p in stage.parameters()),
        "gflop_per_image": flops / 1e9,
        "images_per_second": rate,
        "model_tflops": rate * flops / 1e12,
        "share_of_dense_bf16": None if limit is None else rate * flops / limit,
        "warm_up_seconds": warm_up,
    }
    if device.type == "cuda":
        found["memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    if compiled:  # none: the compiler failed, with a warning, and this is the eager time
        found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        torch._dynamo.utils.counters.clear()
    return found


def flops_per_image(job: Job) -> float:
    """The matrix products of loss and gradient for one image; nothing is computed."""
    stage, batch = job.build(torch.device("meta"))
    flops = flops_per_sample(stage, batch(2))
    assert flops is not None
    return flops


def with_hours(found: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The measurement with the hours of the whole run on one such device."""
    if "images_per_second" not in found:
        return found
    images = recipe.training.steps * recipe.training.batch
    return found | {"hours": images / found["images_per_second"] / 3600}


def small(recipe: Recipe) -> Job:
    """The same stage, tiny."""
    prior = replace(_prior(), codes=16, length=4, width=8, layers=1, heads=2)
    training = replace(recipe.training, batch=4, micro_batch=2)
    shape: Any = recipe.model
    if isinstance(shape, ProbeConfig):
        shape = replace(shape, width=8, classes=3, layers=2)
    elif isinstance(shape, PriorConfig):
        classes = min(shape.classes, 3)
        shape = replace(shape, codes=16, length=4, width=8, layers=1, heads=2, classes=classes)
    else:
        tiny = {"codes": 16, "length": 4, "vq_codes": 16, "vq_length": 4, "width": 8, "layers": 1, "heads": 2}
        shape = replace(shape, **tiny)
    return Job(replace(recipe, training=training), shape, prior)


def _prior() -> PriorConfig:
    shape = RECIPES["base"].model
    assert isinstance(shape, PriorConfig)
    return shape


if __name__ == "__main__":
    main()
