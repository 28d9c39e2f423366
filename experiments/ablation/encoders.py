"""Encoders by name: trained here with one published objective, or bundled, or never trained."""

import time
from pathlib import Path

import torch
from ablation.pictures import PictureBatches, Sets, bundled
from ablation.plan import Scale
from cifar10.objectives import stage_of
from cifar10.vit import ViTConfig, vit_optimizer
from self_supervised import export, planned_steps, set_steps

from digit.features import Encoder, EncoderConfig
from digit.files import write_json_atomic
from digit.training.config import TrainConfig
from digit.training.log import read_status
from digit.training.loop import train


def vit_config(scale: Scale, size: int) -> ViTConfig:
    """The ViT/4 that every objective trains, for pictures of `size` px."""
    width, depth = scale.vit
    return ViTConfig(image_size=size, width=width, depth=depth, heads=width // 64)


def train_encoder(
    objective: str, sets: Sets, out: Path, scale: Scale, *, seconds: float, limit: float, steps: int | None
) -> bool:
    """Train for `seconds`, measured at the start, or for `steps`; whether it is finished within `limit`."""
    started, device = time.monotonic(), sets.train.device
    torch.manual_seed(0)  # the initial weights
    stage = stage_of(objective, vit_config(scale, sets.train.shape[-1]), steps=1)
    data = PictureBatches(sets.train, scale.encoder_batch)
    steps = steps or planned_steps(out, seconds, stage, data, device=device)
    set_steps(stage, steps)
    config = TrainConfig(
        steps=steps,
        batch=scale.encoder_batch,
        optimizer=vit_optimizer(1e-3, steps),
        save_every=10**9,  # at the end, and at the limit
        keep=1,
        wall_clock_limit=max(0.0, limit - (time.monotonic() - started)),
    )
    train(stage, data, config, out, on_save=lambda s, _: export(s, out), device=device, title=objective)
    status = read_status(out)
    assert status is not None
    if status.finished:
        epochs = status.step * scale.encoder_batch / len(sets.train)
        write_json_atomic(
            out / "trained.json", {"steps": status.step, "epochs": epochs, "seconds": status.seconds}
        )
    return status.finished


def open_encoder(name: str, out: Path, scale: Scale, sets: Sets) -> Encoder:
    """The frozen encoder called `name`, read at block -3 with the final norm."""
    if name == "distilled":
        return bundled("tokenizer", sets.train.device).encoder
    vit = vit_config(scale, sets.train.shape[-1])
    config = EncoderConfig(
        vit.name, vit.image_size, mean=vit.mean, std=vit.std, arguments=vit.arguments, hosted=False
    )
    torch.manual_seed(0)
    weights = None if name == "random" else out / "encoders" / name / "encoder.safetensors"
    return Encoder(config, weights).to(sets.train.device)
