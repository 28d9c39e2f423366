"""Patches as rows: against torch's own unfolding, at sizes that fill no block."""

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels.patches import patches

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("pictures", "grid", "patch", "width", "prefix"), [(3, 3, 2, 16, 0), (1, 2, 5, 80, 1), (2, 1, 14, 592, 5)]
)
@pytest.mark.parametrize("bytes_", [True, False])
def test_rows_are_the_unfolded_pixels(pictures, grid, patch, width, prefix, bytes_):
    torch.manual_seed(0)
    pixels = torch.randint(256, (pictures, 3, grid * patch, grid * patch), dtype=torch.uint8, device=DEVICE)
    if not bytes_:
        pixels = pixels / 255
    how = {"width": width, "prefix": prefix, "scale": 0.5, "shift": -2.0, "dtype": torch.float16}
    found = patches(pixels, patch, **how)
    rows = F.unfold(pixels.float() * 0.5 - 2, patch, stride=patch).transpose(1, 2)
    expected = F.pad(rows, (0, width - rows.shape[2], prefix, 0)).flatten(0, 1).half()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
