from typing import Any

import torch

from digit.evaluation.probe import pooled_states
from digit.run.evaluate.probe_states import cached_rows
from digit.weights.artifact import load


def test_cached_states_are_the_priors(chain, tmp_path):
    prior: Any = load(chain.root / "prior")
    codes = torch.randint(8, (5, 16))
    shape = (5, 2, 16)
    options = {"title": "states", "key": {"a": 1}, "limit": 1e6, "batch": 2, "where": torch.device("cpu")}
    pooled = lambda start: pooled_states(prior, codes[start : start + 2])  # noqa: E731
    expected = pooled_states(prior, codes)
    for cache in (None, tmp_path, tmp_path):
        torch.testing.assert_close(
            cached_rows(pooled, shape, cache=cache, **options).float(), expected, atol=2e-3, rtol=2e-3
        )
