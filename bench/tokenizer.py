"""Pictures to codes: images per second from pixels on the GPU and from JPEG bytes, beside timm as used.

    python bench/tokenizer.py [--device D] [--smoke] [--seconds S] [--out F] [--batch B] [--only SECTION ...]

The network has the shapes of DINOv2-B/14 with registers at 224 pixels, cut after block 10 of 12, and 8192
centroids; weights are random, which changes no speed. Sections: `codes` (pixels on the GPU; ours as `digit
tokenize` runs it and compiled besides, timm eager and compiled), `batch` (throughput against batch), `jpeg`
(from bytes in memory, with decoding alone beside it), `differ` (share of codes that float32 does not give, of
this random network and of the bundled CIFAR-10 tokenizer on its own pictures), `large` (DINOv2-L shapes, 22
of 24 blocks, 16000 centroids) and `profile`. Rates in FLOP/s count matrix products only.
"""

import copy
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import Report, kernel_times, median_seconds, parser, wait
from PIL import Image
from torch import Tensor

from digit.data.images import open_images
from digit.data.loader import Report as Skipped
from digit.data.loader import stream
from digit.features import Encoder, EncoderConfig, encoder_config, reading
from digit.kmeans import assign
from digit.tokenizer import Tokenizer, TokenizerConfig, encoding

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3}
SECTIONS = ("codes", "differ", "batch", "jpeg", "large", "profile")


def pictures(count: int, size: int, device: torch.device, seed: int = 0) -> Tensor:
    """Random uint8 pictures with structure of every size, as photographs have."""
    generator = torch.Generator(device).manual_seed(seed)
    total = torch.zeros(count, 3, size, size, device=device)
    side, weight = 2, 1.0
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=generator, device=device) * weight
        total += F.interpolate(noise, size=(size, size), mode="bilinear")
        side, weight = 2 * side, weight * 0.6
    return (total * 50 + 128).clamp(0, 255).to(torch.uint8)


def make(config: EncoderConfig, codes: int, device: torch.device) -> Tokenizer:
    """A tokenizer of random weights in which every block counts, with centroids among its features."""
    torch.manual_seed(0)
    encoder = Encoder(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("gamma"):  # timm starts LayerScale at 1e-5
                parameter.fill_(0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.02)
    encoder.to(device)
    seen = pictures(max(8, codes // 64), config.image_size, device, seed=1)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        features = torch.cat([encoder(part / 255).float().flatten(0, 1) for part in seen.split(64)])
    # Means of two near features, as centroids are means: nothing lies at distance zero.
    chosen = features[torch.randperm(len(features), device=device)[:codes]]
    near = features[torch.randperm(len(features), device=device)[: 4 * codes]]
    mean = (chosen + near[assign(chosen, near)]) / 2
    return Tokenizer(TokenizerConfig(config, len(mean)), encoder=encoder, centroids=mean).to(device)


def flops(tokenizer: Tokenizer) -> float:
    """Of the matrix products of one picture's codes."""
    vit = tokenizer.encoder.vit
    tokens, width = tokenizer.length + vit.num_prefix_tokens, vit.embed_dim
    hidden = vit.blocks[0].mlp.fc1.out_features
    block = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    patch = 2 * tokenizer.length * 3 * vit.patch_embed.patch_size[0] ** 2 * width
    return len(vit.blocks) * block + patch + 2 * tokenizer.length * tokenizer.centroids.numel()


def as_users_do(tokenizer: Tokenizer, compiled: bool) -> Callable[[Tensor], Tensor]:
    """timm in bfloat16 and a nearest centroid, in a few lines."""
    config = tokenizer.config.encoder
    vit = Encoder(config)
    vit.load_state_dict(tokenizer.encoder.state_dict())
    vit = vit.to(tokenizer.centroids.device, torch.bfloat16).vit
    mean, std = (
        torch.tensor(values, device=tokenizer.centroids.device)[:, None, None]
        for values in (config.mean, config.std)
    )
    table = tokenizer.centroids.bfloat16()
    squares = tokenizer.centroids.square().sum(1)

    def codes(pixels: Tensor) -> Tensor:
        scaled = ((pixels.float() / 255 - mean) / std).bfloat16()
        features = vit.forward_features(scaled)[:, vit.num_prefix_tokens :]
        return (squares - 2 * (features @ table.T)).argmin(-1)

    return torch.compile(codes, dynamic=False) if compiled else codes


def compiled(tokenizer: Tokenizer) -> Callable[[Tensor], Tensor]:
    """Ours with its encoder compiled, which leaves the tokenizer that is given as it is."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.encoder.compile(dynamic=False)
    return encoding(tokenizer)


class Bench:
    """One tokenizer, its pixels, and what is measured of them."""

    def __init__(self, report: Report, tokenizer: Tokenizer, batch: int) -> None:
        self.report, self.tokenizer = report, tokenizer
        self.work = flops(tokenizer)
        self.pixels = pictures(batch, tokenizer.config.encoder.image_size, report.device)

    def rate(
        self, section: str, name: str, build: Callable[[], Callable[[Tensor], Tensor]], pixels: Tensor
    ) -> None:
        """Images a second of one way."""
        self.report.rate(section, name, build, pixels, self.work)

    def codes(self, section: str = "codes") -> None:
        """All ways from uint8 pixels on the device to codes."""
        self.rate(section, "digit", lambda: encoding(self.tokenizer), self.pixels)
        if section == "codes":
            self.rate(section, "digit, features only", lambda: reading(self.tokenizer.encoder), self.pixels)
            side = self.pixels.shape[-1] * 8 // 7
            larger = pictures(len(self.pixels), side, self.report.device)
            self.rate(section, f"digit, pictures of {side} pixels", lambda: encoding(self.tokenizer), larger)
        self.rate(section, "timm, eager", lambda: as_users_do(self.tokenizer, False), self.pixels)
        if self.report.device.type == "cuda":
            self.rate(section, "digit, compiled", lambda: compiled(self.tokenizer), self.pixels)
            self.rate(section, "timm, compiled", lambda: as_users_do(self.tokenizer, True), self.pixels)

    def batches(self, sizes: list[int]) -> None:
        """Throughput against the pictures in a call."""
        for size in sizes:
            pixels = self.pixels.repeat(-(-size // len(self.pixels)), 1, 1, 1)[:size]
            self.rate("batch", str(size), lambda: encoding(self.tokenizer), pixels)

    def profile(self) -> None:
        """The kernels of one call."""
        encode = encoding(self.tokenizer)
        self.report.part("profile", "digit", lambda: kernel_times(lambda: encode(self.pixels)))


def differing(tokenizer: Tokenizer, pixels: Tensor, ways: dict[str, Callable[[Tensor], Tensor]]) -> Any:
    """Share of codes that are not those of a float32 encoder with exact distances."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        truth = torch.cat([tokenizer.encode(part / 255) for part in pixels.split(32)])
        found = {}
        for name, way in ways.items():
            codes = torch.cat([way(part) for part in pixels.split(64)])
            found[name] = (codes != truth).float().mean().item()
    return {"codes": truth.numel(), "distinct": len(truth.unique()), "differ": found}


def differ(bench: Bench, count: int) -> None:
    """Of the random network, and of the bundled tokenizer on the pictures in the documentation."""

    def ways(tokenizer: Tokenizer) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"digit": encoding(tokenizer), "timm bfloat16": as_users_do(tokenizer, False)}

    def random() -> Any:
        pixels = pictures(count, bench.tokenizer.config.encoder.image_size, bench.report.device, seed=2)
        return differing(bench.tokenizer, pixels, ways(bench.tokenizer))

    def bundled() -> Any:
        from digit.pipeline import DigitPipeline  # needs pydantic, which the rest can do without

        tokenizer = DigitPipeline.from_pretrained().tokenizer.to(bench.report.device)
        side = tokenizer.config.encoder.image_size
        sheet = Image.open(Path(__file__).parents[1] / "docs" / "images" / "samples.png").convert("RGB")
        whole = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
        tiles = whole.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(0, 1)
        return differing(tokenizer, tiles[:count].to(bench.report.device), ways(tokenizer))

    bench.report.part("differ", "random weights", random)
    bench.report.part("differ", "bundled CIFAR-10 tokenizer", bundled)


def jpeg(bench: Bench, count: int, threads: int | None) -> None:
    """From JPEG bytes of 500 x 375 pixels in files of the page cache to codes on the host."""
    report, device = bench.report, bench.report.device
    size = bench.tokenizer.config.encoder.image_size
    shape = (375, 500) if device.type == "cuda" else (40, 50)
    drawn = pictures(min(count, 64), 512 if device.type == "cuda" else 64, device)
    files = []
    for picture in drawn[:, :, : shape[0], : shape[1]].permute(0, 2, 3, 1).cpu().numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "jpeg", quality=90)
        files.append(buffer.getvalue())
    codes_of = encoding(bench.tokenizer)

    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            (Path(folder) / f"{index:06d}.jpg").write_bytes(files[index % len(files)])
        source = open_images(folder)
        report["processors"] = os.cpu_count()

        def through(
            encode: Callable[[Tensor], Tensor] | None, threads: int | None = threads
        ) -> dict[str, Any]:
            start = time.perf_counter()
            done, waiting = 0, None
            for index, pixels in stream(
                source, size, batch_size=len(bench.pixels), threads=threads, report=Skipped()
            ):
                if encode is not None:
                    if waiting is not None:
                        waiting.cpu()
                    waiting = encode(pixels[:, 0].to(device, non_blocking=True))
                done += len(index)
            wait(device)
            seconds = time.perf_counter() - start
            return {"images_per_s": done / seconds, "seconds": seconds}

        report.part("jpeg", "read, decode, crop, resize", lambda: through(None))
        for number in (8, 16) if device.type == "cuda" else (2,):
            report.part("jpeg", f"the same on {number} threads", lambda n=number: through(None, n))
        for _ in range(3 if device.type == "cuda" else 1):  # libraries choose their kernels
            codes_of(bench.pixels)
        report.part("jpeg", "and codes", lambda: through(codes_of))

    def on_gpu(encode: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
        from torchvision.io import ImageReadMode, decode_jpeg

        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

        def batch(first: int) -> Tensor:
            chosen = [data[(first + i) % len(data)] for i in range(len(bench.pixels))]
            decoded = decode_jpeg(chosen, mode=ImageReadMode.RGB, device=device)
            stack = torch.stack(decoded)
            low = min(stack.shape[-2:])
            top, left = (stack.shape[-2] - low) // 2, (stack.shape[-1] - low) // 2
            square = stack[:, :, top : top + low, left : left + low].float()
            small = F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)
            return small.round().clamp(0, 255).to(torch.uint8)

        def run() -> None:
            for first in range(0, count, len(bench.pixels)):
                pixels = batch(first)
                if encode is not None:
                    encode(pixels)

        seconds = median_seconds(run, device, repeats=3, warm_up=1)
        images = -(-count // len(bench.pixels)) * len(bench.pixels)
        return {"images_per_s": images / seconds, "seconds": seconds}

    if device.type == "cuda":
        report.part("jpeg", "decode, crop, resize on the GPU", lambda: on_gpu(None))
        report.part("jpeg", "all on the GPU, and codes", lambda: on_gpu(codes_of))


def main() -> None:
    """Parse, measure, print."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    options.add_argument("--threads", type=int, help="that decode pictures, instead of processes")
    given = options.parse_args()
    report = Report.of(given)
    device = report.device
    if given.smoke:
        config = encoder_config("dinov2-b-reg", 56, arguments=SMALL)
        bench = Bench(report, make(config, 32, device), 4)
    else:
        bench = Bench(report, make(encoder_config("dinov2-b-reg"), 8192, device), given.batch)
    report["shapes"] = {
        "encoder": bench.tokenizer.config.encoder.name,
        "blocks": len(bench.tokenizer.encoder.vit.blocks),
        "codes": bench.tokenizer.config.codes,
        "gflops_per_image": bench.work / 1e9,
    }
    if "codes" in given.only:
        bench.codes()
    if "profile" in given.only and device.type == "cuda":
        bench.profile()
    if "differ" in given.only:
        differ(bench, 4 if given.smoke else 64)
    if "jpeg" in given.only:
        jpeg(bench, 8 if given.smoke else 8192, given.threads)
    if "batch" in given.only:
        bench.batches([1, 2] if given.smoke else [16, 64, 128, 256, 1024, 2048])
    if "large" in given.only and not given.smoke:
        del bench
        large = make(encoder_config("dinov2-l-reg"), 16000, device)
        Bench(report, large, given.batch // 2).codes("large")
    report.finish()


if __name__ == "__main__":
    main()
