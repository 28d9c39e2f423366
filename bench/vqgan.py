"""VQ codes to pixels and back: images per second of the official VQGAN's shapes on one GPU.

    python bench/vqgan.py [--device D] [--smoke] [--seconds S] [--out F] [--batch B] [--only SECTION ...]

256 pixels, 54.5M parameters, random weights, which change no speed. Sections: `decode` (codes on the GPU to
bytes on the GPU) and `encode` (bytes to codes) by our form for inference in its variants, by the plain
network eagerly in float16 and by torch.compile of it in bfloat16, channels last; `batch`; `convolutions` (the
rate that cuDNN's largest convolutions reach alone); `differ` (pixels and codes beside float32, also of the
bundled VQGAN); `profile`. Rates in FLOP/s count what the plain network computes, also where ours computes
less.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import Report, kernel_times, median_seconds, parser
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from digit.vqgan import VQGAN, InferenceVQGAN
from digit.vqgan_config import VQGANConfig

SECTIONS = ("decode", "encode", "convolutions", "differ", "batch", "profile")
SMALL = VQGANConfig(image_size=32, width=16, multipliers=(1, 2, 2), blocks=1, codes=16, code_dim=8)


def make(config: VQGANConfig, device: torch.device) -> VQGAN:
    """A VQGAN of random weights whose codes spread over its latents."""
    torch.manual_seed(0)
    vqgan = VQGAN(config).eval().requires_grad_(False).to(device)
    for name, parameter in vqgan.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pixels = pictures(32, config.image_size, device)
    latents = vqgan.latents(pixels / 255).movedim(1, -1).flatten(0, 2)
    table = latents[torch.randperm(len(latents), device=device)[: config.codes]]
    vqgan.quantize.embedding.weight.copy_(table + 0.1 * latents.std() * torch.randn_like(table))
    return vqgan


def pictures(count: int, size: int, device: torch.device) -> Tensor:
    """Random uint8 pictures with structure of every size."""
    generator = torch.Generator(device).manual_seed(1)
    total = torch.zeros(count, 3, size, size, device=device)
    side, weight = 2, 1.0
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=generator, device=device) * weight
        total += F.interpolate(noise, size=(size, size), mode="bilinear")
        side, weight = 2 * side, weight * 0.6
    return (total * 50 + 128).clamp(0, 255).to(torch.uint8)


def flops(vqgan: VQGAN) -> dict[str, float]:
    """Of one picture: torch's count of a small one, as convolutions cost by the pixel."""
    config, small = vqgan.config, 2
    device = next(vqgan.parameters()).device
    area = (vqgan.grid / small) ** 2
    side = small * config.downsampling
    latents = torch.zeros(1, config.code_dim, small, small, device=device)
    counts = {}
    for name, run in {
        "decode": lambda: vqgan.decode_latents(latents),
        "encode": lambda: vqgan.latents(torch.zeros(1, 3, side, side, device=device)),
    }.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counts[name] = counter.get_total_flops() * area
    return counts


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as bytes, as the pipeline makes them."""
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)


class Plain:
    """The network as it is, cast to a type, eagerly or compiled."""

    def __init__(self, vqgan: VQGAN, dtype: torch.dtype, *, compiled: bool) -> None:
        self.vqgan = copy.deepcopy(vqgan).to(dtype)
        if compiled:
            self.vqgan.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.dtype, self.compiled = dtype, compiled

    def decode(self) -> Callable[[Tensor], Tensor]:
        """Codes to bytes."""
        vqgan, dtype = self.vqgan, self.dtype

        def run(codes: Tensor) -> Tensor:
            vectors = vqgan.quantize.embedding(codes)
            latents = vectors.transpose(1, 2).unflatten(2, (vqgan.grid, vqgan.grid)).to(dtype)
            if self.compiled:
                latents = latents.contiguous(memory_format=torch.channels_last)
            pixels = vqgan.decoder.conv_out(vqgan.decoder(latents))
            return to_uint8(pixels)

        return torch.compile(run, dynamic=False) if self.compiled else run

    def encode(self) -> Callable[[Tensor], Tensor]:
        """Bytes to codes; the encoder's last convolution is float32 in any case."""
        vqgan, dtype = self.vqgan, self.dtype
        vqgan.encoder.conv_out.float()

        def run(pixels: Tensor) -> Tensor:
            pixels = (pixels.float() / 255).to(dtype)
            if self.compiled:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            return vqgan.quantize.nearest(vqgan.encoder(pixels).flatten(2).transpose(1, 2))

        return torch.compile(run, dynamic=False) if self.compiled else run


def variants(cuda: bool, batch: int) -> dict[str, dict[str, Any]]:
    """What of the form for inference can be chosen; the first is the default."""
    kinds: dict[str, dict[str, Any]] = {
        "digit": {},
        "digit, float16": {"dtype": torch.float16},
        "digit, nothing folded": {"fold": False},
    }
    if cuda:
        kinds |= {
            f"digit, last levels {tail} at once": {"tail": tail} for tail in (1, 2, 8, 32) if tail < batch
        }
    return kinds


class Bench:
    """One VQGAN, its codes and pictures, and what is measured of them."""

    def __init__(self, report: Report, vqgan: VQGAN, batch: int) -> None:
        self.report, self.vqgan = report, vqgan
        self.work = flops(vqgan)
        device = report.device
        self.codes = torch.randint(vqgan.config.codes, (batch, vqgan.length), device=device)
        self.pixels = pictures(batch, vqgan.config.image_size, device)

    def rate(
        self,
        section: str,
        name: str,
        kind: str,
        build: Callable[[], Callable[[Tensor], Tensor]],
        given: Tensor,
    ) -> None:
        """Images a second of one way."""
        self.report.rate(section, name, build, given, self.work[kind])

    def decode(self) -> None:
        """All ways from codes to bytes."""
        cuda = self.report.device.type == "cuda"
        for name, kind in variants(cuda, len(self.codes)).items():
            self.rate(
                "decode", name, "decode", lambda k=kind: InferenceVQGAN(self.vqgan, **k).decode, self.codes
            )
        self.rate("decode", "plain path, autocast", "decode", lambda: self.autocast("decode"), self.codes)
        if cuda:
            half, compiled = (torch.float16, False), (torch.bfloat16, True)
            for name, (dtype, on) in {"eager float16": half, "compiled bfloat16": compiled}.items():
                self.rate(
                    "decode",
                    name,
                    "decode",
                    lambda d=dtype, c=on: Plain(self.vqgan, d, compiled=c).decode(),
                    self.codes,
                )

    def encode(self) -> None:
        """All ways from bytes to codes."""
        for name, dtype in {"digit": torch.bfloat16, "digit, float16": torch.float16}.items():
            self.rate(
                "encode",
                name,
                "encode",
                lambda d=dtype: InferenceVQGAN(self.vqgan, dtype=d).encode,
                self.pixels,
            )
        self.rate("encode", "plain path, autocast", "encode", lambda: self.autocast("encode"), self.pixels)
        if self.report.device.type == "cuda":
            for name, dtype, on in (
                ("eager float16", torch.float16, False),
                ("compiled bfloat16", torch.bfloat16, True),
            ):
                self.rate(
                    "encode",
                    name,
                    "encode",
                    lambda d=dtype, c=on: Plain(self.vqgan, d, compiled=c).encode(),
                    self.pixels,
                )

    def autocast(self, way: str) -> Callable[[Tensor], Tensor]:
        """The module's own methods under bf16 autocast."""

        def run(given: Tensor) -> Tensor:
            with torch.autocast(given.device.type, torch.bfloat16):
                if way == "decode":
                    return to_uint8(self.vqgan.decode(given))
                return self.vqgan.encode(given / 255)

        return run

    def batches(self, sizes: list[int]) -> None:
        """Throughput of decoding against the pictures in a call."""
        for size in sizes:
            codes = self.codes.repeat(-(-size // len(self.codes)), 1)[:size]
            self.rate(
                "batch", str(size), "decode", lambda s=size: InferenceVQGAN(self.vqgan, most=s).decode, codes
            )

    def convolutions(self) -> None:
        """The largest convolutions alone."""
        device, config = self.report.device, self.vqgan.config
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        side, width, batch = config.image_size, config.width, min(32, len(self.codes))

        def alone(inputs: int, outputs: int, size: int, at: int) -> dict[str, Any]:
            x = torch.randn(batch, inputs, at, at, device=device, dtype=half)
            x = x.to(memory_format=torch.channels_last)
            conv = nn.Conv2d(inputs, outputs, size, padding=1, bias=False, device=device, dtype=half)
            conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            with torch.inference_mode():
                seconds = median_seconds(lambda: conv(x), device, repeats=10)
            work = 2 * batch * at**2 * inputs * outputs * size**2
            return {"ms": 1e3 * seconds, "tflops": work / seconds / 1e12, **self.report.share(work / seconds)}

        for name, shape in {
            "3x3, full side": (width, width, 3, side),
            "3x3, half side": (width, width, 3, side // 2),
            "3x3 twice as wide, quarter side": (2 * width, 2 * width, 3, side // 4),
            "2x2 to four phases, half side": (width, 4 * width, 2, side // 2),
            "2x2 to four phases twice as wide, quarter side": (2 * width, 8 * width, 2, side // 4),
        }.items():
            self.report.part("convolutions", name, lambda s=shape: alone(*s))

    def profile(self) -> None:
        """The kernels of one call."""
        form = InferenceVQGAN(self.vqgan)
        self.report.part("profile", "decode", lambda: kernel_times(lambda: form.decode(self.codes)))
        self.report.part("profile", "encode", lambda: kernel_times(lambda: form.encode(self.pixels)))


def differ(bench: Bench, count: int) -> None:
    """Pixels and codes beside the plain network in float32."""

    def measured(vqgan: VQGAN, pixels: Tensor) -> dict[str, Any]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with torch.inference_mode():
            truth = torch.cat([vqgan.encode(part / 255) for part in pixels.split(8)])
            shown = torch.cat([to_uint8(vqgan.decode(part)) for part in truth.split(8)])
            result: dict[str, Any] = {"codes": truth.numel(), "distinct": len(truth.unique())}
            for dtype in (torch.bfloat16, torch.float16):
                form = InferenceVQGAN(vqgan, dtype=dtype)
                off = (form.decode(truth).int() - shown.int()).abs()
                result[str(dtype)] = {
                    "codes_differ": (form.encode(pixels) != truth).float().mean().item(),
                    "levels_off_mean": off.float().mean().item(),
                    "levels_off_most": off.max().item(),
                }
        torch.backends.cudnn.allow_tf32 = True
        return result

    def bundled() -> dict[str, Any]:
        from digit.pipeline import DigitPipeline  # needs pydantic, which the rest can do without

        vqgan = DigitPipeline.from_pretrained().vqgan.to(bench.report.device)
        side = vqgan.config.image_size
        sheet = Image.open(Path(__file__).parents[1] / "docs" / "images" / "samples.png").convert("RGB")
        whole = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
        tiles = whole.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(0, 1)
        return measured(vqgan, tiles[: 8 * count].to(bench.report.device))

    bench.report.part("differ", "random weights", lambda: measured(bench.vqgan, bench.pixels[:count]))
    bench.report.part("differ", "bundled CIFAR-10 VQGAN", bundled)


def main() -> None:
    """Parse, measure, print."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    given = options.parse_args()
    torch.backends.cudnn.benchmark = True  # for the rivals too
    report = Report.of(given)
    device = report.device
    bench = Bench(
        report, make(SMALL if given.smoke else VQGANConfig(), device), 4 if given.smoke else given.batch
    )
    report["shapes"] = {
        "image_size": bench.vqgan.config.image_size,
        "decode_gflops": bench.work["decode"] / 1e9,
        "encode_gflops": bench.work["encode"] / 1e9,
    }
    if "decode" in given.only:
        bench.decode()
    if "profile" in given.only and device.type == "cuda":
        bench.profile()
    if "convolutions" in given.only:
        bench.convolutions()
    if "encode" in given.only:
        bench.encode()
    if "differ" in given.only:
        differ(bench, 2 if given.smoke else 32)
    if "batch" in given.only:
        bench.batches([1, 2] if given.smoke else [1, 8, 16, 32, 128])
    report.finish()


if __name__ == "__main__":
    main()
