"""The pipeline.py beside a model opens it in diffusers and draws what digit draws."""

import numpy as np
import pytest
import torch

import digit
from digit.nn.backbone import timm


@pytest.mark.filterwarnings("ignore")  # diffusers' own, of its versions and of what is not installed
def test_diffusers_draws_what_digit_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    timm()  # mends an index that pairs a CPU's torch with a GPU's torchvision
    from diffusers import DiffusionPipeline

    own = digit.DigitPipeline.from_pretrained()
    own.save_pretrained(tmp_path / "model", stored_as="int8")
    folder = str(tmp_path / "model")
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    drawn = pipeline("cat", num_images=2, generator=torch.Generator().manual_seed(3)).images
    for image, expected in zip(drawn, own("cat", seeds=[3, 4]).images, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    (pixels,) = pipeline.to("cpu")(["cat", "dog"], output_type="np", return_dict=False)
    assert pixels.shape == (2, 32, 32, 3) and 0 <= pixels.min() < pixels.max() <= 1
