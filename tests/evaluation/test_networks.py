import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from digit.errors import DigitError
from digit.evaluation import networks
from digit.evaluation.classifier import Classifier, ClassifierConfig
from digit.evaluation.networks import classifier_network, open_network, weights_sha256
from digit.evaluation.squeezenet import SqueezeNet
from digit.nn.backbone import timm
from digit.weights.artifact import save


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(classes=3, width=4))


def test_a_classifier_is_read_from_its_artifact(tmp_path):
    save(classifier(), tmp_path / "classifier", classes=["cat", "dog", "owl"])
    network = open_network(f"classifier:{tmp_path / 'classifier'}")
    assert network.classes == ("cat", "dog", "owl")
    assert network.name == f"classifier-{network.sha256[:8]}"
    assert network.sha256 == classifier_network(classifier()).sha256
    features, probabilities = network.outputs(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 32)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_bytes_and_floats_are_the_same_pictures_and_batches_do_not_matter():
    network = classifier_network(classifier())
    pixels = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    features, probabilities = network.outputs(pixels)
    torch.testing.assert_close(network.features(pixels / 255), features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.features(pixels[2:3]), features[2:3], rtol=1e-5, atol=1e-5)
    assert torch.equal(network.probabilities(pixels), probabilities)


def test_the_hash_is_of_the_weights_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = weights_sha256(module)
    module[1].num_batches_tracked += 5
    assert weights_sha256(module) == before
    module[0].weight.data[0, 0] += 1
    assert weights_sha256(module) != before


def test_squeezenet_and_timm_networks_from_files(tmp_path):
    save_file(SqueezeNet(classes=5).state_dict(), tmp_path / "squeezenet.safetensors")
    squeezenet = open_network(f"squeezenet:{tmp_path / 'squeezenet.safetensors'}")
    lite = timm.create_model("test_efficientnet", pretrained=False)
    save_file(lite.state_dict(), tmp_path / "lite.safetensors")
    other = open_network("timm:test_efficientnet", weights=tmp_path / "lite.safetensors")
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    for network, width, classes in ((squeezenet, 512, 5), (other, lite.num_features, 1000)):
        features, probabilities = network.outputs(pixels)
        assert features.shape == (2, width)
        assert probabilities is not None
        assert probabilities.shape == (2, classes)
    assert other.classes[0] == "n01440764"  # the first of ImageNet's wnids
    assert other.metric("FD") == f"FD-test_efficientnet-{other.sha256[:8]}"


def test_only_fids_own_inception_gives_fid(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, state: None)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: {})
    stub = FeatureExtractorInceptionV3("stub", ["2048"], feature_extractor_weights_path="unread")
    monkeypatch.undo()
    save_file(stub.state_dict(), tmp_path / "stub.safetensors")
    torch.save(stub.state_dict(), tmp_path / "stub.pth")

    network = open_network("inception", weights=tmp_path / "stub.safetensors")
    assert network.metric("FD") == f"FD-inceptionv3-{network.sha256[:8]}"
    pixels = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    features, probabilities = network.outputs(pixels)
    assert probabilities is not None
    assert probabilities.shape == (1, 1008)
    stub.features_list = ["2048"]
    torch.testing.assert_close(features, stub(pixels)[0], rtol=1e-4, atol=1e-5)

    with pytest.raises(DigitError, match="sha256 differs"):
        open_network("inception", weights=tmp_path / "stub.pth")
    # The published file has this start of a sha256; a stub cannot, so the stub's is taken for it here.
    official = hashlib.sha256((tmp_path / "stub.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(networks, "_INCEPTION_SHA256", official[:8])
    network = open_network(f"inception:{tmp_path / 'stub.pth'}")
    assert (network.metric("FD"), network.metric("IS")) == ("FID", "IS")
    torch.testing.assert_close(network.features(pixels), features)


def test_what_cannot_be_opened_is_explained(tmp_path):
    for spec, message in (
        ("resnet", "no network 'resnet'"),
        ("timm:", "no network"),
        ("timm:no_such_network", "no_such_network"),
        ("inception", "weights-inception-2015-12-05-6726825d.pth"),
        (f"classifier:{tmp_path / 'none'}", "none"),
        (f"squeezenet:{tmp_path / 'none.safetensors'}", "does not exist"),
    ):
        with pytest.raises(DigitError, match=message):
            open_network(spec)
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for spec in (
        f"squeezenet:{tmp_path / 'other.safetensors'}",
        f"inception:{tmp_path / 'other.safetensors'}",
    ):
        with pytest.raises(DigitError, match=r"other\.safetensors"):
            open_network(spec)
