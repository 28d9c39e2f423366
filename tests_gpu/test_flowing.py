"""The flow renderer's form: its kernels against float64, its pictures against the plain passes'."""

import pytest
import torch
import torch.nn.functional as F

from digit.fast import flowing
from digit.fast.kernels.modulated import add_modulate, norm_heads
from digit.nn import forms, noise
from digit.nn.modulated import EPS
from digit.renderer_flow import FlowConfig, FlowRenderer

SMALL = FlowConfig(1024, 64, 32, classes=10)  # of CIFAR-10's size
LARGE = FlowConfig(8192, 256, 256, classes=1000, patch=16, width=768, layers=4, heads=12, taught_guidance=2.5)
SHAPES = pytest.mark.parametrize("config", [SMALL, LARGE], ids=["32 px", "256 px"])
WIDTHS = pytest.mark.parametrize(("width", "heads"), [(256, 4), (768, 12), (1024, 16), (320, 5)])


@pytest.fixture(scope="module")
def renderers(device):
    """With weights away from their start, so that blocks do something; by shape."""
    torch.manual_seed(0)
    made = {}
    for config in (SMALL, LARGE):
        with device:
            made[config] = FlowRenderer(config).eval()
            with torch.no_grad():
                for weight in made[config].parameters():
                    weight += 0.02 * torch.randn_like(weight)
    return made


def drawn(renderer, count, **how):
    """Pictures of codes that are the same for the same number."""
    config = renderer.config
    codes = torch.randint(config.codes, (1000, config.length), generator=torch.Generator().manual_seed(3))
    return renderer.sample(codes[:count], range(count), torch.arange(count) % config.classes, **how)


@pytest.mark.parametrize("count", [3 * 32**2, 3 * 256**2])
def test_noise_has_a_cpus_bits(count, device):
    keys = noise.keys([0, 5, 2**63 + 5, -7], stage="test")
    assert torch.equal(noise.gaussians(keys.to(device), count).cpu(), noise.gaussians(keys, count))


@WIDTHS
def test_a_gated_sum_and_its_norm(width, heads, device, near):
    pictures, tokens = 16, 256
    x = torch.randn(pictures * tokens, width, device=device)
    branch = torch.randn_like(x).bfloat16()
    shift, scale, gate = torch.randn(pictures, 3 * width, device=device).bfloat16().split(width, 1)
    each = [part.double().repeat_interleave(tokens, 0) for part in (shift, scale, gate)]
    summed = x.double() + each[2] * branch.double()
    normal = F.layer_norm(summed, (width,))
    kept = x.clone()
    found = add_modulate(kept, shift, scale, gate=gate, branch=branch, dtype=torch.bfloat16)
    near("sum", kept, summed, x.abs() + (each[2] * branch.double()).abs())
    size = normal.abs() * (1 + each[1].abs()) + each[0].abs() + 1
    near("modulated norm", found, normal * (1 + each[1]) + each[0], size, ulps=16)


@WIDTHS
def test_norms_of_heads(width, heads, device, near):
    qkv = torch.randn(4096, 3 * width, device=device).bfloat16()
    gains = torch.rand(2, width // heads, device=device) + 0.5
    parts = qkv.double().view(-1, 3, heads, width // heads).unbind(1)
    found = norm_heads(qkv, *gains, heads=heads, eps=EPS).view(-1, 3, heads, width // heads)
    for place, name in enumerate(("queries", "keys")):
        near(name, found[:, place], F.rms_norm(parts[place], (width // heads,), gains[place].double(), EPS))
    assert torch.equal(found[:, 2].double(), parts[2])


@SHAPES
def test_in_float32_pictures_are_the_plain_passes(config, renderers, record):
    with forms.plain():
        plain = drawn(renderers[config], 16, steps=3, guidance=1.5, autocast=False)
    found = drawn(renderers[config], 16, steps=3, guidance=1.5, autocast=False)
    record("largest difference of a level in [0, 1]", largest := float((found - plain).abs().max()))
    assert largest < 2e-4 and plain.std() > 0.05


@SHAPES
def test_half_precision_is_as_near_as_the_plain_passes(config, renderers, record):
    how = {"steps": 3, "guidance": 1.5}
    with forms.plain():
        exact = drawn(renderers[config], 64, autocast=False, **how)
        plain = (drawn(renderers[config], 64, **how) - exact).abs().mean()
    found = (drawn(renderers[config], 64, **how) - exact).abs().mean()
    record("mean difference to float32, plain", float(plain))
    record("mean difference to float32, packed", float(found))
    assert 0 < found < 1.5 * plain


@SHAPES
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_a_picture_is_the_same_in_any_batch(config, guidance, renderers, record):
    batches = (1, 2, 3, 8, 64, 1000 if config is SMALL else 100)
    whole, found = drawn(renderers[config], batches[-1], steps=2, guidance=guidance), {}
    for batch in batches[:-1]:
        other = drawn(renderers[config], batch, steps=2, guidance=guidance) != whole[:batch]
        found[batch] = int(other.flatten(1).any(1).sum())
    record("pictures that differ", sum(found.values()))
    assert not any(found.values()) and whole.std() > 0.05, found


@SHAPES
def test_a_graph_computes_what_the_passes_do(config, renderers, monkeypatch):
    captured = drawn(renderers[config], 20, steps=2)
    assert flowing.packed_for(renderers[config], torch.bfloat16).graphs
    monkeypatch.setattr(flowing, "captures", lambda x: False)
    assert torch.equal(drawn(renderers[config], 20, steps=2), captured)


def test_a_graph_is_made_anew_when_a_weight_changes(device):
    torch.manual_seed(0)
    with device:
        renderer = FlowRenderer(SMALL).eval()
    before = drawn(renderer, 4, steps=1)
    with torch.no_grad():
        renderer.projection.weight.normal_(std=0.1)
    after = drawn(renderer, 4, steps=1)
    with forms.plain():
        plain = drawn(renderer, 4, steps=1)
    assert not torch.equal(before, after) and (after - plain).abs().mean() < 0.01
