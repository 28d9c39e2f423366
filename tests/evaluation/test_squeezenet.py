import torch

from digit.evaluation.squeezenet import SqueezeNet


def test_names_and_sizes_are_torchvisions():
    # github.com/pytorch/vision, models/squeezenet.py: squeezenet1_1 has 1,235,496 parameters in 52 tensors.
    with torch.device("meta"):
        state = SqueezeNet().state_dict()
    assert len(state) == 52
    assert sum(tensor.numel() for tensor in state.values()) == 1_235_496
    assert state["features.0.weight"].shape == (64, 3, 3, 3)
    assert state["features.12.expand3x3.weight"].shape == (256, 64, 3, 3)
    assert state["classifier.1.weight"].shape == (1000, 512, 1, 1)


def test_logits_and_features_come_from_one_pass():
    network = SqueezeNet(classes=7).eval()
    pixels = torch.randn(2, 3, 64, 64)
    features, logits = network.pooled(pixels)
    assert features.shape == (2, 512)
    assert (logits >= 0).all()
    torch.testing.assert_close(network(pixels), logits)
