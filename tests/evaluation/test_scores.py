"""digit.evaluation.scores: torch-fidelity's values, and what can be worked out by hand."""

import numpy as np
import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.scores import (
    Gaussian,
    Moments,
    class_accuracy,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)

LOGITS = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 5], [9, 0, 1]])


def six(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_torch_fidelity_agrees_on_mean_and_deviation_kernel_distance():
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = six(150, 0, 0.3), six(130, 1)
    theirs = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=100, verbose=False)
    found = kernel_distance(a, b, subsets=20, size=100)
    assert found == pytest.approx(tuple(theirs.values()), rel=1e-4)
    assert found != kernel_distance(a, b, subsets=20, size=100, seed=1)


def test_the_estimate_has_no_bias_on_small_sets():
    same = [kernel_distance(six(20, 2 * i), six(20, 2 * i + 1), subsets=1, size=20)[0] for i in range(300)]
    values = torch.tensor(same)
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert (values < 0).any()
    # The biased estimate would be off by about E k(x, x) / n each way.
    assert abs(values.mean()) < 0.3 * float(((six(500, 0).square().sum(1) / 6 + 1) ** 3).mean()) / 20


def test_far_sets_are_far():
    near = kernel_distance(six(50, 0), six(50, 1, 0.5), subsets=2, size=50)[0]
    assert kernel_distance(six(50, 0), six(50, 1, 2.0), subsets=2, size=50)[0] > 4 * near > 0


def test_what_has_no_kernel_distance_is_refused():
    with pytest.raises(DigitError, match="40 pictures are too few for subsets of 50"):
        kernel_distance(six(40, 0), six(60, 1), size=50)
    with pytest.raises(DigitError, match="NaN"):
        kernel_distance(six(9, 0) * torch.nan, six(9, 1), size=9)


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_torch_fidelity_agrees_precision_recall(k: int):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = normal(310, 8, 0), normal(290, 8, 1, 0.8)
    theirs = calculate_precision_recall_full(fake, real, neighborhood=k)
    assert precision_recall(real, fake, k=k) == pytest.approx(theirs, abs=1e-6)


def test_chunks_do_not_matter():
    real, fake = normal(100, 6, 2), normal(120, 6, 3)
    assert precision_recall(real, fake, chunk=7) == precision_recall(real, fake)


def test_a_collapsed_set_is_precise_and_recalls_nothing():
    real = normal(200, 4, 4)
    share = precision_recall(real, real[:1].expand(50, -1) + normal(50, 4, 5, 1e-4))
    assert share.precision == 1
    assert share.recall < 0.05


def test_equal_sets_far_from_zero_are_inside_each_other():
    repeated = (normal(10, 16, 6) + 1000).repeat(8, 1)
    assert precision_recall(repeated, repeated.clone()) == (1, 1)


def test_distant_sets_share_nothing():
    assert precision_recall(normal(50, 4, 7), normal(50, 4, 8) + 100) == (0, 0)


def test_too_few_pictures_for_neighbours_are_refused():
    with pytest.raises(DigitError, match="3 pictures have no 3-th"):
        precision_recall(normal(3, 4, 0), normal(50, 4, 1))


@pytest.mark.parametrize("splits", [1, 10])
def test_torch_fidelity_agrees_on_a_number_that_splits_do_not_divide_inception_score(splits: int):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(537, 20, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=splits)
    mean, deviation = inception_score(logits.softmax(1), splits=splits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-4, abs=1e-9)


def test_certain_and_even_guesses_score_the_number_of_classes():
    assert inception_score(torch.eye(10).repeat(30, 1), splits=1)[0] == pytest.approx(10)


def test_equal_guesses_score_one():
    assert inception_score(torch.full((50, 4), 0.25))[0] == pytest.approx(1)


def test_the_order_is_shuffled_unless_told():
    sorted_guesses = torch.eye(5).repeat_interleave(100, 0)
    assert inception_score(sorted_guesses, splits=5, seed=None)[0] == pytest.approx(1)
    assert inception_score(sorted_guesses, splits=5)[0] > 4.5


def test_what_has_no_score_is_refused():
    with pytest.raises(DigitError, match="3 pictures"):
        inception_score(torch.full((3, 4), 0.25))
    with pytest.raises(DigitError, match="NaN"):
        inception_score(torch.full((30, 4), torch.nan))


def test_the_share_of_right_guesses():
    assert class_accuracy(LOGITS, torch.tensor([0, 1, 2, 0])) == 1
    assert class_accuracy(LOGITS, torch.tensor([0, 1, 1, 1])) == 0.5


def test_labels_outside_the_classes_are_refused():
    for labels in ([0, 1, 2, 3], [0, 1, 2, -1]):
        with pytest.raises(DigitError, match="0 to 2"):
            class_accuracy(LOGITS, torch.tensor(labels))
    with pytest.raises(DigitError, match="no pictures"):
        class_accuracy(LOGITS[:0], torch.tensor([], dtype=torch.long))


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
    for name, answer in (("is_initialized", True), ("get_world_size", 2)):
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
