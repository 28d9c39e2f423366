"""Several GPUs of one machine: processes that each see one of them."""

import os
from collections.abc import Sequence

import torch

from digit.errors import DigitError


def environment(number: int, *, processes: int) -> dict[str, str]:
    """The environment of one of `processes` on this machine: GPU `number` alone, and a share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(number + 1)]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    own = {"CUDA_VISIBLE_DEVICES": names[number % len(names)], "OMP_NUM_THREADS": threads}
    return {**os.environ, **own, "TORCHINDUCTOR_COMPILE_THREADS": threads}


def freest(places: Sequence[int], devices: int, *, workers: int) -> int | None:
    """The device with the fewest of the processes at `places`; None where all have `workers` of them."""
    load = [places.count(each) for each in range(devices)]
    return load.index(min(load)) if min(load) < workers else None


def check_devices(count: int, device: str) -> None:
    """DigitError where `count` GPUs are asked for and are not there; a CPU is one for any count."""
    if device.startswith("cuda") and count > torch.cuda.device_count():
        raise DigitError(f"--devices {count}: this machine has {torch.cuda.device_count()} GPUs")
    if count < 1:
        raise DigitError(f"--devices {count}: at least 1")
