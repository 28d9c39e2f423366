"""Attention of all to all: against float64, at lengths that fill no block, from inside a packed product."""

import pytest
import torch
from torch import Tensor

from digit.fast.kernels.full_attention import Tiles, full_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILES = [Tiles(), Tiles(columns=32), Tiles(rows=128, warps=8)]
# The interpreter multiplies float32, which no GPU does at full precision, but of bfloat16 the bits.
FULL = torch.float32 if DEVICE == "cpu" else torch.float16
CLOSE = {"atol": 1e-5, "rtol": 1e-5} if DEVICE == "cpu" else {"atol": 1e-2, "rtol": 1e-3}
HALVES = [torch.float16] if DEVICE == "cpu" else [torch.float16, torch.bfloat16]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of the interpreter


def packed(b: int, t: int, heads: int, channels: int, dtype: torch.dtype = FULL) -> list[Tensor]:
    """Queries, keys and values side by side, as one product writes them."""
    torch.manual_seed(t)
    product = torch.randn(b, t, 3 * heads * channels, device=DEVICE).to(dtype)
    product[:, :, heads * channels :] *= 2
    return list(product.view(b, t, 3, heads, channels).permute(2, 0, 3, 1, 4).unbind(0))


def expected(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """In float64."""
    scores = queries.double() @ keys.double().transpose(2, 3) * queries.shape[3] ** -0.5
    return (scores.softmax(3) @ values.double()).transpose(1, 2).flatten(2)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), **CLOSE)


@pytest.mark.parametrize("length", [1, 5, 16, 127, 128, 129, 261, 513])
@pytest.mark.parametrize("tiles", TILES)
def test_every_length(length, tiles):
    q, k, v = packed(2, length, 2, 16)
    found = full_attention(q, k, v, tiles=tiles)
    assert found.is_contiguous()
    assert_close(found, expected(q, k, v))


@pytest.mark.parametrize(("queries", "keys"), [(1, 261), (5, 130), (133, 70), (64, 257), (260, 261)])
@pytest.mark.parametrize("tiles", TILES)
def test_queries_are_some_of_the_positions(queries, keys, tiles):
    q, k, v = packed(2, max(queries, keys), 2, 16)
    q, k, v = q[:, :, -queries:], k[:, :, :keys], v[:, :, :keys]
    found = full_attention(q, k, v, tiles=tiles)
    assert_close(found, expected(q, k, v))


@pytest.mark.parametrize("channels", [8, 24, 64, 128])
@pytest.mark.parametrize("tiles", TILES[:2])
def test_any_width_and_any_strides(channels, tiles):
    q, k, v = packed(1, 70, 3, channels)
    v = v.contiguous()
    k = k.transpose(0, 1).contiguous().transpose(0, 1)
    found = full_attention(q, k, v, tiles=tiles)
    assert_close(found, expected(q, k, v))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tiles", TILES)
def test_half_precision_errs_by_its_rounding(dtype, tiles):
    q, k, v = packed(2, 133, 2, 32, dtype)
    found = full_attention(q, k, v, tiles=tiles)
    assert found.dtype == dtype
    # A weight and the result are each rounded once: of the largest value never more than one unit.
    error = (found.double() - expected(q, k, v)).abs()
    assert error.max() < torch.finfo(dtype).eps * v.abs().max()
    assert error.mean() < torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("tiles", TILES)
def test_the_same_value_everywhere_comes_back(tiles):
    q, k, v = packed(1, 133, 2, 16)
    v = torch.full_like(v, 3.0).mul_(torch.arange(1, 17, device=DEVICE))
    found = full_attention(q * 10, k, v, tiles=tiles).view(1, 133, 2, 16)
    torch.testing.assert_close(found, v.transpose(1, 2), rtol=2e-6 if DEVICE == "cpu" else 2e-3, atol=0)


@pytest.mark.parametrize("tiles", TILES)
def test_the_order_of_keys_does_not_matter(tiles):
    q, k, v = packed(2, 150, 1, 16)
    order = torch.randperm(150).to(DEVICE)
    found = full_attention(q, k[:, :, order], v[:, :, order], tiles=tiles)
    assert_close(found, full_attention(q, k, v, tiles=tiles))


@pytest.mark.parametrize("tiles", TILES)
def test_a_head_sees_its_own_only(tiles):
    """Not even what would be NaN there passes from a picture, or a head, to the next."""
    q, k, v = packed(3, 133, 2, 16)
    wanted = full_attention(q, k, v, tiles=tiles).view(3, 133, 2, 16)
    for tensor in (q, k, v):
        tensor[1, 0] = float("nan")
    found = full_attention(q, k, v, tiles=tiles).view(3, 133, 2, 16)
    assert found[1, :, 0].isnan().all()
    found[1, :, 0] = wanted[1, :, 0]
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("tiles", TILES)
def test_large_scores_do_not_overflow(tiles):
    q, k, v = packed(1, 133, 1, 16)
    q, k = q * 200, k * 200
    found = full_attention(q, k, v, tiles=tiles)
    torch.testing.assert_close(found.double(), expected(q, k, v), atol=1e-2, rtol=1e-2)


def test_nothing_from_nothing():
    q, k, v = packed(2, 20, 2, 16)
    assert full_attention(q[:0], k[:0], v[:0]).shape == (0, 20, 32)
    assert full_attention(q[:, :, :0], k, v).shape == (2, 0, 32)
