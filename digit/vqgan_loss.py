"""pixels -> one scalar that trains a VQGAN and its discriminators (VQGAN, arXiv:2012.09841, section 3.1)."""

import math
from pathlib import Path

import torch
import torch._functorch.config
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.distributed import add_up, world_size
from digit.errors import DigitError
from digit.nn.batch import PixelBatch
from digit.nn.codebook import MovingCodebook
from digit.nn.discriminator import MapDiscriminator, PatchDiscriminator, preference
from digit.nn.perceptual import PerceptualNetwork, distance, unit_maps
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANLossConfig


def perceptual_network(
    config: VQGANLossConfig, weights: Path | None = None, *, empty: bool = False
) -> PerceptualNetwork | None:
    """The frozen network that `config` names, from a file or downloaded by timm; None where it names none.

    `empty`: only its shapes; random weights, and nothing is read or downloaded.
    """
    if config.perceptual is None:
        return None
    return PerceptualNetwork(
        config.perceptual,
        weights=None if empty else weights,
        pretrained=weights is None and not empty,
        size=config.perceptual_size,
        indices=config.perceptual_maps,
    )


class VQGANLoss(nn.Module):
    """The trainable stage: a VQGAN with everything that only its training needs.

    One optimizer steps both sides: the pictures reach the discriminators detached, and the discriminators'
    own parameters are switched off while they judge for the generator, so one backward gives each side
    its own gradient. Over several processes codebook and balance follow the batch of all of them, as in one
    process with all of it at once; random restarts of codes take latents of the main process, and each
    process draws its own noise. In micro-batches either follows one after the other.

    `perceptual`: a frozen module, pixels -> maps. `metrics`: the last call's, detached.
    """

    step: Tensor
    started: Tensor

    def __init__(self, vqgan: VQGAN, config: VQGANLossConfig, perceptual: nn.Module | None = None) -> None:
        """Raises DigitError where `config` needs a perceptual network and none is given."""
        super().__init__()
        if perceptual is None and (config.perceptual is not None or config.discriminate_maps):
            raise DigitError("this VQGAN is trained with a perceptual network: give --perceptual-weights")
        self.config, self.vqgan, self.perceptual = config, vqgan, perceptual
        self.discriminators = nn.ModuleDict()
        if config.adversarial_weight > 0 and config.discriminate_patches:
            self.discriminators["patches"] = PatchDiscriminator(
                config.discriminator_width, config.discriminator_layers
            )
        if perceptual is not None:
            perceptual.requires_grad_(False)
            if config.adversarial_weight > 0 and config.discriminate_maps:
                with torch.no_grad():
                    maps = perceptual(torch.zeros(1, 3, vqgan.config.image_size, vqgan.config.image_size))
                self.discriminators["maps"] = MapDiscriminator(
                    [each.shape[1] for each in maps], config.discriminator_width
                )
        self.codebook = MovingCodebook(
            vqgan.config.codes,
            vqgan.config.code_dim,
            decay=config.codebook_decay,
            dead_after=config.dead_after,
        )
        vqgan.quantize.embedding.weight.requires_grad_(vqgan.config.codebook == "gradient")
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.metrics: dict[str, Tensor] = {}
        # The step as Python reads it: the buffer is asked once, after that nothing waits for the device.
        self._known: tuple[int, bool] | None = None
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "_known", None))

    def forward(self, batch: PixelBatch) -> Float[Tensor, ""]:
        """The same as `loss`."""
        return self.loss(batch)

    def loss(self, batch: PixelBatch) -> Float[Tensor, ""]:
        """The scalar of both sides; in training mode the codebook follows too.

        Without gradients (evaluation) the reconstruction terms alone.
        """
        pixels = batch.pixels
        if pixels.is_cuda:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        step = self._advance()
        quantized, commitment = self._bottleneck(self.vqgan.latents(pixels), step)
        reconstruction = self.vqgan.decode_latents(quantized)
        if not self.training or not torch.is_grad_enabled():
            return self._reconstruction(pixels, reconstruction, self._maps(pixels))[0] + commitment
        if not self.discriminators or step < self.config.adversarial_start - self.config.discriminator_ahead:
            return self._reconstruction(pixels, reconstruction, self._maps(pixels))[0] + commitment
        return self._adversarial(pixels, reconstruction, step) + commitment

    def assume(self, step: int) -> None:
        """Go on as from this step, the codebook started: for counting where tensors have no values."""
        self._known = (step, True)

    @torch.no_grad()
    def keep_codebook(self) -> None:
        """Go on from the VQGAN's codes, of a training before, in place of new ones on the first latents."""
        self.codebook.counts.fill_(1)
        self.codebook.sums.copy_(self.vqgan.quantize.embedding.weight)
        self.started.fill_(True)

    @property
    def partial_gradients(self) -> bool:
        """Whether the next update leaves some trainable parameters without a gradient."""
        step = int(self.step) if self._known is None else self._known[0]
        waits = step < self.config.adversarial_start - self.config.discriminator_ahead
        continuous = step < self.config.continuous_steps and self.vqgan.config.codebook == "gradient"
        return continuous or (waits and len(self.discriminators) > 0)

    def compile_parts(self) -> None:
        """Compile the encoder and the decoder up to its last convolution, where most of the time goes."""
        # The balance asks one graph for several gradients; donated buffers would be gone after the first.
        torch._functorch.config.donated_buffer = False
        for part in (self.vqgan.encoder, self.vqgan.decoder):
            part.compile(dynamic=False)

    def _advance(self) -> int:
        if self._known is None:
            self._known = (int(self.step), bool(self.started))
        step, started = self._known
        if self.training and torch.is_grad_enabled():
            self.step.add_(1)
            self._known = (step + 1, started)
        return step

    def _bottleneck(self, latents: Tensor, step: int) -> tuple[Tensor, Float[Tensor, ""]]:
        """Quantised latents with a straight-through gradient, and the terms of commitment and codebook."""
        latents = self.vqgan.quantize.project(latents)
        learns = self.training and torch.is_grad_enabled()
        if learns and step < self.config.continuous_steps:
            return latents, latents.new_zeros(())
        rows = latents.detach().permute(0, 2, 3, 1).flatten(0, 2)
        table = self.vqgan.quantize.embedding.weight
        if learns:
            self._start_codebook(table.detach(), rows)
        codes, vectors = self.vqgan.quantize(latents)
        if learns and self.vqgan.config.codebook == "ema":
            self.codebook.follow(table.detach(), rows, codes.flatten())
            vectors = vectors.detach()
        commitment = self.config.commitment * F.mse_loss(latents, vectors.detach())
        if vectors.requires_grad:
            commitment = commitment + F.mse_loss(vectors, latents.detach())
        self._report(commitment=commitment, perplexity=_perplexity(codes, len(table)))
        return latents + (vectors - latents).detach(), commitment

    def _start_codebook(self, table: Tensor, rows: Float[Tensor, "m d"]) -> None:
        """Once: k-means of the first latents; most random vectors would never meet one."""
        if self._known is not None and self._known[1]:
            return
        self.codebook.start(table, rows)
        for _ in range(10):
            self.codebook.follow(table, rows, self.vqgan.quantize.nearest(rows), decay=0.0)
        self.codebook.idle.zero_()
        self.started.fill_(True)
        self._known = (self._known[0] if self._known else 0, True)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """The perceptual network's unit maps of real pictures."""
        if self.perceptual is None:
            return []
        with torch.no_grad():
            return unit_maps(self.perceptual(pixels))

    def _reconstruction(
        self, pixels: Tensor, reconstruction: Tensor, real: list[Tensor]
    ) -> tuple[Float[Tensor, ""], list[Tensor]]:
        """Pixel and perceptual terms, and the maps of the reconstruction."""
        squared = F.mse_loss(reconstruction, pixels)
        absolute = F.l1_loss(reconstruction, pixels)
        total = self.config.l1 * absolute + self.config.l2 * squared
        self._report(l1=absolute, psnr=-10 * squared.detach().log10())
        if self.perceptual is None:
            return total, []
        fake = unit_maps(self.perceptual(reconstruction))
        perceptual = distance(fake, real)
        self._report(perceptual=perceptual)
        return total + self.config.perceptual_weight * perceptual, fake

    def _adversarial(self, pixels: Tensor, reconstruction: Tensor, step: int) -> Float[Tensor, ""]:
        """All terms on the pictures. Their gradients meet at the pixels: the decoder sees one."""
        real = self._maps(pixels)
        picture = reconstruction.detach().requires_grad_()
        total, fake = self._reconstruction(pixels, picture, real)
        (gradient,) = torch.autograd.grad(total, picture, retain_graph=True)
        reference = self._last_layer(reconstruction, gradient)
        grown = (step - self.config.adversarial_start + 1) / max(1, self.config.adversarial_ramp)
        share = self.config.adversarial_weight * min(1.0, max(0.0, grown)) / len(self.discriminators)
        discriminators = pixels.new_zeros(())
        for name, discriminator in self.discriminators.items():
            originals, rivals = (real, fake) if name == "maps" else ([pixels], [picture])
            if share > 0:
                discriminator.requires_grad_(False)
                with torch.no_grad():
                    standard = _judge(discriminator, originals, name)
                shown = _judge(discriminator, rivals, name)
                judged = preference(shown, standard)
                discriminator.requires_grad_(True)
                (push,) = torch.autograd.grad(judged, picture, retain_graph=True)
                balance = (reference / (self._last_layer(reconstruction, push) + 1e-8)).clamp(max=1e4)
                balance = balance * self._trust(preference(standard, shown).detach())
                gradient = gradient + share * balance * push
                self._report(**{f"adversarial_{name}": judged, f"balance_{name}": balance})
            discriminators = discriminators + self._learn(name, discriminator, originals, rivals)
        # Its value is the loss's, its gradient the sum that was just put together.
        carrier = (reconstruction * gradient).sum()
        return total.detach() + (carrier - carrier.detach()) + discriminators

    def _trust(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """0 for a discriminator at chance, 1 for one whose loss is `adversarial_margin` below.

        The balance alone makes up for every weakness: one that the generator has just fooled would go on
        pushing at full force along whatever is left of its slope, and be fooled faster than it learns anew.
        """
        if self.config.adversarial_margin == 0:
            return torch.ones_like(loss)
        saved = 1 - loss / math.log(2)
        add_up(saved)
        return (saved / world_size() / self.config.adversarial_margin).clamp(0, 1)

    def _learn(
        self, name: str, discriminator: nn.Module, real: list[Tensor], fake: list[Tensor]
    ) -> Float[Tensor, ""]:
        """What a discriminator minimises: the pairing, and the slope of its logits at both sides.

        The slopes are those of R1 and R2 (arXiv:2501.05441) by a finite difference along noise: no second
        derivatives, safe in bf16. Without them a discriminator that has won gives no useful gradient.
        """
        noise = 0.05  # length of the step, of pixels in [0, 1] or of unit vectors
        both = [torch.cat([r, f.detach()]) for r, f in zip(real, fake, strict=True)]
        scales = [noise / each.shape[1] ** 0.5 if name == "maps" else noise for each in both]
        moved = [each + scale * torch.randn_like(each) for each, scale in zip(both, scales, strict=True)]
        judged = _judge(discriminator, [torch.cat(pair) for pair in zip(both, moved, strict=True)], name)
        quarters = [each.float().chunk(4) for each in judged]
        paired = preference([each[0] for each in quarters], [each[1] for each in quarters])
        slopes = [(torch.cat(each[2:]) - torch.cat(each[:2])).square().mean() / noise**2 for each in quarters]
        slope = torch.stack(slopes).mean()
        self._report(**{f"discriminator_{name}": paired, f"slope_{name}": slope})
        return paired + self.config.discriminator_slope * slope

    def _last_layer(self, reconstruction: Tensor, gradient: Tensor) -> Float[Tensor, ""]:
        """Norm of the last convolution's gradient when `gradient` arrives at the pixels."""
        weight = self.vqgan.decoder.conv_out.weight
        (reached,) = torch.autograd.grad(reconstruction, weight, gradient, retain_graph=True)
        reached = reached.float()
        add_up(reached)
        return reached.norm() / world_size()

    def _report(self, **values: Tensor) -> None:
        self.metrics.update({name: value.detach() for name, value in values.items()})


def _judge(discriminator: nn.Module, shown: list[Tensor], name: str) -> list[Tensor]:
    return discriminator(shown if name == "maps" else shown[0])


def _perplexity(codes: Int[Tensor, "b n"], k: int) -> Float[Tensor, ""]:
    """exp of the entropy of the codes in a batch: how many are in even use."""
    counts = torch.zeros(k, device=codes.device)
    counts.index_add_(0, codes.flatten(), counts.new_ones(codes.numel()))
    shares = counts / counts.sum()
    return (-(shares * shares.clamp(min=1e-12).log()).sum()).exp()
