import pytest
import torch

from digit.errors import DigitError
from digit.nn.transformer import Transformer, TransformerConfig


def make(norm="pre", causal=True, dropout=0.0, layers=2):
    torch.manual_seed(0)
    return Transformer(TransformerConfig(16, layers, 4, norm=norm, causal=causal, dropout=dropout)).double()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_position_reads_nothing_after_it(norm):
    model, x = make(norm), torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 3].square().sum(), x)
    assert torch.equal(gradient[:, 4:], torch.zeros_like(gradient[:, 4:]))
    assert (gradient[:, :4].abs().sum(-1) > 0).all()


def test_without_causal_every_position_reads_every_other():
    model, x = make(causal=False), torch.randn(1, 5, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].square().sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()
    with pytest.raises(AssertionError):
        model.cache(1, 5)


@pytest.mark.parametrize("parts", [[1] * 9, [4] + [1] * 5, [3, 4, 2]])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_cache_gives_the_states_of_one_pass(norm, parts):
    model, x = make(norm), torch.randn(3, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        cache = model.cache(3, 9)
        states = torch.cat([model(part, cache) for part in x.split(parts, dim=1)], dim=1)
        assert cache.length == 9
        assert torch.allclose(states, model(x), atol=1e-12)


def test_cache_reads_only_what_is_filled():
    model, x = make(), torch.randn(2, 4, 16, dtype=torch.float64)
    with torch.no_grad():
        cache = model.cache(2, 6)
        for tensor in cache.keys + cache.values:
            tensor.fill_(float("nan"))
        assert model(x, cache).isfinite().all()
        with pytest.raises(AssertionError, match="shorter"):
            model(x, cache)


def test_states_end_where_forward_ends():
    model, x = make("post", layers=3), torch.randn(2, 5, 16, dtype=torch.float64)
    states = model.states(x)
    assert len(states) == 4 and torch.equal(states[0], x) and torch.allclose(states[-1], model(x))
    model = make("pre")
    assert torch.allclose(model.norm(model.states(x)[-1]), model(x))


def test_blocks_equal_torchs_own():
    """nn.TransformerEncoderLayer computes the same block from the same weights."""
    for norm in ("pre", "post"):
        model, x = make(norm, layers=1), torch.randn(2, 6, 16, dtype=torch.float64)
        block = model.blocks[0]
        peer = torch.nn.TransformerEncoderLayer(
            16, 4, 64, 0.0, torch.nn.functional.gelu, batch_first=True, norm_first=norm == "pre"
        ).double()
        names = {
            "attention.qkv.weight": "self_attn.in_proj_weight",
            "attention.qkv.bias": "self_attn.in_proj_bias",
            "attention.out": "self_attn.out_proj",
            "attention_norm": "norm1",
            "mlp.0": "linear1",
            "mlp.2": "linear2",
            "mlp_norm": "norm2",
        }
        weights = {}
        for key, value in block.state_dict().items():
            old = next(name for name in names if key.startswith(name))
            weights[key.replace(old, names[old])] = value
        peer.load_state_dict(weights)
        mask = torch.nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
        assert torch.allclose(block(x), peer(x, src_mask=mask, is_causal=True), atol=1e-12)


def test_weights_start_as_in_the_reference():
    torch.manual_seed(0)
    attention = Transformer(TransformerConfig(64, 1, 4)).blocks[0].attention
    bound = (6 / 128) ** 0.5  # xavier, square matrices
    for matrix in attention.qkv.weight.chunk(3):
        assert 0.98 * bound / 2**0.5 < matrix.abs().max() <= bound / 2**0.5
    assert 0.98 * bound < attention.out.weight.abs().max() <= bound
    assert torch.equal(attention.out.bias, torch.zeros(64))


def test_dropout_acts_in_training_alone():
    model, x = make(dropout=0.5), torch.randn(1, 3, 16, dtype=torch.float64)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("wrong", [{"width": 15}, {"layers": 0}, {"dropout": 1.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(DigitError):
        TransformerConfig(**{"width": 16, "layers": 1, "heads": 4, **wrong})
