"""Packed weights give the hidden states of the transformer that they come from."""

import pytest
import torch

from digit.fast.packed import PackedTransformer
from digit.nn.transformer import Transformer, TransformerConfig


def jolted(config):
    """Biases and norms away from their start, where an error in them would not show."""
    transformer = Transformer(config).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return transformer


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_packed_reading_gives_the_transformers_states(norm):
    torch.manual_seed(0)
    for causal in (True, False):
        transformer = jolted(TransformerConfig(12, 2, 3, norm=norm, causal=causal))
        packed, x = PackedTransformer(transformer, torch.float32), torch.randn(2, 5, 12)
        kept = x.clone()
        with torch.no_grad():
            wanted = transformer(x)
            torch.testing.assert_close(packed.read(x), wanted, atol=1e-5, rtol=1e-4)
            if not causal:
                some = torch.tensor([[4, 0], [3, 2]])
                found = packed.read(x, wanted=some)
                torch.testing.assert_close(
                    found, wanted[torch.arange(2)[:, None], some], atol=1e-5, rtol=1e-4
                )
        assert torch.equal(x, kept)
