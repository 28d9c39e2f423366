"""How many steps give a VQ-only prior the training compute of prior and autoregressive renderer together.

    python experiments/cifar10/compute.py runs/cifar10 6000

Counted per picture: 6 operations per weight and position of the blocks and of the output layer where it is
used, and 12 x positions^2 / 2 x width x layers for causal attention. The shapes are those of
experiments/cifar10.sh.
"""

import sys
from pathlib import Path

from digit.data.codes import Codes


def cost(width: int, layers: int, positions: int, predicted: int, vocabulary: int) -> float:
    """Training operations per picture of one GPT: forward and backward."""
    blocks = 12 * width**2 * layers * positions
    head = width * vocabulary * predicted
    attention = layers * width * positions**2
    return 6.0 * (blocks + head + attention)


def matched_steps(steps: int, *, codes: int, length: int, vq_codes: int, vq_length: int) -> int:
    """The VQ-only prior's steps, for equal batches."""
    prior = cost(320, 8, length, length, codes)
    renderer = cost(256, 6, length + vq_length, vq_length, vq_codes)
    return round(steps * (prior + renderer) / cost(320, 8, vq_length, vq_length, vq_codes))


if __name__ == "__main__":
    opened = Codes(Path(sys.argv[1]) / "codes-train", verify=False)
    print(
        matched_steps(
            int(sys.argv[2]),
            codes=opened.vocabulary("codes"),
            length=opened.length("codes"),
            vq_codes=opened.vocabulary("vq_codes"),
            vq_length=opened.length("vq_codes"),
        )
    )
