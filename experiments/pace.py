"""How long one update of a stage takes here, so that a budget in seconds becomes a number of steps."""

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_per_step(stage: Any, data: Callable[[int], Any], device: torch.device) -> float:
    """Measured on throw-away updates of `stage`, on `device` already, after those that compile."""
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=1e-5)
    warm, timed = (5, 30) if device.type == "cuda" else (1, 2)
    start = 0.0
    for step in range(warm + timed):
        if step == warm:
            _wait(device)
            start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = stage.loss(data(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _wait(device)
    return (time.perf_counter() - start) / timed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
