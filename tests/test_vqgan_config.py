"""Settings of a VQGAN: what follows from others is computed, and torch is not needed to read them."""

import subprocess
import sys

import pytest

from digit.vqgan_config import VQGANConfig


@pytest.mark.parametrize(
    ("config", "downsampling", "grid"),
    [
        (VQGANConfig(), 16, 16),
        (VQGANConfig(image_size=32, multipliers=(1, 2, 2)), 4, 8),
        (VQGANConfig(image_size=8, multipliers=(1,)), 1, 8),
    ],
)
def test_the_grid_follows_from_size_and_levels(config, downsampling, grid):
    assert (config.downsampling, config.grid) == (downsampling, grid)


def test_it_is_read_without_torch():
    code = "import sys; import digit.vqgan_config, digit.training.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "False", done.stderr
