"""A small set of models and pictures for what completes pictures."""

import zipfile

import pytest
import torch

from digit.nn.classifier import Classifier, ClassifierConfig
from digit.weights.artifact import save


@pytest.fixture(scope="module")
def places(chain, tmp_path_factory):
    """A network, a folder of pictures, one picture alone, a VQ-only model, one without a tokenizer."""
    from digit.run.compose import compose

    root = tmp_path_factory.mktemp("prefix")
    torch.manual_seed(0)
    save(
        Classifier(ClassifierConfig(classes=3, width=4, image_size=16)),
        root / "net",
        classes=["blue", "green", "red"],
    )
    with zipfile.ZipFile(chain.images) as archive:
        archive.extractall(root / "pictures", archive.namelist()[:5])
        (root / "one.png").write_bytes(archive.read(archive.namelist()[0]))
    vqgan = chain.root / "vqgan"
    compose(chain.root / "prior_vq", root / "vq", vqgan=vqgan)
    compose(chain.root / "prior", root / "blind", vqgan=vqgan, renderer=chain.root / "renderer")
    return root
