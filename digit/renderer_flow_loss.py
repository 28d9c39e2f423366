"""codes and pixels -> one scalar that trains a flow renderer: by pictures, or by what a slower one draws."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.bounds import Share, Weight
from digit.calls import check_fields
from digit.errors import DigitError
from digit.nn.batch import ViewBatch
from digit.renderer_flow import FlowRenderer

SEEN_FROM = 0.3  # time: before, a prediction is blurred, and features of what is blurred say nothing


@dataclass(frozen=True)
class FlowLossConfig:
    """What a flow renderer learns from besides the error of its pixels."""

    perceptual_weight: Weight = 0.05  # of the encoder's features, where there is one; 0: none
    perceptual_share: Share = 0.5  # of a batch whose features are compared: they take as long as all the rest

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)


class FlowLoss(nn.Module):
    """The trainable stage: a flow renderer beside the frozen networks that judge or teach it.

    By pictures it minimises its own loss. By a `teacher` it regresses, in as many passes as its settings say,
    the picture that the teacher's own many passes make of the same noise, codes, class and guidance (SSDD's
    distillation, arXiv:2510.04961): so it needs no second pass for guidance, which is an input, drawn evenly
    from 1 to `taught_guidance`. In both an `encoder`, the tokenizer's own, sees pictures drawn and wanted,
    and the cosines between features of their patches count too.

    Encoder and teacher are held aside, in no state and on the device where they were given; `metrics` are the
    last call's, detached.
    """

    def __init__(
        self,
        renderer: FlowRenderer,
        config: FlowLossConfig | None = None,
        *,
        encoder: nn.Module | None = None,
        teacher: FlowRenderer | None = None,
    ) -> None:
        """Raises DigitError for a teacher of other pictures, codes or classes."""
        super().__init__()
        self.config, self.renderer = config or FlowLossConfig(), renderer
        for name in ("codes", "length", "image_size", "classes"):
            if teacher is not None and getattr(teacher.config, name) != getattr(renderer.config, name):
                raise DigitError(
                    f"the teacher has {name} {getattr(teacher.config, name)}, its student "
                    f"{getattr(renderer.config, name)}: a student draws what its teacher draws"
                )
        self._frozen = encoder, teacher  # a tuple, so that they are no part of the stage
        for frozen in filter(None, self._frozen):
            frozen.requires_grad_(False).eval()
        self.metrics: dict[str, Tensor] = {}

    def loss(self, batch: ViewBatch) -> Float[Tensor, ""]:
        """Pixels and, where there is an encoder, features."""
        encoder, teacher = self._frozen
        if teacher is None:
            drawn = self.renderer.predict(batch)
            found, wanted, pixels = drawn.found, drawn.clean, drawn.loss
            counted = (drawn.times >= SEEN_FROM).float()
        else:
            found, wanted = self._taught(teacher, batch)
            pixels, counted = F.mse_loss(found, wanted), torch.ones(len(found), device=found.device)
        self.metrics = {"pixels": pixels.detach()}
        rows = round(len(found) * self.config.perceptual_share)
        if encoder is None or not rows or self.config.perceptual_weight == 0:
            return pixels
        apart = features_apart(encoder, found[:rows], wanted[:rows])
        perceptual = (apart * counted[:rows]).mean()
        self.metrics["perceptual"] = perceptual.detach()
        return pixels + self.config.perceptual_weight * perceptual

    def _taught(self, teacher: FlowRenderer, batch: ViewBatch) -> tuple[Tensor, Tensor]:
        """What student and teacher make of the same noise."""
        own, b, device = self.renderer.config, len(batch.codes), batch.codes.device
        noise = torch.randn(b, 3, own.image_size, own.image_size, device=device)
        guidance = 1 + (own.taught_guidance - 1) * torch.rand(b, device=device)
        labels = self.renderer.known(batch.labels, b, device)
        with torch.no_grad():
            wanted = teacher.flow(noise, batch.codes, labels, guidance, steps=teacher.config.steps)
            wanted = wanted.clamp(-1, 1)
        return self.renderer.flow(noise, batch.codes, labels, guidance, steps=own.steps), wanted

    def compile_parts(self) -> None:
        """Compile the networks: a loss by a teacher is too many passes for one graph."""
        for part in (self.renderer, *filter(None, self._frozen)):
            part.compile(dynamic=False)


def features_apart(
    encoder: nn.Module, found: Float[Tensor, "b 3 h w"], wanted: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """1 less the cosine of each patch's features, on average over a picture, 0 to 2; pixels from -1 to 1."""
    with torch.no_grad():
        real = encoder((wanted + 1) / 2)
    return 1 - F.cosine_similarity(encoder((found + 1) / 2).float(), real.float(), dim=-1).mean(1)
