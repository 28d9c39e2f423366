import hashlib
import math

import numpy as np
import pytest
import torch

from digit.nn import noise
from digit.nn.noise import exponential, gaussians, gumbel, gumbels, keys

GAUSSIAN = "3ebc33516c4185cd4d14a0cc75ecde75480019d1ef26e7608d0d8edd22903d7f"
GOLDEN = "ed20a47071114e9879bec6617d26e05c8e1f623b62ade09949130b4aea032634"


def test_keys_belong_to_their_seed_and_stage():
    seeds = [3, 0, -1, 2**63, 2**80 + 1, -(2**70)]
    together = keys(seeds, stage="prior")
    assert together.dtype == torch.int64 and together.shape == (6, 2) and len(together.unique(dim=0)) == 6
    assert torch.equal(keys([0], stage="prior"), together[1:2])
    assert torch.equal(keys(torch.tensor([3, 0]), stage="prior"), together[:2])
    assert not (keys(seeds, stage="renderer") == together).any()
    assert keys([], stage="prior").shape == (0, 2)
    digest = hashlib.sha256(b"prior:3").digest()
    assert together[0].tolist() == [int.from_bytes(digest[i : i + 8], "little", signed=True) for i in (0, 8)]


def test_a_number_is_a_function_of_key_place_step_and_code(monkeypatch):
    seeds, places = keys(range(5), stage="test"), torch.tensor([0, 7, 2**20])
    whole = gumbels(seeds[:, None], places, 37, step=2)
    assert whole.shape == (5, 3, 37) and whole.dtype == torch.float32
    assert torch.equal(gumbels(seeds[3], places[1], 37, step=2), whole[3, 1])
    assert torch.equal(gumbels(seeds[[4, 0]], places[2], 8, step=2), whole[[4, 0], 2, :8])
    assert not (gumbels(seeds[:, None], places, 37, step=1) == whole).any()
    assert len(whole.unique()) == whole.numel()
    monkeypatch.setattr(noise, "AT_ONCE", 100)
    assert torch.equal(gumbels(seeds[:, None], places, 37, step=2), whole)


def test_words_are_those_of_philox():
    """Code 19 at place 5 and step 2: block 3, the high half of its second word."""
    key = keys([11], stage="test")
    generator = np.random.Philox(key=key[0].numpy().view(np.uint64), counter=[2, 5, 2, 0])  # counts on first
    word = np.array([int(generator.random_raw(2)[1]) >> 32], np.uint32)
    assert gumbels(key, torch.tensor(5), 20, step=2)[0, 19] == gumbel(word)[0]


def test_gumbel_of_words():
    ends = np.arange(2**16, dtype=np.uint32)
    powers = np.concatenate([2**k + np.arange(-200, 200) for k in range(9, 32)]).astype(np.uint32)
    drawn = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32)
    words = np.concatenate([ends, ~ends, powers, drawn])
    rest = (2**32 - (words | 1).astype(np.float64)) / 2**32
    exact = -np.log(-np.log1p(-rest))
    assert (np.abs(gumbel(words) - exact) / np.maximum(1, np.abs(exact))).max() < 3e-7
    least, largest = -math.log(32 * math.log(2)), 32 * math.log(2)
    assert gumbel(np.array([0, 1, 2**32 - 1], np.uint32)).tolist() == pytest.approx([least, least, largest])


def test_gumbel_of_words_is_the_same_everywhere():
    """Golden: the sha256 of a million numbers."""
    words = np.random.Philox(0).random_raw(2**19).astype("<u8").view("<u4")
    assert hashlib.sha256(gumbel(words).astype("<f4").tobytes()).hexdigest() == GOLDEN


def test_stages_seeds_places_and_steps_are_independent():
    def row(seed, stage, place, step):
        return gumbels(keys([seed], stage=stage), torch.tensor(place), 20_000, step=step)[0]

    several = [row(0, "a", 0, 0), row(1, "a", 0, 0), row(0, "b", 0, 0), row(0, "a", 1, 0), row(0, "a", 0, 1)]
    several.append(several[0].roll(1))
    related = torch.corrcoef(torch.stack(several)) - torch.eye(6)
    assert related.abs().max() < 5 / math.sqrt(20_000)
    assert torch.stack(several).mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant


def test_gaussians_belong_to_their_key():
    seeds = keys([5, -1, 2**65], stage="test")
    whole = gaussians(seeds, 301)
    assert whole.shape == (3, 301) and whole.dtype == torch.float32
    assert torch.equal(gaussians(seeds[1:2], 8), whole[1:2, :8])
    assert len(whole.unique()) == whole.numel()
    assert gaussians(keys([], stage="test"), 4).shape == (0, 4)


def test_gaussians_are_normal():
    """Moments, the share within each sixteenth of the distribution, and no link between neighbours."""
    found = gaussians(keys(range(4), stage="test"), 250_000).double().flatten()
    assert found.mean().abs() < 0.004 and (found.var() - 1).abs() < 0.006
    assert (found**3).mean().abs() < 0.015 and ((found**4).mean() - 3).abs() < 0.04
    shares = torch.histc(torch.special.ndtr(found), 16, 0, 1) / len(found)
    assert (shares - 1 / 16).abs().max() < 0.001
    pairs = found.view(-1, 2)
    assert (pairs[:, 0] * pairs[:, 1]).mean().abs() < 0.006
    assert (found[1:] * found[:-1]).mean().abs() < 0.004
    assert ((pairs**2).sum(1) / 2).mean().sub(1).abs() < 0.006  # an exponential number


def test_gaussians_are_those_of_box_and_muller():
    key = keys([7], stage="test")
    generator = np.random.Philox(key=key[0].numpy().view(np.uint64), counter=[0, 0, 0, 0])
    words = generator.random_raw(500).astype("<u8").view("<u4").reshape(-1, 2)
    radius = np.sqrt(-2 * np.log((words[:, 0] | 1) / 2**32))
    turns = words[:, 1] / 2**32 * 2 * np.pi
    exact = np.stack((radius * np.cos(turns), radius * np.sin(turns)), 1).ravel()
    assert np.abs(gaussians(key, 1000)[0].numpy() - exact).max() < 2e-6
    assert np.allclose(exponential(words[:, 0]), radius**2 / 2, rtol=2e-7)


def test_gaussians_are_the_same_everywhere():
    """Golden: the sha256 of a million numbers."""
    digest = hashlib.sha256(gaussians(keys(range(4), stage="golden"), 250_000).numpy().tobytes())
    assert digest.hexdigest() == GAUSSIAN
