"""VQ codes to pixels and back: images per second of the official VQGAN's shapes on one GPU.

    python bench/vqgan.py [--device D] [--smoke] [--seconds S] [--out F] [--batch B] [--only SECTION ...]

256 pixels, 54.5M parameters, random weights, which change no speed. Sections: `decode` (codes on the GPU to
bytes on the GPU) and `encode` (bytes to codes) as `digit sample` and `digit tokenize` run them, by the module
under autocast, and by torch.compile of it in bfloat16, channels last; `batch`; `differ` (pixels and codes
beside float32, also of the bundled VQGAN); `profile`. Rates in FLOP/s count what the network computes.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import Report, kernel_times, parser
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from digit.vqgan import VQGAN, decoding_in_half, encoding_in_half
from digit.vqgan_config import VQGANConfig

SECTIONS = ("decode", "encode", "differ", "batch", "profile")
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


def compiled_decode(vqgan: VQGAN) -> Callable[[Tensor], Tensor]:
    """Codes to bytes by the network in bfloat16 with channels last, compiled."""
    vqgan = _channels_last(vqgan)

    def run(codes: Tensor) -> Tensor:
        vectors = vqgan.quantize.embedding(codes)
        latents = vectors.transpose(1, 2).unflatten(2, (vqgan.grid, vqgan.grid))
        return to_uint8(vqgan.decoder.conv_out(vqgan.decoder(_last(latents))))

    return torch.compile(run, dynamic=False)


def compiled_encode(vqgan: VQGAN) -> Callable[[Tensor], Tensor]:
    """Bytes to codes likewise; the encoder's last convolution is float32 in any case."""
    vqgan = _channels_last(vqgan)
    vqgan.encoder.conv_out.float()

    def run(pixels: Tensor) -> Tensor:
        latents = vqgan.encoder(_last(pixels.float() / 255))
        return vqgan.quantize.nearest(latents.flatten(2).transpose(1, 2))

    return torch.compile(run, dynamic=False)


def _channels_last(vqgan: VQGAN) -> VQGAN:
    moved: Any = copy.deepcopy(vqgan).bfloat16()
    return moved.to(memory_format=torch.channels_last)


def _last(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16, memory_format=torch.channels_last)


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
        self.rate(
            "decode", "digit", "decode", lambda: self.bytes_of(decoding_in_half(self.vqgan)), self.codes
        )
        self.rate("decode", "autocast float16", "decode", lambda: self.autocast("decode"), self.codes)
        if self.report.device.type == "cuda":
            self.rate(
                "decode", "compiled bfloat16", "decode", lambda: compiled_decode(self.vqgan), self.codes
            )

    def encode(self) -> None:
        """All ways from bytes to codes."""
        self.rate("encode", "digit", "encode", lambda: encoding_in_half(self.vqgan), self.pixels)
        self.rate("encode", "autocast float16", "encode", lambda: self.autocast("encode"), self.pixels)
        if self.report.device.type == "cuda":
            self.rate(
                "encode", "compiled bfloat16", "encode", lambda: compiled_encode(self.vqgan), self.pixels
            )

    def bytes_of(self, decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Codes to bytes."""
        return lambda codes: to_uint8(decode(codes))

    def autocast(self, way: str) -> Callable[[Tensor], Tensor]:
        """The module's own methods under float16 autocast."""

        def run(given: Tensor) -> Tensor:
            with torch.autocast(given.device.type, torch.float16):
                if way == "decode":
                    return to_uint8(self.vqgan.decode(given))
                return self.vqgan.encode(given / 255)

        return run

    def batches(self, sizes: list[int]) -> None:
        """Throughput of decoding against the pictures in a call."""
        decode = self.bytes_of(decoding_in_half(self.vqgan))
        for size in sizes:
            codes = self.codes.repeat(-(-size // len(self.codes)), 1)[:size]
            self.rate("batch", str(size), "decode", lambda: decode, codes)

    def profile(self) -> None:
        """The kernels of one call."""
        decode, encode = decoding_in_half(self.vqgan), encoding_in_half(self.vqgan)
        self.report.part("profile", "decode", lambda: kernel_times(lambda: decode(self.codes)))
        self.report.part("profile", "encode", lambda: kernel_times(lambda: encode(self.pixels)))


def differ(bench: Bench, count: int) -> None:
    """Pixels and codes beside the plain network in float32."""

    def measured(vqgan: VQGAN, pixels: Tensor) -> dict[str, Any]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with torch.inference_mode():
            truth = torch.cat([vqgan.encode(part / 255) for part in pixels.split(8)])
            shown = torch.cat([to_uint8(vqgan.decode(part)) for part in truth.split(8)])
            result: dict[str, Any] = {"codes": truth.numel(), "distinct": len(truth.unique())}
            off = (to_uint8(decoding_in_half(vqgan)(truth)).int() - shown.int()).abs()
            result["torch.float16"] = {
                "codes_differ": (encoding_in_half(vqgan)(pixels) != truth).float().mean().item(),
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
    if "encode" in given.only:
        bench.encode()
    if "differ" in given.only:
        differ(bench, 2 if given.smoke else 32)
    if "batch" in given.only:
        bench.batches([1, 2] if given.smoke else [1, 8, 16, 32, 128])
    report.finish()


if __name__ == "__main__":
    main()
