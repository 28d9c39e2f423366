"""Which device a command uses."""

import os

import torch

from digit.distributed import local_rank, world_size
from digit.errors import DigitError
from digit.nn.checks import check_device
from digit.progress import say


def choose_device(name: str | None, *, float64: bool = False) -> torch.device:
    """The device called `name`; nothing takes the GPU if there is one, of several processes each its own.

    A Mac's GPU, mps, is taken only by name: nothing was tested on one. It has no `float64`.

    Raises:
        DigitError: no such device here, or of several processes one that is not its own, or no float64 on it.
    """
    if name is None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        if shown not in ("", "-1") and not torch.cuda.is_available():
            say(f"digit: CUDA_VISIBLE_DEVICES={shown} names no GPU of this machine: computing on the CPU")
        name = "cuda" if torch.cuda.is_available() else "cpu"
    own = None
    if world_size() > 1 and torch.cuda.is_available():
        own = torch.device("cuda", local_rank() % torch.cuda.device_count())
    if name == "cuda" and own is not None:
        return own
    device = check_device(name)
    if device.type == "mps" and (float64 or world_size() > 1):
        why = "this command adds in float64, which it has not" if float64 else "it serves one process"
        raise DigitError(f"--device {name}: {why}; choose cpu")
    if device.type == "cuda" and own is not None and device != own:  # NCCL wants tensors where its group is
        raise DigitError(f"--device {name}: each of several processes has a GPU of its own; choose cuda")
    return device


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, plain float32 on the CPU, for frozen networks."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
