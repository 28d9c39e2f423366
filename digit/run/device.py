"""Which device a command uses."""

import torch

from digit.distributed import local_rank, world_size
from digit.errors import DigitError


def choose_device(name: str | None) -> torch.device:
    """The device called `name`; nothing takes the GPU if there is one, of several processes each its own.

    Raises:
        DigitError: no such device here, or of several processes one that is not its own.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    own = None
    if world_size() > 1 and torch.cuda.is_available():
        own = torch.device("cuda", local_rank() % torch.cuda.device_count())
    if name == "cuda" and own is not None:
        return own
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DigitError(f"--device {name}: unknown device; choose cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise DigitError(f"--device {name}: there is no such GPU here; choose cpu")
    if device.type == "cuda" and own is not None and device != own:  # NCCL wants tensors where its group is
        raise DigitError(f"--device {name}: each of several processes has a GPU of its own; choose cuda")
    return device


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, plain float32 on the CPU, for frozen networks."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
