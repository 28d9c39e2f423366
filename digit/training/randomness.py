"""The seed of a forward pass: a function of the run's seed, the update and the first of its samples."""

import hashlib

import torch


def seed_all(seed: int, step: int, row: int, *, device: torch.device) -> None:
    """Seed torch's generators for the forward pass that begins at sample `row` of the batch of all processes.

    So processes with a part of the batch each draw what one process with as large micro-batches draws.
    """
    place = f"{seed}/{step}" if row == 0 else f"{seed}/{step}/{row}"
    # 64 bits that differ for each place, unlike a sum
    bits = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest())
    torch.default_generator.manual_seed(bits)  # torch.manual_seed takes ten times as long
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(bits)
