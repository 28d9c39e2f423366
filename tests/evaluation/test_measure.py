"""digit.evaluation.measure: one pass, whatever the batches; only what was asked for is kept."""

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.measure import _order, measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures, open_pictures

PIXELS = torch.randint(256, (23, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def colours(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    means = pixels.mean((2, 3))
    return means, means @ torch.eye(3)[:, :2], pixels[:, 0, :2, :2].flatten(1)


NETWORK = Network("colours", "0" * 64, torch.nn.Identity(), colours)


@pytest.mark.parametrize("batch_size", [1, 5, 23])
@pytest.mark.parametrize("known", [True, False])
def test_batches_and_a_known_number_make_no_difference(batch_size, known):
    batches, told = PIXELS.split(batch_size), []
    pictures = Pictures("x", batches, len(PIXELS) if known else None)
    two = measure(
        pictures, [NETWORK, NETWORK], keep=True, spatial=True, progress=lambda *done: told.append(done)
    )
    means, _, corners = colours(PIXELS / 255)
    for found in two:
        torch.testing.assert_close(found.features, means)
        assert found.probabilities is not None and found.probabilities.shape == (23, 2)
        torch.testing.assert_close(found.moments.mean, means.double().mean(0))
        torch.testing.assert_close(found.spatial.covariance, corners.double().T.cov(), rtol=1e-5, atol=1e-7)
    assert told[-1] == (23, 23 if known else None) and len(told) == len(batches)


def test_features_are_kept_only_when_asked():
    found = measure(open_pictures(PIXELS), [NETWORK])[0]
    assert found.features is None and found.spatial is None and found.probabilities is not None


def test_rows_of_processes_go_back_into_the_order_of_the_pictures():
    sizes = [4, 4, 4, 4, 3]  # of the batches, dealt out to two processes
    places = torch.arange(19).split(sizes)
    joined = torch.cat([*places[0::2], *places[1::2]])
    assert torch.equal(joined[_order([sizes[0::2], sizes[1::2]])], torch.arange(19))


def test_what_is_no_picture_or_nothing_is_refused():
    with pytest.raises(DigitError, match="give uint8"):
        measure(open_pictures(PIXELS.float()), [NETWORK])
    with pytest.raises(DigitError, match="no pictures, or no network"):
        measure(open_pictures(PIXELS), [])


def test_tf32_is_only_used_when_asked():
    seen = []

    def forward(pixels: torch.Tensor):
        seen.append(torch.backends.cudnn.allow_tf32)
        return pixels.mean((2, 3)), None

    plain = Network("plain", "0" * 64, torch.nn.Identity(), forward)
    before = torch.backends.cudnn.allow_tf32
    for precision in ("fp32", "tf32"):
        measure(open_pictures(PIXELS[:2]), [plain], precision=precision)
    assert (seen, torch.backends.cudnn.allow_tf32) == ([False, True], before)
