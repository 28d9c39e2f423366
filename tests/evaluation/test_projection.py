"""digit.evaluation.projection: the toy's two answers, and scikit-learn's."""

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from digit.errors import DigitError
from digit.evaluation.projection import (
    NUISANCES,
    angle,
    centroid_accuracy,
    fisher_ratio,
    lda,
    pca,
    scatter,
    separability,
    toy,
    toy_values,
)


def clouds(classes: int = 4, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(40 * classes) % classes
    noise = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    return centres[labels] + noise @ mix, labels


def test_scatters_add_up_to_the_whole():
    points, labels = clouds()
    within, between = scatter(points, labels)
    torch.testing.assert_close(within + between, torch.cov(points.T, correction=0))


def test_pca_is_scikit_learns():
    points, _ = clouds()
    theirs = torch.from_numpy(PCA(2).fit(points.numpy()).components_.T)
    torch.testing.assert_close((pca(points, 2) * theirs).sum(0).abs(), torch.ones(2).double())


def test_lda_is_scikit_learns():
    points, labels = clouds()
    model = LinearDiscriminantAnalysis(solver="eigen").fit(points.numpy(), labels.numpy())
    theirs = torch.from_numpy(model.scalings_[:, :3].copy())
    theirs /= theirs.norm(dim=0)
    ours = lda(points, labels, 3)
    torch.testing.assert_close((ours * theirs).sum(0).abs(), torch.ones(3).double())


def test_shrunk_lda_of_two_classes_is_scikit_learns():
    points, labels = clouds(2)
    points = torch.cat((points, points), 1)  # singular without shrinkage
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(points.numpy(), labels.numpy())
    theirs = torch.from_numpy(model.coef_[0])
    assert angle(lda(points, labels, 1, shrinkage=0.2)[:, 0], theirs) < 1e-4


def test_no_direction_separates_better_than_ldas():
    points, labels = clouds()
    best = fisher_ratio(points @ lda(points, labels, 1), labels)
    directions = torch.randn(6, 200, generator=torch.Generator().manual_seed(1)).double()
    assert best > max(fisher_ratio(points @ directions[:, i : i + 1], labels) for i in range(200))
    assert best > fisher_ratio(points @ pca(points, 1), labels)


def test_noise_turns_pca_away_and_not_lda():
    values = dict(toy_values())
    first, last = NUISANCES[0], NUISANCES[-1]
    assert values[f"PCA angle, nuisance {first:g}"] < 5
    assert values[f"PCA angle, nuisance {last:g}"] > 85
    assert values[f"PCA accuracy, nuisance {last:g}"] < 0.6
    for nuisance in NUISANCES:
        assert values[f"LDA angle, nuisance {nuisance:g}"] < 5
        assert values[f"LDA accuracy, nuisance {nuisance:g}"] > 0.98
    assert (
        values[f"LDA Fisher ratio, nuisance {last:g}"] > 100 * values[f"PCA Fisher ratio, nuisance {last:g}"]
    )


def test_the_toy_is_as_described():
    points, labels = toy(3.0)
    assert points.shape == (800, 2)
    assert float(points[labels == 1, 0].mean() - points[labels == 0, 0].mean()) == pytest.approx(2, abs=0.1)
    assert float(points[:, 1].std()) == pytest.approx(3, rel=0.1)
    torch.testing.assert_close(toy(6.0)[0][:, 1], 2 * points[:, 1])


def test_angles_know_no_sign():
    x, y = torch.eye(2, dtype=torch.float64)
    assert angle(x, -x) == 0
    assert angle(x, y) == pytest.approx(90)
    assert angle(x, -x - y) == pytest.approx(45)


def test_accuracy_by_hand():
    points, labels = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([3, 3, 7])
    unseen, truth = torch.tensor([[2.0], [9.0], [4.0]]), torch.tensor([3, 7, 7])
    assert centroid_accuracy(points, labels, unseen, truth) == pytest.approx(2 / 3)


def test_separability_measures_unseen_points():
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(120, 60, generator=generator), torch.arange(120) % 2
    values = dict(separability(noise, labels, shrinkage=0.0001)[0])
    assert values["LDA accuracy"] < 0.65  # 60 channels tell 60 points of pure noise apart, but no others
    points, labels = clouds()
    rows, views, truth = separability(points, labels)
    assert dict(rows)["LDA accuracy"] > dict(rows)["PCA accuracy"] - 0.02
    assert views.pca.shape == views.lda.shape == (len(truth), 2)


def test_what_cannot_be_is_refused():
    points, labels = clouds(2)
    with pytest.raises(DigitError, match="2 classes have 1 discriminant"):
        lda(points, labels, 2)
    with pytest.raises(DigitError, match="singular"):
        lda(torch.cat((points, points), 1), labels, 1)
    with pytest.raises(DigitError, match="one picture"):
        separability(points[:3], torch.tensor([0, 0, 1]))
