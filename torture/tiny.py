"""A tiny chain without training: pictures, stages of random weights, the model, codes, a state."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from digit.data.images import open_images
from digit.data.write_codes import write_codes
from digit.features import EncoderConfig
from digit.pipeline import DigitPipeline
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.run.tokenize import open_kinds
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.training import checkpoint
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.artifact import load, save

CLASSES = ["blue", "green", "red"]


def make_pictures(path: Path, count: int = 24, size: int = 16) -> Path:
    """A zip of three classes of noisy pictures."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{CLASSES[i % 3]}/{i:04d}.png", buffer.getvalue())
    return path


def make_stages(folder: Path) -> dict[str, Path]:
    """Artifacts of every stage of a model, with random weights, that belong together."""
    vit = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    encoder = EncoderConfig("vit_tiny_patch16_224", 16, arguments=vit)
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(encoder, codes=8), centroids=torch.randn(8, 16))
    vqgan = VQGAN(VQGANConfig(16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4))
    stages: dict[str, nn.Module] = {"tokenizer": tokenizer, "vqgan": vqgan}
    ids = {
        name: save(stage, folder / name, classes=CLASSES, extra={"size": 16})
        for name, stage in stages.items()
    }
    prior = Prior(PriorConfig(codes=8, length=16, classes=3, width=16, layers=1, heads=2))
    renderer = Renderer(
        RendererConfig(codes=8, length=16, vq_codes=16, vq_length=16, width=16, layers=1, heads=2)
    )
    save(prior, folder / "prior", lineage={"tokenizer": ids["tokenizer"]}, classes=CLASSES)
    save(renderer, folder / "renderer", lineage=ids, classes=CLASSES)
    return {name: folder / name for name in (*stages, "prior", "renderer")}


def make_model(stages: dict[str, Path], folder: Path) -> Path:
    """The model composed of the stages."""
    parts: dict[str, Any] = {name: load(path) for name, path in stages.items()}
    DigitPipeline(parts.pop("prior"), parts.pop("vqgan"), **parts, classes=CLASSES).save_pretrained(folder)
    return folder


def make_codes(images: Path, stages: dict[str, Path], folder: Path) -> Path:
    """The pictures' codes of both kinds."""
    kinds, _, side = open_kinds(stages["tokenizer"], stages["vqgan"], size=16, device=torch.device("cpu"))
    write_codes(open_images(images), folder, kinds, size=side, views=2)
    return folder


def make_state(folder: Path, step: int = 3) -> Path:
    """A training state."""
    tensors = {"w": torch.randn(40, 3), "b": torch.randn(40)}
    moments = {f"adam.{name}.exp_avg": tensor * 2 for name, tensor in tensors.items()}
    return checkpoint.save(folder, step, model=tensors, optimizer=moments, state={"seconds": 1.5}, keep=2)
