"""Sampling speed: prior, the renderers and the whole chain, each beside its limit and a rival.

    python bench/sampler.py [--parts prior renderer masked flow chain agreement rival length kernels]
        [--llamagen DIR [--llamagen-batches B ...]] [--device D] [--seconds S] [--out F] [--smoke]

Models have the published base shapes and random weights: speed does not depend on them. A row gives images a
second, the share of the limit, and peak memory. The limit is counted from this machine's own ceilings: the
larger of reading the weights and computing the products, plus reading the filled part of the caches, for each
position. The rivals are this package's plain path (eager PyTorch with a growing view of its cache) and, with
--llamagen, that project's own compiled code at the prior's shape: DIR is its repository, which is not
part of this one.
"""

import argparse
import gc
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from machine import ceilings, device_of, heading, median_seconds, parser, peak_gib, wait
from torch import nn

from digit.files import write_json_atomic
from digit.nn import forms
from digit.nn.sampling import SamplerConfig
from digit.nn.transformer import TransformerConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_flow import FlowConfig, FlowRenderer
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig

TOP_K, TOP_P = SamplerConfig(top_k=200), SamplerConfig(top_p=0.8)  # the published settings of the two stages
# To choose between: outputs and warps; rows, outputs, inputs, warps and stages.
FEW_TILES = ((16, 2), (32, 2), (32, 4), (64, 4))
TILES = (
    *((64, 32, 128, 4, 4), (64, 64, 64, 4, 6), (64, 128, 64, 4, 3), (64, 256, 64, 4, 4)),
    *((128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3)),
)
PARTS = ("agreement", "prior", "renderer", "masked", "flow", "chain", "rival", "length", "kernels")


@dataclass(frozen=True)
class Scale:
    """Shapes and batches."""

    prior: PriorConfig
    renderer: RendererConfig
    masked: MaskedConfig
    flow: FlowConfig
    vqgan: VQGANConfig
    batches: tuple[int, ...]
    masked_batches: tuple[int, ...]
    chain: int
    lengths: tuple[int, ...]


FULL = Scale(
    PriorConfig(8192, 256),
    RendererConfig(8192, 256, 1024, 256),
    MaskedConfig(8192, 256, 1024, 256),
    FlowConfig(8192, 256, 256, patch=16, width=768, layers=12, heads=12, steps=2, taught_guidance=2.5),
    VQGANConfig(),
    (1, 8, 64, 256, 512, 1024, 2048),
    (1, 8, 64, 128),
    1024,
    (64, 128, 256, 512, 1024),
)
# On a CPU the bundled model's shapes, for time against length.
SMALL = replace(
    FULL,
    prior=PriorConfig(1024, 64, width=320, layers=8, heads=5, norm="pre"),
    batches=(1, 8),
    lengths=(16, 64, 256),
)
_TINY = {"width": 32, "layers": 1, "heads": 2}
SMOKE = Scale(
    PriorConfig(16, 4, **_TINY),
    RendererConfig(16, 4, 8, 4, **_TINY),
    MaskedConfig(16, 4, 8, 4, **_TINY, steps=2),
    FlowConfig(16, 4, 8, **_TINY, steps=2),
    VQGANConfig(image_size=8, width=8, multipliers=(1, 1, 2), blocks=1, codes=8, code_dim=4),
    (1, 2),
    (2,),
    2,
    (4, 8),
)


class Bench:
    """Models on the device, and rows as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Ceilings first."""
        self.options, self.device = options, device_of(options)
        self.scale = SMOKE if options.smoke else SMALL if self.device.type == "cpu" else FULL
        self.started = time.monotonic()
        self.limits = ceilings(
            self.device, **({} if self.device.type == "cuda" else {"side": 256, "megabytes": 8})
        )
        self.rows: list[dict[str, Any]] = []
        self.failed: list[str] = []
        torch.manual_seed(0)

    def go(self) -> None:
        """Every part that was asked for, a failing one notwithstanding."""
        for part in self.options.parts:
            if time.monotonic() - self.started > self.options.seconds:
                self.failed.append(f"{part}: no time left")
                continue
            try:
                getattr(self, part)()
            except (RuntimeError, ValueError, AssertionError, ImportError, OSError) as error:
                # One part that fails must not cost the others' measurements; the exit code tells.
                self.failed.append(f"{part}: {type(error).__name__}: {str(error)[:800]}")
                print(self.failed[-1], flush=True)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.write()

    def write(self) -> None:
        """What is known so far."""
        result = {
            **heading("sampling speed", self.device),
            "ceilings": self.limits,
            "seconds": time.monotonic() - self.started,
            "rows": self.rows,
            "failed": self.failed,
        }
        if self.options.out:
            write_json_atomic(self.options.out, result)

    def row(self, name: str, batch: int, **values: Any) -> None:
        """Keep and print."""
        row = {"name": name, "batch": batch, **values}
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def model(self, kind: Callable[[Any], nn.Module], config: Any) -> Any:
        """Random weights, on the device."""
        with self.device:
            return kind(config).eval()

    def timed(
        self, name: str, batch: int, work: Callable[[], object], *, limit: float | None, **more: Any
    ) -> float:
        """Images a second of `work`, after a first call that is timed by itself; `limit` where known."""
        if self.device.type == "cuda":
            from digit.fast.decoding import forget  # Triton exists on GPU machines only

            forget()  # the caches of the row before are not this one's memory
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        work()
        wait(self.device)
        first = time.perf_counter() - start
        seconds = median_seconds(work, self.device, repeats=3 if batch > 64 else 5, warm_up=1)
        rate = batch / seconds
        self.row(
            name,
            batch,
            images_per_second=rate,
            milliseconds=1e3 * seconds,
            share_of_limit=None if limit is None else rate / limit,
            limit_images_per_second=limit,
            first_call_seconds=first,
            peak_gib=peak_gib(self.device),
            **more,
        )
        return rate

    def decode_limit(
        self,
        config: TransformerConfig,
        batch: int,
        *,
        prefix: int,
        length: int,
        rows: int,
        bytes_each: float = 2,
    ) -> float:
        """Images a second of decoding `length` codes behind a prefix, `rows` logits each."""
        rate, bandwidth = self.limits["matmul_tflops"] * 1e12, self.limits["copy_tb_per_s"] * 1e12
        weights = 12 * config.layers * config.width**2 + rows * config.width
        step = max(2 * weights / bandwidth, 2 * weights * batch / rate)
        positions = sum(prefix + i for i in range(length))
        caches = 2 * config.layers * config.width * bytes_each * positions * batch / bandwidth
        filling = 2 * weights * max(0, prefix - 1) * batch / rate
        return batch / (step * length + caches + filling)

    def prior(self) -> None:
        """Stage 1, at every batch."""
        config = self.scale.prior
        prior = self.model(Prior, config)
        size = prior.transformer.config
        for batch in self.scale.batches:
            limit = self.decode_limit(size, batch, prefix=1, length=config.length, rows=config.codes)

            def work(batch: int = batch, **more: Any) -> None:
                prior.sample(range(batch), config=TOP_K, batch_size=batch, **more)

            self.timed("prior, top-k 200", batch, work, limit=limit)
        if self.device.type == "cuda":
            for batch in self.scale.batches[-2:]:
                limit = self.decode_limit(
                    size, batch, prefix=1, length=config.length, rows=config.codes, bytes_each=1
                )
                self.timed(
                    "prior, top-k 200, cache of 8 bits",
                    batch,
                    lambda batch=batch: prior.sample(
                        range(batch), config=TOP_K, batch_size=batch, cache_bits=8
                    ),
                    limit=limit,
                )
            self.profile("prior", lambda: prior.sample(range(1024), config=TOP_K, batch_size=1024))
            self.profile("prior, one image", lambda: prior.sample([0], config=TOP_K))

    def length(self) -> None:
        """Stage 1 at one batch and several lengths."""
        batch = self.scale.batches[-1] if self.device.type == "cpu" else 256
        for length in self.scale.lengths:
            config = replace(self.scale.prior, length=length)
            prior = self.model(Prior, config)
            limit = self.decode_limit(
                prior.transformer.config, batch, prefix=1, length=length, rows=config.codes
            )
            self.timed(
                f"prior, length {length}",
                batch,
                lambda prior=prior: prior.sample(range(batch), config=TOP_K, batch_size=batch),
                limit=limit,
                length=length,
            )

    def renderer(self) -> None:
        """Stage 2, autoregressive, prefix included."""
        config = self.scale.renderer
        renderer = self.model(Renderer, config)
        codes = torch.randint(config.codes, (max(self.scale.batches), config.length))
        for batch in (b for b in self.scale.batches if b in (1, 2, 256, 512, 1024)):
            kinds = (16, 8) if self.device.type == "cuda" and batch == 1024 else (16,)
            for bits in kinds:
                limit = self.decode_limit(
                    renderer.transformer.config,
                    batch,
                    prefix=config.length + 1,
                    length=config.vq_length,
                    rows=config.vq_codes,
                    bytes_each=bits / 8,
                )
                self.timed(
                    "autoregressive renderer, top-p 0.8" + (", cache of 8 bits" if bits == 8 else ""),
                    batch,
                    lambda batch=batch, bits=bits: renderer.sample(
                        codes[:batch], range(batch), TOP_P, batch_size=batch, cache_bits=bits
                    ),
                    limit=limit,
                )
        if self.device.type == "cuda":
            self.profile(
                "autoregressive renderer",
                lambda: renderer.sample(codes[:512], range(512), TOP_P, batch_size=512),
            )

    def masked(self) -> None:
        """Stage 2, masked."""
        config = self.scale.masked
        renderer = self.model(MaskedRenderer, config)
        codes = torch.randint(config.codes, (max(self.scale.masked_batches), config.length))
        n = config.length + config.vq_length + 1
        products = 24 * config.layers * config.width**2 * n + 4 * n**2 * config.width * config.layers
        limit = self.limits["matmul_tflops"] * 1e12 / (products * config.steps)
        for batch in self.scale.masked_batches:
            self.timed(
                f"masked renderer, {config.steps} steps",
                batch,
                lambda batch=batch: renderer.sample(codes[:batch], range(batch), batch_size=batch),
                limit=limit,
            )
        if self.device.type == "cuda":
            self.profile("masked renderer", lambda: renderer.sample(codes[:64], range(64), batch_size=64))
            self.profile("masked renderer, one image", lambda: renderer.sample(codes[:1], [0]))

    def flow(self) -> None:
        """Codes to pixels without a VQGAN, in few passes and more."""
        config = self.scale.flow
        renderer = self.model(FlowRenderer, config)
        codes = torch.randint(config.codes, (max(self.scale.masked_batches), config.length))
        weights = config.layers * 12 * config.width**2  # of each patch; 6 more of each picture are left out
        products = 2 * weights * config.side**2 + 4 * config.layers * config.width * config.side**4
        for batch, steps in itertools.product(self.scale.masked_batches, (1, 2, 4, 8)):
            self.timed(
                f"flow renderer, {steps} passes",
                batch,
                lambda batch=batch, steps=steps: renderer.sample(codes[:batch], range(batch), steps=steps),
                limit=self.limits["matmul_tflops"] * 1e12 / (products * steps),
                parameters=sum(weight.numel() for weight in renderer.parameters()),
            )
        with forms.plain():
            self.timed(
                f"flow renderer, {config.steps} passes, plain",
                batch,
                lambda: renderer.sample(codes[:batch], range(batch)),
                limit=self.limits["matmul_tflops"] * 1e12 / (products * config.steps),
            )
        if self.device.type == "cuda":
            self.profile("flow renderer", lambda: renderer.sample(codes[:64], range(64)))

    def chain(self) -> None:
        """Labels to uint8 pixels on the device."""
        scale, batch = self.scale, self.scale.chain
        prior, renderer = self.model(Prior, scale.prior), self.model(Renderer, scale.renderer)
        masked, vqgan = self.model(MaskedRenderer, scale.masked), self.model(VQGAN, scale.vqgan)
        from digit.pipeline import DigitPipeline

        others = {"renderer_masked": masked, "renderer_flow": self.model(FlowRenderer, scale.flow)}
        pipeline = DigitPipeline(prior, vqgan, renderer=renderer, **others)
        for name in ("autoregressive", "masked", "flow"):
            how = {"top_k": 200, "renderer": name, "batch_size": batch}
            how |= {"steps": scale.masked.steps} if name == "masked" else {}
            self.timed(
                f"whole chain, {name}, to pictures in memory",
                batch,
                lambda how=how: pipeline(seeds=range(batch), **how),
                limit=None,
            )

    def agreement(self) -> None:
        """Fast against plain: the same codes in float32; how far next-code distributions lie in bfloat16."""
        from digit.fast import usable

        if not usable(self.device):
            self.row("agreement", 0, skipped="no kernels on this device")
            return
        prior = self.model(Prior, self.scale.prior)
        seeds = range(16)
        exact = prior.sample(seeds, config=TOP_K, autocast=False)
        with forms.plain():
            plain = prior.sample(seeds, config=TOP_K, autocast=False)
        self.row(
            "prior, float32: share of codes equal to the plain path's",
            16,
            share=(exact == plain).float().mean().item(),
        )
        few = prior.sample([0, 1], config=TOP_K, autocast=False)
        self.row("the same by the kernels for few rows", 2, share=(few == plain[:2]).float().mean().item())
        self.distributions(prior, plain, "random weights")

    def distributions(self, prior: Prior, codes: torch.Tensor, what: str) -> None:
        """Total variation of next-code distributions to float32's, teacher-forced on given codes."""
        from digit.fast.decoding import FastDecoder, Shape
        from digit.fast.kernels.draw import Filters

        with torch.no_grad():
            truth = prior.logits(codes).softmax(-1)
            with torch.autocast("cuda", torch.bfloat16):
                cast = prior.logits(codes).float().softmax(-1)
        self.row(f"total variation to float32, autocast, {what}", len(codes), **spread(truth, cast))
        kinds = {"few rows": (2, 16), "16 bits": (len(codes), 16), "8 bits": (len(codes), 8)}
        for name, (rows, bits) in kinds.items():
            shape = Shape(
                rows, False, codes.shape[1], codes.shape[1], torch.bfloat16, bits, Filters(*[False] * 5)
            )
            with torch.inference_mode():
                decoder = FastDecoder(prior.transformer, prior.tables(), shape)
                decoder.filled.zero_()
                read = prior.embed(codes[:rows, :-1])
                found = []
                for position in range(read.shape[1]):
                    decoder.embedded.copy_(read[:, position])
                    found.append(decoder.scores(0)[:, : prior.config.codes].float())
                    decoder.filled += 1
            made = torch.stack(found, 1).softmax(-1)
            self.row(f"total variation to float32, fast, {name}, {what}", rows, **spread(truth[:rows], made))

    def kernels(self) -> None:
        """Tiles of the kernels of decoding, to choose between, and attention of whole sequences."""
        if self.device.type != "cuda":
            return
        for rows, bits in itertools.product((1, 64, 2048), (16, 8)):
            self.attention(rows, bits)
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for n, causal, size in ((513, False, 64), (256, True, 256)):
            q = torch.randn(size, n, 3, 16, 64, device=self.device, dtype=torch.bfloat16)
            queries, keys, values = q.permute(2, 0, 3, 1, 4).unbind(0)
            whole = partial(F.scaled_dot_product_attention, queries, keys, values, is_causal=causal)
            for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
                with sdpa_kernel(backend):
                    seconds = repeated(whole)
                self.row(f"SDPA n={n} causal={causal} {backend.name}", size, milliseconds=1e3 * seconds)
        shapes = ((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024), (1024, 8192))
        for shape, rows in itertools.product(shapes, (1, 16, 64, 256, 1024, 4096, 65664)):
            self.product_tiles(*shape, rows)

    def attention(self, rows: int, bits: int) -> None:
        """The mean over filled caches from 4 to 228 positions."""
        from digit.fast.kernels import attention

        heads, room, channels = 16, 257, 64
        where: dict[str, Any] = {"device": self.device, "dtype": torch.bfloat16}
        qkv = torch.randn(rows, 3 * heads * channels, **where)
        mixed = torch.empty(rows, heads * channels, **where)
        caches = [torch.randn(rows, heads, room, channels, **where) for _ in range(2)]
        scales = None
        if bits == 8:
            caches = [each.to(torch.float8_e4m3fn) for each in caches]
            each = torch.rand(rows, heads, room, device=self.device).half()
            scales = (each, each)
        arrived = torch.zeros(rows * heads, device=self.device, dtype=torch.int32)
        ways = {"one program": 0, "one each window": 10**9} if rows <= 64 else {"one program": 0}
        for name, few in ways.items():
            seconds = []
            with mock.patch.object(attention, "PAIRS", few):
                for filled in range(4, 256, 32):
                    at = torch.tensor(filled, device=self.device, dtype=torch.int32)
                    how = {"arrived": arrived, "scales": scales}
                    seconds.append(repeated(partial(attention.attend, qkv, *caches, mixed, at, **how)))
            mean = 1e6 * sum(seconds) / len(seconds)
            self.row(f"attention, {bits} bits, {name}", rows, microseconds=mean)

    def product_tiles(self, inputs: int, outputs: int, rows: int) -> None:
        """Of matrices that together are larger than the cache between chip and memory."""
        from digit.fast.kernels import linear

        copies = max(4, int(120e6 / (2 * inputs * outputs)))
        where: dict[str, Any] = {"device": self.device, "dtype": torch.bfloat16}
        matrices = [torch.randn(outputs, inputs, **where) for _ in range(copies)]
        x, bias = torch.randn(rows, inputs, **where), torch.randn(outputs, device=self.device)
        arrived, name = linear.counters(outputs, self.device), f"product {outputs}x{inputs}"

        def each(product: Callable[[torch.Tensor], object]) -> float:
            return 1e6 * repeated(lambda: [product(matrix) for matrix in matrices]) / copies

        half = bias.to(x.dtype)
        self.row(f"{name}, library", rows, microseconds=each(lambda m: torch.addmm(half, x, m.T)))
        few, chosen = rows <= linear.FEW, partial(mock.patch.multiple, linear)
        for parts, tile in itertools.product((True,) if few else (True, False), FEW_TILES if few else TILES):
            ours = partial(linear.linear, x, bias=bias, parts=parts, arrived=arrived)
            of_few, of_many = {"few_tile": lambda *_, t=tile: t}, {"TILES": (tile,), "MANY": 2**62}
            if tile == linear.LARGE:
                of_many = {"MANY": 0}
            with chosen(**(of_few if few else of_many)):
                microseconds = each(ours)
            what = f"{name}, {'parts' if parts else 'whole'}, {tile}"
            self.row(what, rows, microseconds=microseconds)

    def rival(self) -> None:
        """The plain path of this package, and LlamaGen's code where its folder is given."""
        config = self.scale.prior
        prior = self.model(Prior, config)
        batch = min(64, self.scale.batches[-1])

        def plain() -> None:
            with forms.plain():
                prior.sample(range(batch), config=TOP_K, batch_size=batch)

        self.timed("prior, plain path", batch, plain, limit=None)
        if self.options.llamagen is None:
            return
        sys.path.insert(0, str(self.options.llamagen))
        llamagen_gpt = importlib.import_module("autoregressive.models.gpt")
        llamagen_generate = importlib.import_module("autoregressive.models.generate")

        shape = llamagen_gpt.ModelArgs(
            n_layer=16,
            n_head=16,
            dim=1024,
            vocab_size=config.codes,
            block_size=config.length,
            num_classes=1000,
            cls_token_num=1,
        )
        for compiled in (True, False):
            for batch in self.options.llamagen_batches if compiled else (64,):
                # Its caches keep the first batch they were made for, so each batch has a model of its own.
                model: Any = llamagen_gpt.Transformer(shape).to(self.device, torch.bfloat16).eval()
                if compiled:
                    model = torch.compile(model, mode="reduce-overhead", fullgraph=True)
                labels = torch.randint(1000, (batch,), device=self.device)

                def work(labels: torch.Tensor = labels, model: Any = model) -> None:
                    llamagen_generate.generate(
                        model,
                        labels,
                        config.length,
                        cfg_scale=1.0,
                        temperature=1.0,
                        top_k=200,
                        top_p=1.0,
                        sample_logits=True,
                    )

                if time.monotonic() - self.started > self.options.seconds:
                    self.failed.append(f"LlamaGen at {batch}: no time left")
                    return
                ours = self.timed(
                    "prior, beside LlamaGen's code",
                    batch,
                    lambda batch=batch: prior.sample(range(batch), config=TOP_K, batch_size=batch),
                    limit=None,
                )
                name = "LlamaGen's code" + (", compiled" if compiled else "")
                self.timed(name, batch, work, limit=None, prior_images_per_second=ours)

    def profile(self, name: str, work: Callable[[], object]) -> None:
        """The kernels that take the most time."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            work()
            wait(self.device)
        events = [e for e in seen.key_averages() if e.self_device_time_total > 0]
        total = sum(e.self_device_time_total for e in events)
        top = sorted(events, key=lambda e: -e.self_device_time_total)[:12]
        shares = {e.key[:90]: {"share": e.self_device_time_total / total, "calls": e.count} for e in top}
        self.row(f"profile of {name}", 0, device_milliseconds=total / 1e3, kernels=shares)


def spread(truth: torch.Tensor, made: torch.Tensor) -> dict[str, float]:
    """Total variation a position: mean and largest."""
    distance = (truth - made).abs().sum(-1) / 2
    return {"mean": distance.mean().item(), "largest": distance.max().item()}


def repeated(work: Callable[[], object], times: int = 20) -> float:
    """Seconds of one call of many in a graph, where launching costs nothing."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            work()
    return median_seconds(graph.replay, torch.device("cuda"), repeats=5, warm_up=1) / times


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, seconds=400)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--llamagen", type=Path, help="its repository")
    options.add_argument("--llamagen-batches", type=int, nargs="+", default=[1024, 512, 1], help="compiled")
    bench = Bench(options.parse_args())
    bench.go()
    if bench.failed:
        sys.exit("failed: " + "; ".join(bench.failed))


if __name__ == "__main__":
    main()
