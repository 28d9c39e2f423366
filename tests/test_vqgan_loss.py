"""VQGAN training: gradients reach the right side, the balance holds, the codebook follows, a run resumes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.batch import PixelBatch
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss, perceptual_network

SMALL = VQGANConfig(
    image_size=16,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    codes=16,
    code_dim=4,
    shortcut="input",
    normalized_codes=True,
)
# Discriminators that have learned nothing teach here, as in the published balance.
CONFIG = VQGANLossConfig(discriminator_width=8, discriminator_ahead=0, adversarial_margin=0.0)


class TwoMaps(nn.Module):
    """Stands in for a perceptual network."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        first = torch.relu(self.first(pixels))
        return [first, self.second(first)]


def pictures(count: int = 8, seed: int = 0) -> PixelBatch:
    """Smooth random pictures, which can be learned."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return PixelBatch(F.interpolate(coarse, size=16, mode="bilinear"), None)


def stage(config: VQGANLossConfig = CONFIG, vqgan: VQGANConfig = SMALL, maps: bool = False) -> VQGANLoss:
    torch.manual_seed(0)
    return VQGANLoss(VQGAN(vqgan), config, TwoMaps() if maps else None).train()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def update(both, optimizer, step):
    """One, on pictures that come again; its loss."""
    loss = both.loss(pictures(4, seed=step % 4))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def test_one_backward_gives_each_side_its_own_gradient():
    both = stage(replace(CONFIG, discriminate_maps=True), maps=True)
    both.loss(pictures()).backward()
    assert all(p.grad is not None for p in both.parameters() if p.requires_grad)
    assert all(p.grad is None for p in both.perceptual.parameters())
    assert all(p.requires_grad for p in both.discriminators.parameters())
    # A generator term that leaked into the discriminators would change with the adversarial weight.
    again = stage(replace(CONFIG, discriminate_maps=True, adversarial_weight=5.0), maps=True)
    again.loss(pictures()).backward()
    for name, gradient in gradients(both.discriminators).items():
        torch.testing.assert_close(gradients(again.discriminators)[name], gradient)
    name = "decoder.conv_out.weight"
    assert not torch.allclose(gradients(both.vqgan)[name], gradients(again.vqgan)[name])


def test_without_adversary_the_gradient_is_that_of_the_plain_loss():
    """The gradient put together at the pixels is autograd's own."""
    before = stage(replace(CONFIG, adversarial_start=1, discriminator_ahead=1))
    plain = stage(replace(CONFIG, adversarial_weight=0.0))
    for each in (before, plain):
        torch.manual_seed(1)
        each.loss(pictures()).backward()
    assert "discriminator_patches" in before.metrics and not plain.discriminators
    for name, gradient in gradients(plain.vqgan).items():
        torch.testing.assert_close(gradients(before.vqgan)[name], gradient, atol=1e-6, rtol=1e-4)


def test_adversarial_gradient_is_balanced_at_the_last_layer():
    plain, adversarial = stage(replace(CONFIG, adversarial_weight=0.0)), stage(CONFIG)
    for each in (plain, adversarial):
        torch.manual_seed(1)
        each.loss(pictures()).backward()
    name = "decoder.conv_out.weight"
    reference = gradients(plain.vqgan)[name]
    push = gradients(adversarial.vqgan)[name] - reference
    torch.testing.assert_close(push.norm(), 0.5 * reference.norm(), rtol=1e-3, atol=0)


class Brightness(nn.Module):
    """A discriminator that takes brighter pictures for real, or darker ones."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.slope * pixels.mean((1, 2, 3), keepdim=True)]


def test_a_discriminator_teaches_as_far_as_it_can_tell():
    """In full where its loss is below chance by the margin, not at all where it is at chance or wrong."""

    def balance(slope: float, margin: float) -> float:
        both = stage(replace(CONFIG, adversarial_margin=margin))
        both.discriminators["patches"] = Brightness(slope)  # fresh reconstructions are brighter
        both.loss(pictures())
        return both.metrics["balance_patches"].item()

    always = {slope: balance(slope, margin=0.0) for slope in (-10.0, -0.001, 10.0)}
    assert min(always.values()) > 0
    assert balance(-10.0, margin=0.1) == always[-10.0]
    assert 0 < balance(-0.001, margin=0.1) < 0.01 * always[-0.001]
    assert balance(10.0, margin=0.1) == 0
    assert 0 < balance(-10.0, margin=1.0) < always[-10.0]


def test_a_discriminator_that_is_pushed_over_learns_again():
    """The published balance grows as fast as the discriminator fades, and holds it at chance."""

    def late(margin: float) -> list[float]:
        strong = replace(CONFIG, adversarial_weight=1.0, adversarial_start=30, discriminator_ahead=30)
        both = stage(replace(strong, adversarial_margin=margin))
        optimizer = torch.optim.Adam([p for p in both.parameters() if p.requires_grad], 3e-3, (0.5, 0.99))
        seen = []
        for step in range(100):
            loss = update(both, optimizer, step)
            seen.append(
                [both.metrics.get(name, loss) for name in ("discriminator_patches", "balance_patches")]
            )
        return torch.tensor(seen[-20:]).mean(0).tolist()

    silent, grown = late(0.0)
    heard, held = late(VQGANLossConfig().adversarial_margin)
    assert silent > 0.99 * math.log(2) and grown > 4 * held
    assert heard < 0.98 * math.log(2) and held < 0.5


def test_adversary_waits_for_its_step_and_ramps():
    late = stage(replace(CONFIG, adversarial_start=3, discriminator_ahead=1, adversarial_ramp=4))
    seen = []
    for _ in range(4):
        late.metrics.clear()
        late.loss(pictures())
        seen.append(("discriminator_patches" in late.metrics, "adversarial_patches" in late.metrics))
    assert seen == [(False, False), (False, False), (True, False), (True, True)]


def test_codebook_starts_on_latents_and_follows_without_gradient():
    both = stage()
    table = both.vqgan.quantize.embedding.weight
    before = table.clone()
    both.loss(pictures()).backward()
    assert not table.requires_grad and table.grad is None
    assert not torch.equal(table, before)
    assert both.metrics["perplexity"] > 8


def test_gradient_codebook():
    both = stage(vqgan=replace(SMALL, codebook="gradient"))
    both.loss(pictures()).backward()
    assert both.vqgan.quantize.embedding.weight.grad.abs().sum() > 0


def test_continuous_steps_leave_the_codebook_alone():
    both = stage(replace(CONFIG, continuous_steps=2))
    table = both.vqgan.quantize.embedding.weight
    before = table.clone()
    for _ in range(2):
        both.loss(pictures())
        assert torch.equal(table, before)
    both.loss(pictures())
    assert not torch.equal(table, before)


def test_evaluation_changes_nothing():
    both = stage()
    both.loss(pictures())
    both.eval()
    state = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    with torch.no_grad():
        first, second = both.loss(pictures()), both.loss(pictures())
    assert torch.equal(first, second)
    assert all(torch.equal(tensor, state[name]) for name, tensor in both.state_dict().items())


def test_training_improves_reconstructions():
    both = stage(replace(CONFIG, adversarial_start=10))
    optimizer = torch.optim.AdamW([p for p in both.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for step in range(20):
        loss = update(both, optimizer, step)
        values.append(float(both.metrics["psnr"]))
    assert sum(values[-5:]) / 5 > values[0] + 3
    assert torch.isfinite(loss)


def test_resumed_run_is_the_uninterrupted_run():
    whole, resumed = stage(), stage()
    torch.manual_seed(1)
    whole.loss(pictures())
    resumed.load_state_dict(whole.state_dict())
    results = []
    for each in (whole, resumed):
        torch.manual_seed(2)
        loss = each.loss(pictures(seed=1))
        loss.backward()
        results.append((loss, gradients(each), each.state_dict()))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    assert all(torch.equal(results[0][2][name], results[1][2][name]) for name in results[0][2])


def test_bfloat16_stays_near_float32():
    values = []
    for enabled in (False, True):
        both = stage(maps=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = both.loss(pictures())
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(torch.isfinite(gradient).all() for gradient in gradients(both).values())
        values.append(loss.item())
    assert values[1] == pytest.approx(values[0], rel=0.05)


def test_artifact_holds_no_training_state():
    assert set(stage().vqgan.state_dict()) == set(VQGAN(SMALL).state_dict())


def test_missing_perceptual_network_is_named():
    with pytest.raises(DigitError, match="perceptual_weights"):
        stage(replace(CONFIG, perceptual="resnet18"))
    assert perceptual_network(CONFIG) is None
