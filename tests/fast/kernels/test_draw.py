from itertools import product

import pytest
import torch

from digit.fast.kernels.draw import Filters, draw
from digit.nn import sampling
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig

COUNT, PLACE = 21, torch.tensor(1)


def kernel(logits, keys, config, specials, **more):
    """Codes of position 1 of 3."""
    rows = len(keys) * (len(more["places"]) // len(keys) if "places" in more else 1)
    codes = torch.full((rows, 3), -1)
    filters = Filters(
        greedy=config.temperature == 0,
        top_k=config.top_k > 0,
        top_p=config.top_p < 1,
        of_vocabulary=config.top_p_of == "vocabulary",
        guided=len(logits) > rows,
    )
    numbers = torch.tensor([config.temperature, config.top_p, config.top_k], dtype=torch.float64)
    counter = torch.tensor(0, dtype=torch.int32)
    how = {"settings": numbers, "counter": counter, "offset": 1, "count": COUNT, "specials": specials}
    draw(logits, keys, codes, filters, **how, **more)
    assert torch.equal(codes[:, [0, 2]], torch.full((rows, 2), -1))
    return codes[:, 1]


SETTINGS = [
    SamplerConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    for temperature, top_k, top_p in product((1.0, 0.7), (0, 5), (1.0, 0.8))
]


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("config", [*SETTINGS, SamplerConfig(temperature=0.0)], ids=str)
def test_draws_what_the_plain_function_draws(config, rounded):
    torch.manual_seed(0)
    rows = 5 if rounded else 8  # among equal scores a threshold takes many rounds
    logits = torch.randn(rows, 5 + COUNT) * 2
    logits = logits.round() if rounded else logits
    own = keys(range(rows), stage="test")
    wanted = sampling.draw(logits, own, PLACE, config, specials=5)
    assert torch.equal(kernel(logits, own, config, 5), wanted)


@pytest.mark.parametrize("level", [-4.0, 0.0, 9.0])
def test_top_p_of_the_vocabulary(level):
    torch.manual_seed(1)
    config = SamplerConfig(top_p=0.8, top_p_of="vocabulary")
    logits = torch.randn(8, 5 + COUNT) * 2
    logits[:, :5] += level  # at 9 the codes have less than 0.8 between them: all stay
    own = keys(range(8), stage="test")
    wanted = sampling.draw(logits, own, PLACE, config, specials=5)
    assert torch.equal(kernel(logits, own, config, 5), wanted)


def test_logits_that_are_no_numbers_give_some_code():
    drawn = kernel(torch.full((2, COUNT), float("nan")), keys([1, 2], stage="test"), SamplerConfig(), 0)
    assert ((drawn >= 0) & (drawn < COUNT)).all()


def test_places_of_their_own_and_steps():
    torch.manual_seed(3)
    logits, own, places = torch.randn(6, COUNT), keys([8, 9], stage="test"), torch.tensor([0, 7, 2, 5, 5, 1])
    drawn = kernel(logits, own, SamplerConfig(), 0, places=places, step=3)
    wanted = sampling.draw(
        logits.view(2, 3, -1), own.unsqueeze(1), places.view(2, 3), SamplerConfig(), step=3
    )
    assert torch.equal(drawn, wanted.flatten())


def test_guidance_embedding_and_confidence():
    torch.manual_seed(2)
    logits, own = torch.randn(8, COUNT), keys(range(4), stage="test")
    strength = torch.tensor([1.0, 2.5, 1.0])
    table, positions = torch.randn(COUNT, 6), torch.randn(3, 6)
    embedded, confidence = torch.empty(8, 6), torch.zeros(4, 3)
    more = {"tables": (table, positions, 2.0), "embedded": embedded, "confidence": confidence}
    config = SamplerConfig(temperature=0.5)
    codes = kernel(logits, own, config, 0, guidance=strength, **more)
    conditional, null = logits.chunk(2)
    guided = null + 2.5 * (conditional - null)
    assert torch.equal(codes, sampling.draw(guided, own, PLACE, config))
    torch.testing.assert_close(embedded, (table[codes] * 2 + positions[2]).repeat(2, 1))
    spread = guided.log_softmax(-1).gather(1, codes[:, None])[:, 0]  # at temperature 1
    torch.testing.assert_close(confidence[:, 1], spread, atol=1e-5, rtol=1e-5)
