import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.measure import measure
from digit.evaluation.networks import classifier_network
from digit.evaluation.pictures import open_pictures
from digit.evaluation.prefix import Completer, as_rows, named, prefix_distances
from digit.nn.classifier import Classifier, ClassifierConfig

LENGTH = 4


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return classifier_network(Classifier(ClassifierConfig(classes=3, width=4, image_size=8)))


def pixels_of(codes):
    """Quarters of a picture as bright as their codes: an exact renderer."""
    return (
        (codes.view(-1, 1, 2, 2) * 16)
        .to(torch.uint8)
        .repeat(1, 3, 1, 1)
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
    )


def completer(name, codes, wrong):
    """Draws what `wrong` says of the codes that are not given, and notes what it was asked."""
    asked = []

    def complete(prefix, numbers):
        asked.append((prefix.shape, list(numbers)))
        assert torch.equal(prefix, codes[numbers, : prefix.shape[1]])
        rest = wrong(codes[numbers])[:, prefix.shape[1] :]
        return pixels_of(torch.cat((prefix, rest), 1))

    return Completer(name, codes, complete), asked


def real(network, codes):
    return measure(open_pictures(pixels_of(codes)), [network])


def test_a_longer_prefix_of_the_truth_brings_the_pictures_nearer(network):
    codes = torch.randint(16, (40, LENGTH), generator=torch.Generator().manual_seed(0))
    good, _ = completer("good", codes, lambda true: (true + 1) % 16)
    bad, asked = completer("bad", codes, lambda true: true * 0 + 15)
    points = list(prefix_distances([good, bad], [4, 0, 2], [network], real(network, codes), batch_size=16))
    assert [(p.model, p.prefix, p.share) for p in points] == [
        (model, n, n / 4) for model in ("good", "bad") for n in (0, 2, 4)
    ]
    distance = [point.values[network.metric("FD")] for point in points]
    assert distance[3] > distance[4] > distance[5]  # of the bad one, all wrong, half and none
    assert abs(distance[2]) < 1e-3 and abs(distance[5]) < 1e-3  # all codes: the pictures themselves
    assert distance[3] > distance[0]
    assert asked[0] == ((16, 0), list(range(16))) and asked[2] == ((8, 0), list(range(32, 40)))


def test_names_and_rows(network):
    codes = torch.randint(16, (20, LENGTH))
    model, _ = completer("a", codes, lambda true: true)
    points = list(prefix_distances([model], [0, 2, 2], [network], real(network, codes)))
    assert len(points) == 2
    names = dict(named(points))
    assert f"a: {network.metric('FD')}, prefix 2 of 4" in names
    assert as_rows(points)[1]["share"] == 0.5


def test_shorter_models_leave_long_prefixes_out(network):
    codes = torch.randint(16, (10, LENGTH))
    long, _ = completer("long", codes, lambda true: true)
    short = Completer("short", codes[:, :1], lambda prefix, numbers: pixels_of(codes[numbers]))
    points = list(prefix_distances([long, short], [1, 3], [network], real(network, codes)))
    assert [(point.model, point.prefix) for point in points] == [("long", 1), ("long", 3), ("short", 1)]


@pytest.mark.parametrize("wrong", [[], [-1], [5, 0]])
def test_lengths_no_model_has_are_refused(network, wrong):
    model, asked = completer("a", torch.zeros(3, LENGTH, dtype=torch.int64), lambda true: true)
    with pytest.raises(DigitError, match="prefix"):
        list(prefix_distances([model], wrong, [network], []))
    assert not asked
