"""Pictures, and codes of them that cost nothing."""

import pytest
import torch
from tests_support import make_pictures

from digit.data import write_codes as writing
from digit.data.images import ImageSource, open_images
from digit.data.write_codes import CodeKind


@pytest.fixture
def pictures(tmp_path) -> ImageSource:
    """Twenty small pictures of three classes."""
    return open_images(make_pictures(tmp_path / "pictures.zip", count=20))


@pytest.fixture
def kinds(monkeypatch) -> dict[str, CodeKind]:
    """One kind of code, of a tokenizer that needs no network, written in parts of eight pictures."""
    monkeypatch.setattr(writing, "PART", 8)
    return {"codes": CodeKind(mean_codes, 256, "tokenizer-id")}


def mean_codes(pixels: torch.Tensor) -> torch.Tensor:
    """Four codes per picture: the brightness of its quarters."""
    means = torch.nn.functional.adaptive_avg_pool2d(pixels.float().mean(1), 2)
    return means.flatten(1).long()
