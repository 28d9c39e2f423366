"""Two checkouts of this package beside each other on one device: did a change make a path slower?

    git worktree add ../before COMMIT
    python bench/before_after.py --before ../before [--parts draw codes ...] [--out F] [--smoke]
    python bench/before_after.py --pictures cifar10-test.zip --statistics F  # which `distances` needs

Each part runs in processes of its own, first with the code of the other checkout, then with this one's, all
in one run on one device. draw: the published prior and renderers and the whole chain to pictures in memory,
with random weights. codes: DINOv2-B features to codes of pictures on the device, and an iteration of K-means.
tokenize and fit: the commands, from JPEG files on the disk to what they write. train: the loop on the 219M
prior, by its default settings and by those that were fastest before. seeds: how many of 64 seeds of the
bundled model have other codes in another batch, in another number format, or on a CPU. distances: of 10,000
pictures of the bundled model for each of five blocks of seeds, the Fréchet distance to pictures whose
statistics the second command has written, in the mean features of the bundled encoder's patches.
"""

import argparse
import dataclasses
import inspect
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parents[1]
PARTS = ("draw", "codes", "tokenize", "fit", "train", "seeds", "distances")
ENCODER = "vit_base_patch14_reg4_dinov2"
BATCHES = {"prior": (1, 2, 8, 64, 256, 512, 1024, 2048), "renderer": (1, 512), "masked": (1, 128)}
CHAINS = (1, 1024)  # pictures
PICTURES = {"tokenize": 20_000, "fit": 20_000}
MICRO = 512  # images per update
K, WIDTH, VECTORS = 8192, 768, 2_097_152
BLOCKS, BLOCK, AT_ONCE = 5, 10_000, 2500  # of seeds


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call after two that do not count; the device has finished before each reading."""
    seconds = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            seconds.append(time.perf_counter() - start)
    return seconds


def draw(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """Images per second of prior, renderers and chain."""
    from digit.nn.sampling import SamplerConfig
    from digit.pipeline import DigitPipeline
    from digit.prior import Prior, PriorConfig
    from digit.renderer import Renderer, RendererConfig
    from digit.renderer_masked import MaskedConfig, MaskedRenderer
    from digit.vqgan import VQGAN
    from digit.vqgan import VQGANConfig as Shape

    small: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2} if smoke else {}
    k, n, v, m = (16, 4, 8, 4) if smoke else (8192, 256, 1024, 256)
    torch.manual_seed(0)
    prior = Prior(PriorConfig(k, n, **small))
    renderer = Renderer(RendererConfig(k, n, v, m, **small))
    masked = MaskedRenderer(MaskedConfig(k, n, v, m, **small, **({"steps": 2} if smoke else {})))
    shape = Shape(image_size=8, width=8, multipliers=(1, 1, 2), blocks=1, codes=8, code_dim=4)
    vqgan = VQGAN(shape if smoke else Shape())
    for stage in (prior, renderer, masked, vqgan):
        stage.to(device).eval()

    def row(name: str, images: int, work: Callable[[], object]) -> dict[str, Any]:
        seconds = timed(work, device, 1 if smoke else 3)
        return {"name": name, "unit": "img/s", "values": [images / each for each in seconds]}

    batches = dict.fromkeys(BATCHES, (2,)) if smoke else BATCHES
    top_k, top_p = SamplerConfig(top_k=min(k, 200)), SamplerConfig(top_p=0.8)
    for batch in batches["prior"]:
        work = lambda b=batch: prior.sample(list(range(b)), config=top_k, batch_size=b)  # noqa: E731
        yield row(f"prior, 219M, batch {batch}", batch, work)
    codes = torch.randint(k, (max(map(max, batches.values())), n), device=device)
    for name, stage in (("renderer", renderer), ("masked", masked)):
        for batch in batches[name]:

            def render(stage: Any = stage, b: int = batch) -> None:
                stage.sample(codes[:b], list(range(b)), top_p, batch_size=b)

            yield row(f"{name}, 214M, batch {batch}", batch, render)
    pipeline = DigitPipeline(prior, vqgan, renderer=renderer)
    for count in (2,) if smoke else CHAINS:
        work = lambda c=count: pipeline(seeds=range(c), top_k=min(k, 200), batch_size=c)  # noqa: E731
        yield row(f"whole chain, batch {count}", count, work)


def codes(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """Pictures on the device to codes, and K-means."""
    from digit import kmeans
    from digit.features import Encoder, EncoderConfig
    from digit.tokenizer import Tokenizer, TokenizerConfig, encoding

    torch.manual_seed(0)
    arguments = {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    config = (
        EncoderConfig("vit_tiny_patch16_224", 16, arguments=arguments)
        if smoke
        else EncoderConfig(ENCODER, 224)
    )
    encoder = Encoder(config, pretrained=False).to(device).eval()
    count, k = (4, 8) if smoke else (512, K)
    pixels = smooth(count, config.image_size).to(device)
    with torch.inference_mode():
        seen = torch.cat([encoder(part.float() / 255).flatten(0, 1) for part in pixels.split(32)])
    centroids = seen[torch.randperm(len(seen))[:k].to(device)] + 0.1 * seen.std() * torch.randn(
        k, 1, device=device
    )
    tokenizer = (
        Tokenizer(TokenizerConfig(config, k), encoder=encoder, centroids=centroids.float()).to(device).eval()
    )
    encode = encoding(tokenizer)
    with torch.inference_mode():
        seconds = timed(lambda: encode(pixels), device, 1 if smoke else 9)
        exact = tokenizer.encode(pixels[:64].float() / 255)
        differ = float((encode(pixels[:64]) != exact).float().mean())
    values = [count / each for each in seconds]
    yield {
        "name": f"features and codes, base, batch {count}",
        "unit": "img/s",
        "values": values,
        "codes_differ": differ,
    }
    few, width = (4, 16) if smoke else (64, WIDTH)
    vectors = torch.randn(64 if smoke else VECTORS, few, device=device) @ torch.randn(
        few, width, device=device
    )
    vectors += torch.randn_like(vectors)  # a few directions and noise, as features have
    start = vectors[:k].clone()

    def fitted(iterations: int) -> float:
        begun = time.perf_counter()
        kmeans.fit(vectors, k, start=start, iterations=iterations)
        return time.perf_counter() - begun

    fitted(1)
    pairs = [(fitted(6), fitted(1)) for _ in range(1 if smoke else 3)]
    values = [1e3 * (many - few) / 5 for many, few in pairs]
    yield {"name": f"K-means, an iteration of {len(vectors)} vectors to {k}", "unit": "ms", "values": values}


def tokenize(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """`digit tokenize` of JPEG files with a DINOv2-B tokenizer of random weights."""
    from digit.features import Encoder, EncoderConfig
    from digit.run.tokenize import tokenize as verb
    from digit.tokenizer import Tokenizer, TokenizerConfig
    from digit.weights.artifact import save

    torch.manual_seed(0)
    arguments = {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    config = (
        EncoderConfig("vit_tiny_patch16_224", 16, arguments=arguments)
        if smoke
        else EncoderConfig(ENCODER, 224)
    )
    encoder = Encoder(config, pretrained=False)
    with torch.inference_mode():
        seen = encoder.to(device)(smooth(48, config.image_size).to(device).float() / 255).flatten(0, 1).cpu()
    k = 8 if smoke else K
    centroids = seen[torch.randint(len(seen), (k,))] + 0.1 * seen.std() * torch.randn(k, 1)
    made = Tokenizer(TokenizerConfig(config, k), encoder=encoder.cpu(), centroids=centroids)
    with tempfile.TemporaryDirectory() as folder:
        save(made, Path(folder) / "tokenizer", extra={"size": config.image_size})
        pictures = os.environ["PICTURES"]

        def run(number: int) -> float:
            begun = time.perf_counter()
            out = Path(folder) / f"codes{number}"
            verb(pictures, out, tokenizer=Path(folder) / "tokenizer", views=1, device=str(device))
            return time.perf_counter() - begun

        values = [run(number) for number in range(1 if smoke else 3)]
    yield {"name": f"digit tokenize, {count_of(pictures)} JPEG files", "unit": "s", "values": values}


def fit(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """`digit fit` of JPEG files with a DINOv2-B of random weights."""
    from safetensors.torch import save_file

    from digit.nn.backbone import timm
    from digit.run.fit import fit as verb

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        pictures, weights = os.environ["PICTURES"], Path(folder) / "encoder.safetensors"
        how: dict[str, Any] = {"encoder": ENCODER, "clusters": K, "encoder_size": 224}
        name, shape = ENCODER, {}
        if smoke:
            name, shape = (
                "vit_tiny_patch16_224",
                {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
            )
            how = {"encoder": name, "encoder_arguments": shape, "encoder_size": 16, "clusters": 8}
        vit = timm().create_model(name, img_size=how["encoder_size"], num_classes=0, **shape)
        save_file(vit.state_dict(), weights)
        begun = time.perf_counter()
        verb(pictures, Path(folder) / "made", encoder_weights=weights, device=str(device), **how)
        values = [time.perf_counter() - begun]
    yield {
        "name": f"digit fit, {count_of(pictures)} JPEG files and mirrors",
        "unit": "s",
        "values": values,
    }


def train(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """Tokens per second of the 219M prior: by default, and by the best settings of before."""
    from digit.data.codes import FORMAT, CodeData, Codes
    from digit.prior import Prior, PriorConfig
    from digit.training.config import TrainConfig
    from digit.training.loop import train as loop

    micro, steps = (4, 4) if smoke else (MICRO, 60)
    shape = PriorConfig(16, 4, width=32, layers=1, heads=2) if smoke else PriorConfig(8192, 256)
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    ways: dict[str, dict[str, Any]] = {"default": {}}
    if "kernels" in known:  # an older checkout
        ways["compiled, with kernels"] = {"compile": True, "kernels": True}
    else:
        ways |= {"compiled, without kernels": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes"
        path.mkdir()
        random = np.random.default_rng(0)
        np.save(
            path / "codes.npy", random.integers(shape.codes, size=(4096, 1, shape.length)).astype(np.uint16)
        )
        stream = {"vocabulary": shape.codes, "artifact": "0" * 64}
        meta = {"format": FORMAT, "images": 4096, "labelled": False, "classes": [], "files": {}}
        (path / "meta.json").write_text(json.dumps(meta | {"streams": {"codes": stream}}))
        for way, options in ways.items():
            if smoke and "kernels" in options:
                continue
            torch.manual_seed(1)
            config = TrainConfig(
                steps=steps, batch=micro, log_every=2 if smoke else 10, **({} if smoke else options)
            )
            out = Path(folder) / f"run-{way}"
            plain = mock.patch("digit.fast.training._refusal", lambda *_, **__: "not wanted")
            data = CodeData(Codes(path, verify=False), batch_size=micro, device=device)
            with plain if way == "compiled, without kernels" and not smoke else mock.MagicMock():
                loop(Prior(shape), data, config, out, device=device, progress=False)
            lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
            rates = [line["tflops"] for line in lines if "tflops" in line][1 if smoke else 2 :]
            yield {
                "name": f"training the prior, micro-batch {micro}, {way}",
                "unit": "TFLOP/s",
                "values": rates,
            }


def seeds(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """Of seeds drawn 64 at once, those whose codes are others when drawn otherwise."""
    from digit.pipeline import DigitPipeline

    pipeline, count = DigitPipeline.from_pretrained(device=device), 4 if smoke else 64
    classes = {"labels": [seed % 10 for seed in range(count)]}
    known = inspect.signature(DigitPipeline.__call__).parameters  # of an older checkout
    ways: dict[str, dict[str, Any]] = {
        "by class": classes,
        "no class": {"unconditional": True} if "unconditional" in known else {},
        "masked renderer": {**classes, "renderer": "masked"},
    }
    for way, how in ways.items():

        def drawn(how: dict[str, Any] = how, **more: Any) -> torch.Tensor:
            pictures = pipeline(seeds=range(count), **{"batch_size": count, **how, **more})
            return torch.cat((pictures.codes, pictures.vq_codes), 1)

        pipeline.to(device)
        whole = drawn()
        others = {f"batch {size}": drawn(batch_size=size) for size in (8, 4, 2, 1) if size < count}
        others["float32"] = exact = drawn(autocast=False)
        pipeline.to("cpu")
        on_cpu = drawn()
        for name, codes, beside in (
            *((name, codes, whole) for name, codes in others.items()),
            ("a CPU", on_cpu, whole),
            ("a CPU, beside float32", on_cpu, exact),
        ):
            values = [int((codes != beside).any(1).sum())]
            yield {"name": f"{way}, {name}", "unit": f"of {count} images differ", "values": values}


def distances(device: torch.device, smoke: bool) -> Iterator[dict[str, Any]]:
    """How far the bundled model's pictures are from others, by its defaults, with seeds' classes in turn."""
    from digit.evaluation.scores import Gaussian, Moments, frechet_distance
    from digit.pipeline import DigitPipeline

    statistics = np.load(os.environ["STATISTICS"])
    reference = Gaussian(*(torch.from_numpy(statistics[name]) for name in ("mu", "sigma")))
    pipeline = DigitPipeline.from_pretrained(device=device)
    at_once, block = (4, 8) if smoke else (AT_ONCE, BLOCK)
    for renderer in pipeline.renderers:
        values = []
        for start in range(0, BLOCKS * block, block):
            moments = Moments(reference.width)
            for first in range(start, start + block, at_once):
                seeds = range(first, first + at_once)
                how = {"labels": [seed % 10 for seed in seeds], "renderer": renderer, "batch_size": at_once}
                moments.update(described(pipeline, pipeline(seeds=seeds, **how).pixels))
            values.append(frechet_distance(moments, reference))
        yield {"name": f"{renderer} renderer, {block} pictures", "unit": "Fréchet distance", "values": values}


def described(pipeline: Any, pixels: torch.Tensor) -> torch.Tensor:
    """A vector for each uint8 picture: the mean of its patches' features, in float32."""
    with torch.no_grad():
        parts = [part.to(pipeline.device).float() / 255 for part in pixels.split(AT_ONCE)]
        return torch.cat([pipeline.tokenizer.encoder(part).mean(1) for part in parts])


def write_statistics(pictures: Path, out: Path, device: torch.device) -> None:
    """Mean and covariance of `described` of all pictures there."""
    from digit.evaluation.pictures import open_pictures
    from digit.evaluation.scores import Moments
    from digit.pipeline import DigitPipeline

    pipeline, moments = DigitPipeline.from_pretrained(device=device), None
    for pixels in open_pictures(pictures, size=pipeline.vqgan.config.image_size).batches:
        vectors = described(pipeline, pixels)
        moments = moments or Moments(vectors.shape[1])
        moments.update(vectors)
    assert moments is not None
    print(f"{moments.n} pictures")
    np.savez(out, mu=moments.mean, sigma=moments.covariance)


def smooth(count: int, size: int) -> torch.Tensor:
    """Random uint8 pictures with structure of every size, as photographs have."""
    generator, total = torch.Generator().manual_seed(0), torch.zeros(count, 3, size, size)
    side, weight = 2, 1.0
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=generator) * weight
        total += torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
        side, weight = 2 * side, weight * 0.6
    return (total * 50 + 128).clamp(0, 255).to(torch.uint8)


def count_of(folder: str) -> int:
    """Files there."""
    return sum(1 for _ in Path(folder).iterdir())


def write_pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files of side x 3/4 side pixels; 64 of them differ."""
    files = []
    for picture in smooth(min(count, 64), side)[:, :, : side * 3 // 4].permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "jpeg", quality=90)
        files.append(buffer.getvalue())
    for index in range(count):
        (folder / f"{index:06d}.jpg").write_bytes(files[index % len(files)])


def worker(part: str, device: torch.device, smoke: bool) -> None:
    """Run a part with the code on the path; a line of JSON per row."""
    for row in globals()[part](device, smoke):
        print("ROW " + json.dumps(row), flush=True)


def run(part: str, checkout: Path, options: argparse.Namespace, pictures: Path) -> list[dict[str, Any]]:
    """The rows of a part with the code of a checkout."""
    command = [sys.executable, __file__, "--worker", part, "--device", options.device]
    command += ["--smoke"] if options.smoke else []
    places = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": places, "PICTURES": str(pictures)}
    if options.statistics:
        environment["STATISTICS"] = str(options.statistics.resolve())
    done = subprocess.run(command, env=environment, cwd=pictures, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("ROW ")]
    for row in rows:
        row["median"] = statistics.median(row["values"])
        print(checkout.name, row["name"], f"{row['median']:.4g}", row["unit"], flush=True)
    return rows if done.returncode == 0 else [*rows, {"name": part, "failed": done.returncode}]


def main() -> None:
    """Both checkouts, part by part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, default=HERE, help="checkout to compare with")
    parser.add_argument("--pictures", type=Path, help="write --statistics of these, and nothing else")
    parser.add_argument("--statistics", type=Path, help="for the part `distances`: an .npz file")
    parser.add_argument("--before-commit", help="its commit, where the checkout has no .git")
    parser.add_argument("--after-commit", help="this one's, likewise")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all, or with --smoke the first two")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--worker", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.parts or (PARTS[:2] if options.smoke else PARTS)
    if options.smoke:
        options.device = "cpu"
    if options.pictures:
        write_statistics(options.pictures, options.statistics, torch.device(options.device))
        return
    if options.worker:
        worker(options.worker, torch.device(options.device), options.smoke)
        return
    if "distances" in options.parts and options.statistics is None:
        raise SystemExit("the part distances needs --statistics")
    result: dict[str, Any] = {
        "measurement": "before and after",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(sys.argv),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "processors": os.cpu_count(),
        "torch": torch.__version__,
        "before": {"commit": options.before_commit, "rows": []},
        "after": {"commit": options.after_commit, "rows": []},
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            if part in PICTURES and not count_of(folder):
                write_pictures(
                    Path(folder), 8 if options.smoke else PICTURES[part], 64 if options.smoke else 500
                )
            for name, checkout in (("before", options.before.resolve()), ("after", HERE)):
                result[name]["rows"] += run(part, checkout, options, Path(folder))
                if options.out:
                    options.out.write_text(json.dumps(result, indent=2) + "\n")
    if any("failed" in row for name in ("before", "after") for row in result[name]["rows"]):
        raise SystemExit("a part failed: see above")


if __name__ == "__main__":
    main()
