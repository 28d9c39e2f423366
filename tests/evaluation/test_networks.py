import hashlib

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from digit.errors import DigitError
from digit.evaluation import inception, networks
from digit.evaluation.networks import classifier_network, open_network, squeezenet, weights_sha256
from digit.evaluation.selftest import random_tensors, smooth_pictures
from digit.features import resize_positions
from digit.nn.backbone import Standardize, create, timm
from digit.nn.classifier import Classifier, ClassifierConfig
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
    features, probabilities, _ = network.outputs(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 32)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_bytes_and_floats_are_the_same_pictures_and_batches_do_not_matter():
    network = classifier_network(classifier())
    pixels = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    features, probabilities, _ = network.outputs(pixels)
    torch.testing.assert_close(network.outputs(pixels / 255).features, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.outputs(pixels[2:3]).features, features[2:3], rtol=1e-5, atol=1e-5)
    assert torch.equal(network.outputs(pixels).probabilities, probabilities)


def test_many_pictures_go_through_in_pieces(monkeypatch):
    network = classifier_network(classifier())
    pixels = torch.randint(256, (7, 3, 32, 32), dtype=torch.uint8)
    whole = network.outputs(pixels)
    monkeypatch.setattr(networks, "AT_ONCE", 3)
    pieces = network.outputs(pixels)
    torch.testing.assert_close(pieces.features, whole.features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pieces.probabilities, whole.probabilities, rtol=1e-5, atol=1e-5)
    assert pieces.spatial is None


def test_the_hash_is_of_the_weights_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = weights_sha256(module)
    module[1].num_batches_tracked += 5
    assert weights_sha256(module) == before
    module[0].weight.data[0, 0] += 1
    assert weights_sha256(module) != before


def test_squeezenet_and_timm_networks_from_files(tmp_path):
    module = squeezenet(classes=5).eval()
    assert sum(tensor.numel() for tensor in module.features.state_dict().values()) == 722_496
    save_file(module.state_dict(), tmp_path / "squeezenet.safetensors")
    judge = open_network(f"squeezenet:{tmp_path / 'squeezenet.safetensors'}")
    lite = timm().create_model("test_efficientnet", pretrained=False)
    save_file(lite.state_dict(), tmp_path / "lite.safetensors")
    other = open_network(f"timm:test_efficientnet={tmp_path / 'lite.safetensors'}")
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    for network, width, classes in ((judge, 512, 5), (other, lite.num_features, 1000)):
        features, probabilities, _ = network.outputs(pixels)
        assert features.shape == (2, width)
        assert probabilities is not None
        assert probabilities.shape == (2, classes)
    large = F.interpolate(pixels / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    standard = Standardize()(large)
    torch.testing.assert_close(judge.outputs(pixels).probabilities, module(standard).softmax(1))
    assert other.classes[0] == "n01440764"  # the first of ImageNet's wnids
    assert other.metric("FD") == f"FD-test_efficientnet-{other.sha256[:8]}"


def test_only_fids_own_inception_gives_fid(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    tensors = random_tensors()
    torch.save(tensors, tmp_path / "stub.pth")
    theirs = FeatureExtractorInceptionV3(
        "stub", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "stub.pth")
    )
    spatial = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, out: spatial.append(out[:, :7]))

    network = open_network("inception", inception_weights=tmp_path / "stub.pth")
    assert network.metric("FD") == f"FD-inceptionv3-{network.sha256[:8]}"
    assert network.sha256 == weights_sha256(theirs)
    pixels = smooth_pictures(1, 40)[:, :, :36]
    features, probabilities, places = network.outputs(pixels)
    pooled, logits = theirs(pixels)
    torch.testing.assert_close(features, pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-3, atol=1e-6)
    # ADM's statistics have the places of a map first, then its channels.
    torch.testing.assert_close(
        places.unflatten(1, (17, 17, 7)), spatial[0].permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5
    )

    # The published file has this start of a sha256; a stub cannot, so the stub's is taken for it here.
    official = hashlib.sha256((tmp_path / "stub.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", official[:8])
    network = open_network("inception", inception_weights=tmp_path / "stub.pth")
    assert network.sha256 == official
    names = [network.metric(kind) for kind in ("FD", "sFD", "KD", "IS", "precision")]
    assert names == ["FID", "sFID", "KID", "IS", "precision"]


def test_dinov2_reads_the_class_token_at_its_own_positions(tmp_path, monkeypatch):
    class Tiny:
        name, image_size = "vit_tiny_patch16_224", 32
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    monkeypatch.setattr(networks, "encoder_config", lambda name: Tiny)
    shape = {"depth": 1, "embed_dim": 12, "num_heads": 2}
    monkeypatch.setattr(
        networks, "create", lambda *given, **options: create(*given, img_size=64, **options, **shape)
    )
    torch.manual_seed(0)
    vit = timm().create_model(Tiny.name, img_size=64, num_classes=0, **shape)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    network = open_network(f"dinov2-l={tmp_path / 'vit.safetensors'}")
    positions = resize_positions(vit.pos_embed[:, 1:].detach(), (4, 4), (2, 2), "reference")
    vit.set_input_size(img_size=(32, 32))
    vit.pos_embed.data[:, 1:] = positions
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network.outputs(pixels).features, vit.eval().forward_features(pixels)[:, 0])
    assert network.metric("FD").startswith("FD-dinov2-l-")
    assert network.outputs(pixels).probabilities is None


def test_what_cannot_be_opened_is_explained(tmp_path):
    for spec, message in (
        ("resnet", "no network 'resnet'"),
        ("timm:", "no network"),
        ("timm:no_such_network", "no_such_network"),
        ("inception=x.pth", "no network"),
        (f"classifier:{tmp_path / 'none'}", "none"),
        (f"squeezenet:{tmp_path / 'none.safetensors'}", "does not exist"),
    ):
        with pytest.raises(DigitError, match=message):
            open_network(spec)
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DigitError, match=r"other\.safetensors"):
        open_network(f"squeezenet:{tmp_path / 'other.safetensors'}")
    with pytest.raises(DigitError, match=r"other\.safetensors holds no InceptionV3"):
        open_network("inception", inception_weights=tmp_path / "other.safetensors")
    with pytest.raises(DigitError, match="does not exist: download"):
        open_network("inception", inception_weights=tmp_path / "none.pth")
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "short.safetensors")
    with pytest.raises(DigitError, match=r"short.* missing: fc\.weight"):
        open_network("inception", inception_weights=tmp_path / "short.safetensors")
