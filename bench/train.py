"""Training speed of the prior at full size on this machine, beside a plain compiled GPT of the same shape.

    python bench/train.py [--parts kernels base rival screen best large rival_large curves safe] [--out F]
    python bench/train.py --smoke

Updates are whole: codes from a tokenised set on disk through the loader, forward, backward, clipping, AdamW;
one update is one micro-batch. Each row gives tokens a second, the model's TFLOP/s (matrix products of loss
and gradient, of causal attention the lower half only), their share of this machine's matrix product and of
the data sheet (MFU), the peak of GPU memory and the share of the time spent waiting for data.

Parts run in the order given. kernels: the training kernels alone, their share of a copy's bandwidth and their
error beside torch's own in float32. base, large: the recipes' shapes as the package trains them, with the
choices of --set; safe: base without them. rival, rival_large: a GPT as users write it
(pre-norm, F.cross_entropy, torch.compile, autocast, fused AdamW, clip_grad_norm_), same shape and dropout.
screen: single choices reversed, at a quarter of the depth; best: the base shape with those that won.
curves: updates from equal starts, the package's compiled path beside its plain one (eager, float32
stream, torch's loss), without dropout, whose masks differ. The first base row and large's are profiled.
A part that fails is reported and the others go on, what the compiler cannot take is a failure here; after
--seconds nothing more is begun.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch._inductor.config
import torch.nn.functional as F
from machine import ceilings, describe, median_seconds, peak_gib, wait
from torch import Tensor, nn

import digit.prior
from digit.data.codes import FORMAT, CodeData, Codes
from digit.errors import DigitError
from digit.fast import training
from digit.files import write_json_atomic
from digit.nn.batch import CodeBatch
from digit.prior import Prior, PriorConfig
from digit.run.recipes import RECIPES
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.flops import flops_per_sample, peak_flops
from digit.training.update import Updater

PARTS = ("kernels", "base", "rival", "large", "curves", "screen", "best", "safe", "rival_large", "curves_pre")
INTERPRETED = not torch.cuda.is_available() and bool(os.environ.get("TRITON_INTERPRET"))
ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, AttributeError, DigitError)
if importlib.util.find_spec("triton"):
    ERRORS += (importlib.import_module("triton.errors").TritonError,)
GEMM, ATTENTION = ("gemm", "nvjet", "cutlass", "xmma"), ("flash", "fmha", "sdpa", "attention")


@dataclass(frozen=True)
class Way:
    """How an update is made. The defaults are the package's own."""

    micro: int = 256  # images a forward pass
    compiled: bool = True
    stream: str = "bf16"  # residual stream: bf16 or fp32
    dropout: str = "hash"  # mask: hash, philox (torch's) or none
    loss: str = "fused"  # fused, or plain: torch's own
    clip: str = "folded"  # into the optimizer, or torch: clip_grads_with_norm_
    attention: str = "default"  # or cudnn
    kernels: str = "on"  # training kernels between the matrix products of post-norm blocks, or off
    inductor: str = "default"  # or descent (coordinate_descent_tuning), gemms (max_autotune_gemm)


SCREENED = (
    Way(dropout="philox"),
    Way(kernels="off"),
    Way(stream="fp32"),
    Way(loss="plain"),
    Way(clip="torch"),
    Way(attention="cudnn"),
    Way(inductor="descent"),
    Way(compiled=False),
    Way(compiled=False, loss="plain"),
    Way(dropout="none"),
    Way(inductor="gemms"),
)
INDUCTOR = {
    "default": {},
    "descent": {"coordinate_descent_tuning": True},
    "gemms": {"max_autotune_gemm": True, "max_autotune_gemm_backends": "ATEN,TRITON"},
}


class Bench:
    """What all parts share: the device, its ceilings, the data, the rows so far and the clock."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        """Measure the ceilings."""
        self.smoke, self.seconds, self.out = options.smoke, options.seconds, options.out
        self.device = torch.device("cuda" if torch.cuda.is_available() and not options.smoke else "cpu")
        self.compile = self.device.type == "cuda" or options.compile
        self.folder, self.started, self.failed = folder, time.monotonic(), []
        sizes = {"side": 256, "megabytes": 8} if self.device.type == "cpu" else {}
        self.result: dict[str, Any] = {
            **describe(self.device),
            **ceilings(self.device, **sizes),
            "dense_bf16_tflops": (peak_flops(self.device) or 0.0) / 1e12 or None,
            "rows": {},
        }
        print(json.dumps(self.result), flush=True)
        self.clean()

    def shape(self, name: str) -> PriorConfig:
        """A recipe's prior, or a tiny one."""
        config: Any = RECIPES[name].model
        if self.smoke:
            config = replace(config, codes=80, length=4, width=32, layers=2, heads=2)
        return config

    def row(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Run one measurement, print it and write the file; None where it failed or time is over."""
        if time.monotonic() - self.started > self.seconds:
            found: dict[str, Any] = {"skipped": f"{self.seconds:.0f} seconds were over"}
        else:
            try:
                found = work()
            except ERRORS as error:
                found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
                self.failed.append(name)
        self.clean()
        found["at_seconds"] = round(time.monotonic() - self.started, 1)
        self.result["rows"][name] = found
        print(
            name, json.dumps({k: v for k, v in found.items() if k not in ("kernels", "curves")}), flush=True
        )
        if self.out:
            write_json_atomic(self.out, self.result)
        return found if "error" not in found and "skipped" not in found else None

    def clean(self) -> None:
        """Forget compiled code and give memory back."""
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def data(self, config: PriorConfig, batch: int) -> CodeData:
        """The loader over a set of 16,384 images in which each code mostly follows from the one before it."""
        path = self.folder / f"{config.codes}-{config.length}"
        if not path.exists():
            path.mkdir()
            images = 64 if self.smoke else 16_384
            np.save(path / "codes.npy", chains(images, config.length, config.codes)[:, None])
            stream = {"vocabulary": config.codes, "artifact": "0" * 64}
            meta = {"format": FORMAT, "images": images, "labelled": False, "classes": [], "files": {}}
            (path / "meta.json").write_text(json.dumps(meta | {"streams": {"codes": stream}}))
        return CodeData(Codes(path, verify=False), batch_size=batch, device=self.device)

    def speed(
        self, config: PriorConfig, batch: int, update: Callable[[], object], *, begun: float
    ) -> dict[str, Any]:
        """Warm up, time, and relate to the ceilings; `begun` is when the model was built."""
        for _ in range(1 if self.smoke else 3):
            update()
        wait(self.device)
        warm_up = time.monotonic() - begun
        updates = 1 if self.smoke else max(2, 512 // batch)

        def several() -> None:
            for _ in range(updates):
                update()

        repeats = 1 if self.smoke else 7
        seconds = median_seconds(several, self.device, repeats=repeats, warm_up=1) / updates
        with torch.device("meta"):
            flops = flops_per_sample(
                Prior(config), CodeBatch(torch.empty(2, config.length, dtype=torch.int64))
            )
        assert flops is not None
        rate = batch * flops / seconds / 1e12
        peak = self.result["dense_bf16_tflops"]
        return {
            "tokens_per_second": batch * config.length / seconds,
            "update_ms": seconds * 1e3,
            "model_tflops": rate,
            "share_of_matmul": rate / self.result["matmul_tflops"],
            "mfu": peak and rate / peak,
            "peak_gib": peak_gib(self.device),
            "warm_up_seconds": warm_up,
        }


def chains(images: int, length: int, codes: int) -> np.ndarray:
    """Codes (images, length), uint16: with probability 0.7 a fixed function of the code before, else any."""
    random = np.random.default_rng(0)
    follows = random.permutation(codes)
    found = random.integers(codes, size=(images, length))
    kept = random.random((images, length)) < 0.7
    for place in range(1, length):
        found[:, place] = np.where(kept[:, place], follows[found[:, place - 1]], found[:, place])
    return found.astype(np.uint16)


@contextlib.contextmanager
def choose(way: Way) -> Iterator[None]:
    """Inside, the package's choices are those of `way`."""
    with contextlib.ExitStack() as stack:
        for chosen, module, name, other in (
            (way.stream == "fp32", digit.prior, "stream", lambda x: x),
            (way.dropout == "philox", training, "hashed", lambda x: False),
            (way.loss == "plain", training, "fused", lambda x: False),
        ):
            if chosen:
                stack.enter_context(mock.patch.object(module, name, other))
        stack.enter_context(torch._inductor.config.patch(INDUCTOR[way.inductor]))
        if way.attention == "cudnn" and torch.cuda.is_available():
            kernels = torch.nn.attention.SDPBackend
            stack.enter_context(torch.nn.attention.sdpa_kernel([kernels.CUDNN_ATTENTION]))
        yield


def named(settings: list[str]) -> dict[str, Any]:
    """Fields of Way from `stream=fp32`-like words; DigitError for one it has not."""
    fields = asdict(Way())
    found = {key: value for key, _, value in (word.partition("=") for word in settings)}
    for key, value in found.items():
        if key not in fields or key in ("micro", "compiled") or not value:
            raise DigitError(f"--set {key}={value}: give one of {', '.join(list(fields)[2:])} and a value")
    return found


def ours(bench: Bench, config: PriorConfig, way: Way, *, profiled: bool = False) -> dict[str, Any]:
    """The package's update; a micro-batch that does not fit is halved."""
    if way.dropout == "none":
        config = replace(config, dropout=0.0)
    if bench.smoke:
        way = replace(way, micro=4)
    while True:
        try:
            return _ours(bench, config, way, profiled)
        except torch.OutOfMemoryError as error:
            if way.micro == 1:
                raise
            problem = str(error)[:120]
        way = replace(way, micro=way.micro // 2)
        print(f"does not fit ({problem}): {way.micro} images", flush=True)
        bench.clean()


def _ours(bench: Bench, config: PriorConfig, way: Way, profiled: bool) -> dict[str, Any]:
    begun = time.monotonic()
    updater = build(bench, config, way, updates=10**6)
    if way.clip == "torch":
        updater._clips_itself = False
    data, waited = bench.data(config, way.micro), [0.0]

    def update() -> None:
        start = time.perf_counter()
        batch = data(updater.step)
        waited[0] += time.perf_counter() - start
        updater.update(batch)

    compiled = bench.compile and way.compiled
    with choose(way), strictly(updater) if compiled else contextlib.nullcontext():
        found = bench.speed(config, way.micro, update, begun=begun)
        waited[0], start = 0.0, time.perf_counter()
        for _ in range(4):
            update()
        wait(bench.device)
        found["stall"] = waited[0] / (time.perf_counter() - start)
        updater.read_losses("random codes")
        found["loss"] = updater.losses[-1]
        if compiled:
            found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        torch._dynamo.utils.counters.clear()
        if profiled and bench.device.type == "cuda":
            found |= profile(update, bench.device)
    return found | {"way": asdict(way)}


@contextlib.contextmanager
def strictly(updater: Updater) -> Iterator[None]:
    """Inside, updates run compiled, and what the compiler cannot take is an error."""
    with updater.compiled(), torch._dynamo.config.patch(suppress_errors=False):
        yield


def build(bench: Bench, config: PriorConfig, way: Way, *, updates: int) -> Updater:
    """A fresh prior with the recipe's optimizer; kernels as chosen, on a CPU interpreted ones."""
    torch.manual_seed(1)
    with bench.device:
        stage = Prior(config)
    adam = OptimizerConfig(warmup=50)
    updater = Updater(
        stage, TrainConfig(steps=updates, batch=way.micro, optimizer=adam, seed=1), bench.device
    )
    kernels = way.kernels == "on"
    training.use(stage, bench.device, bf16=bench.device.type == "cuda", sharded=False, kernels=kernels)
    if kernels and INTERPRETED and config.norm == "post":
        from digit.fast.blocks import blocks  # Triton is only where torch is made for GPUs

        stage.transformer.forward = lambda x: blocks(stage.transformer, stage.transformer.dropout(x))
    return updater


def profile(update: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """The kernels of three updates: milliseconds an update, share and calls; and in groups."""
    wait(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        start = time.perf_counter()
        for _ in range(3):
            update()
        wait(device)
        seconds = time.perf_counter() - start
    events = [event for event in recorded.key_averages() if event.self_device_time_total > 0]
    events.sort(key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events)
    kernels, groups = [], {}
    for event in events:
        milliseconds = event.self_device_time_total / 3e3
        lower = event.key.lower()
        group = "others"
        if lower.startswith("triton"):
            group = "compiled"
        elif any(word in lower for word in ATTENTION):
            group = "attention"
        elif any(word in lower for word in GEMM):
            group = "matrix products"
        elif "multi_tensor" in lower or "foreach" in lower:
            group = "optimizer"
        groups[group] = groups.get(group, 0.0) + milliseconds
        share = event.self_device_time_total / total
        kernels.append(
            {"name": event.key[:160], "ms": milliseconds, "share": share, "calls": event.count / 3}
        )
    busy = {"groups_ms": groups, "busy": total / 1e6 / seconds, "kernels": kernels[:45]}
    for kernel in kernels[:30]:
        print(
            f"  {kernel['ms']:8.3f} ms {kernel['share']:6.1%} x{kernel['calls']:<5.0f} {kernel['name'][:110]}"
        )
    return busy


def kernels(bench: Bench, config: PriorConfig) -> dict[str, Callable[[], dict[str, Any]]]:
    """Measurements of the training kernels on 65,536 rows, each by its name; none without a GPU or Triton's
    interpreter."""
    if bench.device.type == "cpu" and not INTERPRETED:
        return {}
    from digit.fast.kernels.add_norm import AddNorm
    from digit.fast.kernels.gelu import BiasGelu
    from digit.fast.kernels.heads import Heads

    images, width, heads = (2, config.width, config.heads) if bench.smoke else (256, 1024, 16)
    rows, share = images * config.length, 0.1
    some = torch.Generator(bench.device).manual_seed(0)

    def random(*shape: int, half: bool = True, mean: float = 0.0) -> Tensor:
        values = torch.randn(shape, generator=some, device=bench.device) * 0.5 + mean
        return (values.bfloat16() if half else values).requires_grad_()

    def add_norm() -> dict[str, Any]:
        branch, residual = random(rows, width), random(rows, width)
        vectors = [random(width, half=False, mean=mean) for mean in (0.0, 1.0, 0.0)]  # bias, gain, shift
        seeds = torch.tensor([5, -6], dtype=torch.int32, device=bench.device)

        def mine(b: Tensor, r: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
            return AddNorm.apply(b, bias, r, gain, shift, seeds, 1, share, 1e-5)

        flat = torch.zeros_like(vectors[0])
        zeros = torch.zeros_like(branch)
        kept = mine(zeros + 1, zeros, flat, flat + 1, flat)[0] > 0  # what was dropped is below the mean

        def plain(b: Tensor, r: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
            z = r + torch.where(kept, (b + bias) / (1 - share), 0.0)
            y = F.layer_norm(z, (width,), gain, shift, 1e-5)
            return y, y

        inputs = (branch, residual, *vectors)
        found = compared(bench, mine, plain, inputs, moved=(3, 6))
        return found | {"kept": kept.double().mean().item()}

    def gelu() -> dict[str, Any]:
        inputs = (random(rows, 4 * width), random(4 * width, half=False))
        return compared(
            bench, lambda h, b: (BiasGelu.apply(h, b),), lambda h, b: (F.gelu(h + b),), inputs, moved=(8, 12)
        )

    def split() -> dict[str, Any]:
        def plain(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
            joined = F.linear(x, w, b).view(images, -1, 3, heads, width // heads)
            return joined.permute(2, 0, 3, 1, 4).unbind(0)

        inputs = (random(rows, width), random(3 * width, width, half=False), random(3 * width, half=False))
        return compared(bench, lambda x, w, b: Heads.apply(x, w, b, images, heads), plain, inputs, moved=None)

    return {"add and norm": add_norm, "gelu": gelu, "heads": split}


def compared(
    bench: Bench,
    mine: Callable[..., tuple[Tensor, ...]],
    plain: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    *,
    moved: tuple[int, int] | None,
) -> dict[str, Any]:
    """Relative errors of outputs and gradients against float32, and times and bandwidths of both passes.

    `moved`: how many tensors of `width` bf16 columns are read and written forward and backward, if no
    matrix products are part of it.
    """
    outputs = mine(*inputs)
    given = [torch.randn_like(each, memory_format=torch.contiguous_format) for each in outputs]
    found = [*outputs, *torch.autograd.grad(outputs, inputs, given, retain_graph=True)]
    exact = [each.detach().float().requires_grad_() for each in inputs]
    wanted = plain(*exact)
    right = [*wanted, *torch.autograd.grad(wanted, exact, [each.float() for each in given])]
    errors = [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, right, strict=True)]
    del exact, wanted, right
    row: dict[str, Any] = {"relative_errors": errors}
    if max(errors) > 0.02:
        raise ValueError(f"relative errors of outputs and gradients are {errors}")
    times = 1 if bench.smoke else 10

    def forward() -> None:
        with torch.no_grad():
            for _ in range(times):
                mine(*inputs)

    def backward() -> None:
        for _ in range(times):
            torch.autograd.grad(outputs, inputs, given, retain_graph=True)

    for number, (name, work) in enumerate((("forward", forward), ("backward", backward))):
        seconds = median_seconds(work, bench.device, repeats=3) / times
        row[f"{name}_us"] = seconds * 1e6
        if moved is not None:
            size = len(inputs[0]) * 2 * (1024 if not bench.smoke else 1)
            row[f"{name}_share_of_copy"] = (
                moved[number] * size / seconds / 1e12 / bench.result["copy_tb_per_s"]
            )
    return row


class PlainBlock(nn.Module):
    """Causal attention and a feed-forward part, LayerNorm before each."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(d, dim=2)
        q, k, v = (each.view(b, n, self.heads, d // self.heads).transpose(1, 2) for each in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).contiguous().view(b, n, d)
        x = x + F.dropout(self.out(mixed), self.dropout, self.training)
        return x + self.mlp(self.norm_2(x))


class PlainGPT(nn.Module):
    """A GPT as it is usually written: tables for codes and positions, blocks, a norm and a head."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.codes = nn.Embedding(config.codes + 1, config.width)  # the last row starts a sequence
        self.positions = nn.Embedding(config.length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PlainBlock(config.width, config.heads, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.codes, bias=False)
        self.start = config.codes
        self.smoothing = config.label_smoothing

    def forward(self, codes: Tensor) -> Tensor:
        """The loss."""
        read = torch.cat((torch.full_like(codes[:, :1], self.start), codes[:, :-1]), dim=1)
        x = self.dropout(self.codes(read) + self.positions.weight)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), label_smoothing=self.smoothing)


def rival(bench: Bench, config: PriorConfig, micro: int) -> dict[str, Any]:
    """The plain GPT's update."""
    begun, micro = time.monotonic(), 4 if bench.smoke else micro
    torch.manual_seed(1)
    with bench.device:
        model = PlainGPT(config)
    loss: Any = torch.compile(model) if bench.compile else model
    fused = bench.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.98), fused=fused)
    codes = torch.randint(config.codes, (64, micro, config.length), device=bench.device)
    half = torch.autocast(bench.device.type, torch.bfloat16, enabled=fused)
    step = [0]

    def update() -> None:
        step[0] += 1
        with half:
            value = loss(codes[step[0] % 64])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return bench.speed(config, micro, update, begun=begun) | {"micro": micro}


def curves(bench: Bench, config: PriorConfig, choices: dict[str, Any], updates: int) -> dict[str, Any]:
    """Losses of the plain and of the package's path from equal starts; the largest difference."""
    config = replace(config, dropout=0.0)
    updates, micro = (3, 4) if bench.smoke else (updates, 64)
    plain = Way(micro, compiled=False, stream="fp32", loss="plain", clip="torch", kernels="off")
    found: dict[str, list[float]] = {}
    for name, way in (("plain", plain), ("fast", Way(micro, **choices))):
        updater = build(bench, config, way, updates=updates)
        updater._clips_itself &= way.clip == "folded"
        data = bench.data(config, micro)
        with choose(way), strictly(updater) if way.compiled and bench.compile else contextlib.nullcontext():
            for step in range(updates):
                updater.update(data(step))
            updater.read_losses("none")
        found[name] = updater.losses
        del updater
        bench.clean()
    first = found["plain"]
    return {
        "curves": found,
        "last": {name: losses[-1] for name, losses in found.items()},
        "first": first[0],
        "largest_difference": {
            name: max(abs(a - b) for a, b in zip(first, losses, strict=True))
            for name, losses in found.items()
        },
        "mean_difference_of_the_last_50": {
            name: float(np.mean(losses[-50:]) - np.mean(first[-50:])) for name, losses in found.items()
        },
    }


def screen(bench: Bench, config: PriorConfig, fastest: Way) -> Way:
    """Time single choices reversed at a quarter of the depth; the way with all that won by 0.3 %."""
    config = replace(config, layers=max(1, config.layers // 4))
    reference = bench.row("screen, package", lambda: ours(bench, config, Way(micro=128)))
    best = fastest
    for way in SCREENED:
        changed = {key: value for key, value in asdict(way).items() if value != asdict(Way())[key]}
        name = f"screen, {', '.join(f'{key} {value}' for key, value in changed.items())}"
        found = bench.row(name, lambda way=way: ours(bench, config, replace(way, micro=128)))
        if found and reference and way.dropout != "none":
            ratio = found["update_ms"] / reference["update_ms"]
            print(f"  {ratio - 1:+.2%} in time", flush=True)
            if ratio < 0.997:
                best = replace(best, **changed)
    return best


def main() -> None:
    """Measure the parts asked for, in order of worth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--micro", type=int, nargs="+", default=[256, 128], help="of base")
    parser.add_argument("--micro-rival", type=int, nargs="+", default=[256])
    parser.add_argument("--micro-large", type=int, nargs="+", default=[128])
    parser.add_argument("--updates", type=int, default=200, help="of curves")
    parser.add_argument("--set", nargs="+", default=[], help="choices for base and large, as stream=fp32")
    parser.add_argument("--seconds", type=float, default=500, help="after which nothing more is begun")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU, to see that it runs")
    parser.add_argument("--compile", action="store_true", help="compile on the CPU too")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        run(bench, options)
    if bench.failed:
        sys.exit(f"failed: {', '.join(bench.failed)}; the errors are in the rows above")


def run(bench: Bench, options: argparse.Namespace) -> None:
    """The parts, in their order."""
    base, large, choices = bench.shape("base"), bench.shape("large"), named(options.set)
    fastest, best, speed = Way(**choices), Way(**choices), 0.0
    for part in options.parts:
        if part == "kernels":
            for name, work in kernels(bench, base).items():
                if bench.row(f"kernel, {name}", work) is None and choices.get("kernels") != "off":
                    choices["kernels"] = "off"
                    print("a training kernel failed: the rows below are without them", flush=True)
        elif part == "base":
            for micro in options.micro:
                way = Way(micro, **choices)
                profiled = micro == options.micro[0]
                found = bench.row(
                    f"base, {micro}", lambda w=way, p=profiled: ours(bench, base, w, profiled=p)
                )
                if found is None and choices.get("kernels") != "off":
                    choices["kernels"] = "off"
                    print("base failed: the rows below are without training kernels", flush=True)
                if found and found["tokens_per_second"] > speed:
                    fastest = best = way
                    speed = found["tokens_per_second"]
        elif part == "safe":
            safe = Way(options.micro[0], kernels="off")
            bench.row("safe", lambda way=safe: ours(bench, base, way, profiled=True))
        elif part == "rival":
            for micro in options.micro_rival:
                bench.row(f"rival, {micro}", lambda m=micro: rival(bench, base, m))
        elif part == "large":
            for micro in options.micro_large:
                way = Way(micro, **choices)
                profiled = micro == options.micro_large[0]
                bench.row(f"large, {micro}", lambda w=way, p=profiled: ours(bench, large, w, profiled=p))
        elif part == "screen":
            best = screen(bench, base, fastest)
        elif part == "best" and best != fastest:
            bench.row("base, best", lambda way=best: ours(bench, base, way, profiled=True))
        elif part == "rival_large":
            bench.row("rival, large", lambda: rival(bench, large, options.micro_large[0] // 2))
        elif part in ("curves", "curves_pre"):
            shape = replace(base, norm="pre" if part == "curves_pre" else "post")
            bench.row(part, lambda s=shape: curves(bench, s, choices, options.updates))
    compare(bench)


def compare(bench: Bench) -> None:
    """The ratio of the fastest row to the fastest rival, as users meet them, and a table."""
    rows = {name: row for name, row in bench.result["rows"].items() if "tokens_per_second" in row}
    ratios = bench.result.setdefault("ratio_to_rival", {})
    for mine, others in (("base", "rival, "), ("large", "rival, large")):
        own = [row["tokens_per_second"] for name, row in rows.items() if name.startswith(f"{mine},")]
        peers = [
            row["tokens_per_second"]
            for name, row in rows.items()
            if name.startswith(others) and ("large" in name) == (mine == "large")
        ]
        if own and peers:
            ratios[mine] = max(own) / max(peers)
    for name, row in rows.items():
        memory = "" if row["peak_gib"] is None else f"{row['peak_gib']:5.1f} GiB"
        mfu = "" if row["mfu"] is None else f"MFU {row['mfu']:.1%}"
        print(
            f"{name:32} {row['tokens_per_second']:10,.0f} tokens/s {row['update_ms']:8.2f} ms "
            f"{row['model_tflops']:6.1f} TFLOP/s ({row['share_of_matmul']:.1%}) {mfu} {memory}"
        )
    if bench.out:
        write_json_atomic(bench.out, bench.result)


if __name__ == "__main__":
    main()
