"""Several GPUs of one machine: processes that each see one of them."""

import os

import torch

from digit.errors import DigitError


def environment(number: int) -> dict[str, str]:
    """What a process must have as environment so that GPU `number` is the only one that it sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(number + 1)]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": names[number % len(names)]}


def check_devices(count: int, device: str) -> None:
    """DigitError where `count` GPUs are asked for and are not there; a CPU is one for any count."""
    if device.startswith("cuda") and count > torch.cuda.device_count():
        raise DigitError(f"--devices {count}: this machine has {torch.cuda.device_count()} GPUs")
    if count < 1:
        raise DigitError(f"--devices {count}: at least 1")
