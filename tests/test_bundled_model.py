"""The model that comes with the package: small, whole, quick, and what the README says."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import digit
from digit.errors import DigitError
from digit.pipeline import DigitPipeline
from digit.weights.artifact import describe

FOLDER = Path(digit.__file__).parent / "models" / "cifar10"


def test_at_most_40_megabytes_with_its_encoder():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 40e6
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == {
        "prior", "renderer", "renderer_masked", "tokenizer", "vqgan",
    }  # fmt: skip


def test_lineage_is_whole():
    ids = {name: describe(FOLDER / name)["id"] for name in ("tokenizer", "vqgan")}
    assert describe(FOLDER / "prior")["lineage"] == {"tokenizer": ids["tokenizer"]}
    for name in ("renderer", "renderer_masked"):
        assert describe(FOLDER / name)["lineage"] == ids


def test_draws_with_and_without_labels_by_both_renderers():
    pipeline = DigitPipeline.from_pretrained()
    assert pipeline.classes[3] == "cat"
    first = pipeline("cat", seeds=[5, 6])
    again = pipeline(["cat"], seeds=[6])
    assert torch.equal(first.vq_codes[1:], again.vq_codes)
    assert torch.equal(first.pixels[1:], again.pixels)
    masked = pipeline("cat", seeds=[5, 6], renderer="masked")
    assert torch.equal(masked.codes, first.codes)  # one prior, one seed
    assert not torch.equal(masked.vq_codes, first.vq_codes)
    without = pipeline(num_images=2, unconditional=True)
    assert without.labels is None
    assert first.pixels.shape == without.pixels.shape == (2, 3, 32, 32)


def test_parts_that_are_not_opened_are_checked(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    some = DigitPipeline.from_pretrained(folder, parts=["renderer"])
    assert some.renderers == ["autoregressive"] and some.tokenizer is None
    whole = DigitPipeline.from_pretrained(folder)
    assert torch.equal(some("cat", seeds=[3]).pixels, whole("cat", seeds=[3]).pixels)
    with pytest.raises(DigitError, match="no parts render: choose from prior"):
        DigitPipeline.from_pretrained(folder, parts=["render"])
    path = folder / "tokenizer" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigitError, match="is not the file that config"):
        DigitPipeline.from_pretrained(folder, parts=["renderer"])


@torch.no_grad()
def test_its_vqgan_reconstructs_and_its_tokenizer_is_steady():
    """Smooth pictures of its own making come back; a picture's tokens are the same in another batch."""
    pipeline = DigitPipeline.from_pretrained()
    pixels = pipeline(["ship", "horse", "truck", "frog"], seeds=[0, 1, 2, 3]).pixels.float() / 255
    again = pipeline.vqgan.decode(pipeline.vqgan.encode(pixels))
    psnr = -10 * np.log10(float((again - pixels).square().mean()))
    assert psnr > 20
    assert pipeline.tokenizer is not None
    codes = pipeline.tokenizer.encode(pixels)
    assert codes.shape == (4, 64)
    assert torch.equal(codes[2:3], pipeline.tokenizer.encode(pixels[2:3]))
