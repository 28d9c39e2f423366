import pytest
import torch
from tests_support import drawn_at_once

from digit.errors import DigitError
from digit.nn.decoding import CodeTables, decode, inference
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig
from digit.nn.transformer import Transformer, TransformerConfig


class Toy:
    """A decoder over 11 codes with a random table for each part."""

    def __init__(self):
        torch.manual_seed(0)
        self.transformer = Transformer(TransformerConfig(8, 2, 2, dropout=0.3)).double()
        self.table = torch.randn(11, 8, dtype=torch.float64)
        self.positions = torch.randn(10, 8, dtype=torch.float64)

    def tables(self):
        return CodeTables(self.table, self.positions, 1.0, self.table)

    def embed(self, codes, position):
        return self.tables().embed(codes, position)

    def start(self):
        return torch.randn(1, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def logits(self, codes, prefix):
        """Of each code, given those before it: read at once, without a cache."""
        read = [prefix.expand(len(codes), -1, -1), *(self.embed(codes[:, i], i) for i in range(8))]
        self.transformer.eval()
        return self.transformer(torch.cat(read, dim=1))[:, prefix.shape[1] - 1 :] @ self.table.T

    def decode(self, seeds, *, prefix=None, **arguments):
        prefix = self.start() if prefix is None else prefix
        return decode(
            self.transformer,
            prefix.expand(len(seeds), -1, -1),
            keys=keys(seeds, stage="toy"),
            length=9,
            tables=self.tables(),
            **{"config": SamplerConfig(), **arguments},
        )


def test_cached_and_uncached_decoding_agree():
    toy = Toy()
    for config in (SamplerConfig(), SamplerConfig(top_k=4, top_p=0.9, temperature=1.3)):
        cached = toy.decode(range(20), config=config)
        logits = toy.logits(cached, toy.start())
        assert torch.equal(cached, drawn_at_once(logits, keys(range(20), stage="toy"), config))
        assert len(cached.unique(dim=0)) > 10


def test_decoding_leaves_the_model_as_it_was():
    toy = Toy()
    codes = toy.decode(range(4))
    assert toy.transformer.training and not codes.is_inference()
    with pytest.raises(ZeroDivisionError), inference(toy.transformer):
        raise ZeroDivisionError
    assert toy.transformer.training and torch.is_grad_enabled()


def test_temperature_0_takes_the_likeliest_and_needs_no_noise():
    codes = Toy().decode(range(5), config=SamplerConfig(temperature=0.0))
    assert len(codes.unique(dim=0)) == 1


def test_guidance():
    toy = Toy()
    prefix, null = torch.randn(2, 1, 3, 8, dtype=torch.float64).unbind(0)
    rows = {"prefix": prefix, "null_prefix": null.expand(12, -1, -1)}
    plain = toy.decode(range(12), prefix=prefix)
    assert torch.equal(toy.decode(range(12), **rows), plain)  # 1 leaves the null out
    nearly = SamplerConfig(guidance=1 + 1e-9)
    assert torch.equal(toy.decode(range(12), **rows, config=nearly), plain)
    none = toy.decode(range(12), **rows, config=SamplerConfig(guidance=0.0))
    assert torch.equal(none, toy.decode(range(12), prefix=null))
    strong = SamplerConfig(guidance=3.0)
    guided = toy.decode(range(12), **rows, config=strong)
    assert not torch.equal(guided, plain)
    logits, nulls = (toy.logits(guided, start) for start in (prefix, null))
    own = keys(range(12), stage="toy")
    assert torch.equal(guided, drawn_at_once(logits, own, strong, null=nulls))
    with pytest.raises(DigitError, match="unconditional prefix"):
        toy.decode(range(12), config=strong)


def test_given_codes_stand_first_and_later_positions_keep_their_noise():
    toy = Toy()
    whole = toy.decode(range(6))
    start = toy.start().expand(6, -1, -1)
    for known in (0, 1, 5, 9):
        read = torch.cat((start, *[toy.embed(whole[:, i], i) for i in range(known)]), dim=1)
        heard = []
        again = toy.decode(range(6), prefix=read, given=whole[:, :known], progress=heard.append)
        assert torch.equal(again, whole) and heard == [6] * (9 - known)


def test_progress_hears_every_code():
    heard = []
    Toy().decode(range(4), progress=heard.append)
    assert heard == [4] * 9


def test_bfloat16_decoding():
    toy = Toy()
    toy.transformer.float()
    toy.table, toy.positions = toy.table.float(), toy.positions.float()
    codes = toy.decode(range(4), prefix=torch.randn(1, 2, 8), autocast=True)
    plain = toy.decode(range(4), prefix=torch.randn(1, 2, 8), autocast=False)
    assert codes.shape == plain.shape == (4, 9)
    assert not torch.is_autocast_enabled("cpu")


def test_a_cache_of_8_bits_needs_a_gpu():
    with pytest.raises(DigitError, match="cache_bits"):
        Toy().decode(range(2), cache_bits=8)


@pytest.mark.parametrize(("asked", "casts"), [(None, False), (False, False), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_as_asked_whatever_the_weights_are(asked, casts, dtype):
    """In bfloat16 weights too it keeps LayerNorm and softmax in float32."""
    transformer = Transformer(TransformerConfig(8, 1, 2)).to(dtype)
    with inference(transformer, autocast=asked) as products:
        assert torch.is_autocast_enabled("cpu") == casts
    assert products == (torch.bfloat16 if casts else dtype)
