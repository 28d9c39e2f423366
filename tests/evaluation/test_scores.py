"""digit.evaluation.scores: torch-fidelity's values, and what can be worked out by hand."""

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.scores import class_accuracy, inception_score, kernel_distance, precision_recall

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
