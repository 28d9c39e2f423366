import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.kid import kernel_distance


def draw(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_torch_fidelity_agrees_on_mean_and_deviation():
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = draw(150, 0, 0.3), draw(130, 1)
    theirs = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=100, verbose=False)
    found = kernel_distance(a, b, subsets=20, size=100)
    assert found == pytest.approx(tuple(theirs.values()), rel=1e-4)
    assert found != kernel_distance(a, b, subsets=20, size=100, seed=1)


def test_the_estimate_has_no_bias_on_small_sets():
    same = [kernel_distance(draw(20, 2 * i), draw(20, 2 * i + 1), subsets=1, size=20)[0] for i in range(300)]
    values = torch.tensor(same)
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert (values < 0).any()
    # The biased estimate would be off by about E k(x, x) / n each way.
    assert abs(values.mean()) < 0.3 * float(((draw(500, 0).square().sum(1) / 6 + 1) ** 3).mean()) / 20


def test_far_sets_are_far():
    near = kernel_distance(draw(50, 0), draw(50, 1, 0.5), subsets=2, size=50)[0]
    assert kernel_distance(draw(50, 0), draw(50, 1, 2.0), subsets=2, size=50)[0] > 4 * near > 0


def test_what_has_no_distance_is_refused():
    with pytest.raises(DigitError, match="40 pictures are too few for subsets of 50"):
        kernel_distance(draw(40, 0), draw(60, 1), size=50)
    with pytest.raises(DigitError, match="NaN"):
        kernel_distance(draw(9, 0) * torch.nan, draw(9, 1), size=9)
