import pytest
import torch
import torch.nn.functional as F

from digit.nn.losses import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("counted", [None, torch.arange(9) % 3 != 1])
def test_it_is_the_smoothed_mean_of_the_rows_that_count(smoothing, counted):
    torch.manual_seed(0)
    hidden, table, targets = torch.randn(9, 6).double(), torch.randn(13, 6).double(), torch.randint(13, (9,))
    loss = cross_entropy(hidden, table, targets, label_smoothing=smoothing, counted=counted)
    logs = (hidden @ table.T).log_softmax(1)
    each = -(1 - smoothing) * logs[range(9), targets] - smoothing * logs.mean(1)
    torch.testing.assert_close(loss, each[slice(None) if counted is None else counted].mean())


def test_without_rows_to_choose_it_is_torchs_own():
    hidden, table, targets = torch.randn(9, 6), torch.randn(13, 6), torch.randint(13, (9,))
    loss = cross_entropy(hidden, table, targets, label_smoothing=0.1)
    assert torch.equal(loss, F.cross_entropy(F.linear(hidden, table), targets, label_smoothing=0.1))
