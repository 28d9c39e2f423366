"""Codes wrong on purpose: how many, which, and that the same step has the same."""

import pytest
import torch

from digit.data.codes import CodeData
from digit.data.views import ViewData
from digit.data.write_codes import CodeKind, write_codes
from digit.data.wrong_codes import NEAR, WrongCodes, neighbours
from digit.errors import DigitError

K, ROWS, LENGTH = 40, 4000, 64


@pytest.fixture(scope="module")
def near():
    torch.manual_seed(0)
    return neighbours(torch.randn(K, 5))


def test_neighbours_are_the_nearest_others(monkeypatch):
    monkeypatch.setattr("digit.data.wrong_codes.rows_at_once", lambda k, device: 7)  # not all at once
    torch.manual_seed(0)
    table = torch.randn(K, 5)
    found = neighbours(table)
    assert found.shape == (K, NEAR)
    for code in range(K):
        distances = (table - table[code]).double().square().sum(1)
        assert found[code].tolist() == distances.argsort()[1 : NEAR + 1].tolist()


def test_few_centroids_have_few_neighbours():
    assert neighbours(torch.tensor([[0.0], [5.0], [1.0]])).tolist() == [[2, 1], [2, 0], [0, 1]]
    with pytest.raises(DigitError, match="a tokenizer of 1 code"):
        neighbours(torch.zeros(1, 3))


def changed(near, rate, codes, **how):
    how = {"seed": 0, "step": 0, "batch": len(codes), "here": slice(None), **how}
    return WrongCodes(rate, near).among(codes, **how)


def test_how_many_are_wrong_and_which(near):
    codes = torch.randint(K, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    found = changed(near, 0.5, codes)
    wrong = found != codes
    assert (near[codes[wrong]] == found[wrong].unsqueeze(1)).any(1).all()
    # Each of the 16 as often.
    place = (near[codes[wrong]] == found[wrong].unsqueeze(1)).int().argmax(1)
    counts = place.bincount(minlength=NEAR).double()
    assert (counts / counts.mean() - 1).abs().max() < 0.1
    # Half of the pictures, with shares from 0 to the rate, all as likely: means and spread.
    shares = wrong.double().mean(1)
    assert float(shares.mean()) == pytest.approx(0.5 / 2 * 0.5, abs=0.006)
    # Of a share s all 64 are right with (1 - s)^64: the mean of it over s is 1 / (0.5 x 65), almost.
    untouched = 0.5 + 0.5 * (1 - 0.5**65) / (0.5 * 65)
    assert float((shares == 0).double().mean()) == pytest.approx(untouched, abs=0.025)
    touched = shares[shares > 0]
    for part in (0.125, 0.25, 0.375):
        assert float((touched < part).double().mean()) == pytest.approx(part / 0.5, abs=0.04)
    # No place is favoured.
    of_place = wrong.double().mean(0)
    assert (of_place - of_place.mean()).abs().max() < 0.03


def test_none_at_rate_0_and_a_function_of_seed_step_and_place(near):
    codes = torch.randint(K, (32, 8))
    assert torch.equal(changed(near, 0.0, codes), codes)
    whole = changed(near, 0.9, codes)
    assert torch.equal(changed(near, 0.9, codes), whole)
    assert not torch.equal(changed(near, 0.9, codes, step=1), whole)
    assert not torch.equal(changed(near, 0.9, codes, seed=1), whole)
    parts = [changed(near, 0.9, codes[here], batch=32, here=here) for here in (slice(0, 16), slice(16, 32))]
    assert torch.equal(torch.cat(parts), whole)  # as two processes have them
    for rate in (-0.1, 1.0):
        with pytest.raises(DigitError, match="rate"):
            WrongCodes(rate, near)


@pytest.fixture
def written(pictures, kinds, tmp_path):
    encode = kinds["codes"].encode
    both = {"codes": kinds["codes"], "vq_codes": CodeKind(lambda p: encode(p) + 1, 512, "vqgan-id")}
    return write_codes(pictures, tmp_path / "codes", both, size=16, views=2)[0]


def test_what_is_to_be_learned_stays_true(written, pictures):
    torch.manual_seed(0)
    wrong = WrongCodes(0.9, neighbours(torch.randn(256, 3)))
    names = ("codes", "vq_codes")
    true, some = (
        CodeData(written, batch_size=16, arrays=names, seed=3, wrong=each)(5) for each in (None, wrong)
    )
    assert torch.equal(some.vq_codes, true.vq_codes) and torch.equal(some.labels, true.labels)
    assert 0 < (some.codes != true.codes).double().mean() < 0.9
    views = ViewData(written, pictures, batch_size=16, seed=3, wrong=wrong)(5)
    plain = ViewData(written, pictures, batch_size=16, seed=3)(5)
    assert torch.equal(views.codes, some.codes) and torch.equal(views.pixels, plain.pixels)


def test_near_codes_of_another_tokenizer_are_refused(written, near):
    with pytest.raises(DigitError, match=r"those of 40 centroids, .* has 256"):
        CodeData(written, batch_size=4, wrong=WrongCodes(0.1, near))
