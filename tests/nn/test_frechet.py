import pytest
import torch

from digit.evaluation.scores import Moments, frechet_distance
from digit.nn import frechet
from digit.nn.frechet import FrechetLoss, RunningMoments


def test_moments_are_those_of_all_batches_while_none_fades(monkeypatch):
    monkeypatch.setattr(frechet, "DECAY", 1 - 1e-7)
    moments, batches = RunningMoments(3), torch.randn(20, 50, 3) @ torch.randn(3, 3) + 2
    for features in batches:
        mean, covariance = moments(features)
    whole = batches.flatten(0, 1).double()
    torch.testing.assert_close(mean, whole.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(covariance, torch.cov(whole.T, correction=0), atol=1e-3, rtol=1e-3)


def test_older_batches_fade(monkeypatch):
    monkeypatch.setattr(frechet, "DECAY", 0.5)
    moments = RunningMoments(1)
    for value in (1.0, 2.0, 4.0):
        mean, _ = moments(torch.full((2, 1), value))
    assert float(mean) == pytest.approx((1 * 0.25 + 2 * 0.5 + 4) / 1.75)


def test_its_value_is_the_measurements():
    """Float64 of many more samples than features, in one batch."""
    drawn, real = torch.randn(200, 5) @ torch.randn(5, 5), torch.randn(200, 5) + 0.5
    loss = FrechetLoss(5, start=0)
    assert float(loss(drawn, real)) == pytest.approx(1.0)
    whole = [Moments(5), Moments(5)]
    for moments, features in zip(whole, (drawn, real), strict=True):
        moments.update(features)
    # Theirs are covariances of samples, divided by one less.
    assert float(loss.distance) == pytest.approx(frechet_distance(*whole), rel=0.03)


def test_its_gradient_leads_to_the_real_distribution(monkeypatch):
    monkeypatch.setattr(frechet, "DECAY", 0.8)
    torch.manual_seed(0)
    loss, real = FrechetLoss(4, start=0), torch.randn(512, 4) * torch.tensor([1.0, 2.0, 0.5, 1.0]) + 3
    scale, shift = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    optimizer, distances = torch.optim.Adam([scale, shift], lr=0.1), []
    for _ in range(150):
        noise = torch.randn(512, 4)
        value = loss(noise * scale + shift, real)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        distances.append(float(loss.distance))
    assert (shift.detach() - real.mean(0)).abs().max() < 0.5
    assert scale.detach()[1] > 1.5 and scale.detach()[2] < 0.8


def test_moments_gather_before_it_counts():
    loss = FrechetLoss(3, start=2)
    features = torch.randn(10, 3, requires_grad=True)
    found = [float(loss(features, torch.randn(10, 3)).detach()) for _ in range(4)]
    assert found == [0.0, 0.0, pytest.approx(1.0), pytest.approx(1.0)]


def test_no_eigenvalues_are_asked_for_while_moments_gather(monkeypatch):
    """Those of few samples are mostly zero, where a GPU's solver gives up."""
    monkeypatch.setattr(frechet, "frechet", None)  # not callable
    loss, features = FrechetLoss(3, start=2), torch.randn(2, 3, requires_grad=True)
    for _ in range(2):
        loss(features, torch.randn(2, 3)).backward()
        assert features.grad is not None and not features.grad.any() and float(loss.distance) == 0
    with pytest.raises(TypeError, match="NoneType"):
        loss(features, features)


def test_measuring_moves_no_moments():
    loss, features = FrechetLoss(3, start=0), torch.randn(8, 3)
    loss(features, features)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with torch.no_grad():
        loss(torch.randn(8, 3), features)
    loss.eval()(torch.randn(8, 3), features)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_features_that_never_vary_have_a_gradient():
    loss, features = FrechetLoss(3, start=0), torch.randn(8, 3) * torch.tensor([1.0, 0.0, 1.0])
    features.requires_grad_()
    loss(features, torch.randn(8, 3)).backward()
    assert features.grad is not None and features.grad.isfinite().all()
