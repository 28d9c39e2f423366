import numpy as np
import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.frechet import Gaussian, Moments, frechet_distance


def of(features: torch.Tensor) -> Moments:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments


def correlated(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + torch.randn(
        d, generator=generator
    )


def test_moments_are_numpys():
    features = correlated(300, 7, 0)
    moments = of(features)
    assert moments.n == 300
    np.testing.assert_allclose(moments.mean, features.numpy().mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        moments.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-10, atol=1e-10
    )


def test_merged_parts_and_any_batch_size_are_the_whole_to_1e_9():
    features = correlated(500, 12, 1) + 30
    whole, other = of(features), of(correlated(400, 12, 2))
    merged = of(features[:123]).merge(of(features[123:]))
    singly = Moments(12)
    for row in features:
        singly.update(row[None])
    expected = frechet_distance(whole, other)
    assert frechet_distance(merged, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(singly, other) == pytest.approx(expected, rel=1e-9)


def test_published_statistics_stand_in_for_moments():
    a, b = of(correlated(300, 8, 0)), of(correlated(200, 8, 1))
    published = Gaussian(b.mean, b.covariance)
    assert frechet_distance(a, published) == frechet_distance(a, b)
    with pytest.raises(DigitError, match="widths 3 and 8"):
        frechet_distance(of(torch.randn(9, 3)), published)


def test_ranks_add_up(monkeypatch):
    parts = [of(correlated(60, 5, 0)), of(correlated(40, 5, 1))]
    assert parts[0].over_processes().n == 60  # no processes are joined: its own
    for name, answer in (("is_available", True), ("is_initialized", True)):
        monkeypatch.setattr(torch.distributed, name, lambda answer=answer: answer)
    others = iter([torch.tensor(parts[1].n), parts[1].sum, parts[1].outer])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(next(others)))
    joined, merged = parts[0].over_processes(), parts[0].merge(parts[1])
    assert (joined.n, parts[0].n) == (100, 60)
    torch.testing.assert_close(joined.covariance, merged.covariance)


def test_axis_aligned_gaussians_have_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    # Whiten the sample exactly, so that the moments below are exact too.
    noise = (noise - noise.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    scale_a, scale_b = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([2.0, 2, 1, 0.5, 0]).double()
    shift = torch.tensor([0.0, 1, -2, 0, 3]).double()
    expected = shift.square().sum() + (scale_a - scale_b).square().sum()
    assert frechet_distance(of(noise * scale_a), of(noise * scale_b + shift)) == pytest.approx(
        expected.item(), abs=1e-6
    )


@pytest.mark.parametrize("n", [400, 20], ids=["full rank", "fewer pictures than features"])
def test_torch_fidelity_agrees(n: int):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = correlated(n, 48, 3), correlated(n + 5, 48, 4)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False
    )
    ours = frechet_distance(of(a), of(b))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert frechet_distance(of(b), of(a)) == pytest.approx(ours, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself_even_if_singular():
    for n in (400, 10):
        moments = of(correlated(n, 32, 5))
        assert 0 <= frechet_distance(moments, moments) < 1e-4 * float(moments.covariance.trace())


def test_bf16_features_are_summed_in_float64():
    features = torch.full((3000, 2), 1 / 3, dtype=torch.bfloat16)
    features[0] = 1000
    assert of(features).mean[0].item() == pytest.approx(features.double().mean(0)[0].item(), rel=1e-12)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DigitError, match="widths 3 and 4"):
        frechet_distance(of(torch.randn(9, 3)), of(torch.randn(9, 4)))
    with pytest.raises(DigitError, match="one picture"):
        frechet_distance(of(torch.randn(1, 3)), of(torch.randn(9, 3)))
    with pytest.raises(DigitError, match="no pictures"):
        frechet_distance(Moments(3), of(torch.randn(9, 3)))
    with pytest.raises(DigitError, match="NaN"):
        frechet_distance(of(torch.full((9, 3), torch.nan)), of(torch.randn(9, 3)))
