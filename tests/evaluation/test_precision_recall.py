import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.precision_recall import precision_recall


def draw(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_torch_fidelity_agrees(k: int):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = draw(310, 8, 0), draw(290, 8, 1, 0.8)
    theirs = calculate_precision_recall_full(fake, real, neighborhood=k)
    assert precision_recall(real, fake, k=k) == pytest.approx(theirs, abs=1e-6)


def test_chunks_do_not_matter():
    real, fake = draw(100, 6, 2), draw(120, 6, 3)
    assert precision_recall(real, fake, chunk=7) == precision_recall(real, fake)


def test_a_collapsed_set_is_precise_and_recalls_nothing():
    real = draw(200, 4, 4)
    share = precision_recall(real, real[:1].expand(50, -1) + draw(50, 4, 5, 1e-4))
    assert share.precision == 1
    assert share.recall < 0.05


def test_equal_sets_far_from_zero_are_inside_each_other():
    repeated = (draw(10, 16, 6) + 1000).repeat(8, 1)
    assert precision_recall(repeated, repeated.clone()) == (1, 1)


def test_distant_sets_share_nothing():
    assert precision_recall(draw(50, 4, 7), draw(50, 4, 8) + 100) == (0, 0)


def test_too_few_pictures_are_refused():
    with pytest.raises(DigitError, match="3 pictures have no 3-th"):
        precision_recall(draw(3, 4, 0), draw(50, 4, 1))
