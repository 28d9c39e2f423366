"""codes and pixels -> one scalar that trains a flow renderer: by pictures, or by what a slower one draws."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.bounds import Share, Weight
from digit.calls import check_fields
from digit.errors import DigitError
from digit.nn.batch import ViewBatch
from digit.nn.frechet import FrechetLoss
from digit.renderer_flow import FlowRenderer, flow

SEEN_FROM = 0.3  # time: before, a prediction is blurred, and features of what is blurred say nothing


@dataclass(frozen=True)
class FlowLossConfig:
    """What a flow renderer learns from besides the error of its pixels."""

    perceptual_weight: Weight = 0.05  # of the encoder's features, where there is one; 0: none
    perceptual_share: Share = 0.5  # of a batch whose features are compared: they take as long as all the rest
    frechet_weight: Weight = 0.0  # of distances between all drawn and all real features, by a teacher only

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)


class FlowLoss(nn.Module):
    """The trainable stage: a flow renderer beside the frozen networks that judge or teach it.

    By pictures it minimises its own loss. By a `teacher` it regresses, in as many passes as its settings say,
    the picture that the teacher's own many passes make of the same noise, codes, class and guidance (SSDD's
    distillation, arXiv:2510.04961): so it needs no second pass for guidance, which is an input, drawn evenly
    from 1 to `taught_guidance`. In both an `encoder`, the tokenizer's own, sees pictures drawn and wanted,
    and the cosines between features of their patches count too. By a teacher also what no pair of pictures
    shows can count: Fréchet distances between the features of all that the student draws and of the batch's
    real pictures, of patches and of their means (FD-loss), which see sharpness and variety.

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
        """Raises DigitError for a teacher of other pictures, codes or classes, or where one is missing."""
        super().__init__()
        self.config, self.renderer = config or FlowLossConfig(), renderer
        for name in ("codes", "length", "image_size", "classes"):
            if teacher is not None and getattr(teacher.config, name) != getattr(renderer.config, name):
                raise DigitError(
                    f"the teacher has {name} {getattr(teacher.config, name)}, its student "
                    f"{getattr(renderer.config, name)}: a student draws what its teacher draws"
                )
        if self.config.frechet_weight and (encoder is None or teacher is None):
            raise DigitError(
                "a Fréchet distance is of what a student draws, in an encoder's features: give --teacher and "
                "--tokenizer"
            )
        width: int = getattr(encoder, "width", 0)
        places = ("patches", "pictures") if self.config.frechet_weight else ()
        self.frechet = nn.ModuleDict({place: FrechetLoss(width) for place in places})
        self._frozen = encoder, teacher  # a tuple, so that they are no part of the stage
        for frozen in filter(None, self._frozen):
            frozen.requires_grad_(False).eval()
        self.metrics: dict[str, Tensor] = {}

    def loss(self, batch: ViewBatch) -> Float[Tensor, ""]:
        """Pixels and, where there is an encoder, features."""
        encoder, teacher = self._frozen
        pairs = self._predicted(batch) if teacher is None else self._taught(teacher, batch)
        self.metrics = {"pixels": pairs.loss.detach()}
        return pairs.loss if encoder is None else pairs.loss + self._features(encoder, pairs, batch)

    def _predicted(self, batch: ViewBatch) -> "_Pairs":
        """What the renderer makes of pictures with noise."""
        drawn = self.renderer.predict(batch)
        return _Pairs(drawn.found, drawn.clean, drawn.loss, (drawn.times >= SEEN_FROM).float())

    def _taught(self, teacher: FlowRenderer, batch: ViewBatch) -> "_Pairs":
        """What student and teacher make of the same noise."""
        own, b, device = self.renderer.config, len(batch.codes), batch.codes.device
        noise = torch.randn(b, 3, own.image_size, own.image_size, device=device)
        guidance = 1 + (own.taught_guidance - 1) * torch.rand(b, device=device)
        labels = self.renderer.known(batch.labels, b, device)

        def drawn(by: FlowRenderer) -> Tensor:
            how: dict[str, Any] = {"steps": by.config.steps, "guided": own.taught_guidance > 1}
            return flow(by, noise, batch.codes, labels, guidance, **how)

        with torch.no_grad():
            wanted = drawn(teacher).clamp(-1, 1)
        found = drawn(self.renderer)
        return _Pairs(found, wanted, F.mse_loss(found, wanted), torch.ones(b, device=device))

    def _features(self, encoder: nn.Module, pairs: "_Pairs", batch: ViewBatch) -> Float[Tensor, ""]:
        """The terms of a share of the pairs, of all where their distribution counts."""
        share = (
            1.0 if self.frechet else self.config.perceptual_share if self.config.perceptual_weight else 0.0
        )
        rows = round(len(batch.codes) * share)
        if rows == 0:
            return torch.zeros((), device=batch.codes.device)
        found = encoder((pairs.found[:rows] + 1) / 2).float()
        apart = 1 - F.cosine_similarity(found, _seen(encoder, (pairs.wanted[:rows] + 1) / 2), dim=-1).mean(1)
        perceptual = (apart * pairs.counted[:rows]).mean()
        self.metrics["perceptual"] = perceptual.detach()
        total = self.config.perceptual_weight * perceptual
        if self.frechet:
            real = _seen(encoder, batch.pixels)
            of_each = {"patches": (found, real), "pictures": (found.mean(1), real.mean(1))}
            for place, both in of_each.items():
                term: Any = self.frechet[place]
                total = total + self.config.frechet_weight * term(*(each.flatten(0, -2) for each in both))
                self.metrics[f"frechet_{place}"] = term.distance
        return total

    def compile_parts(self) -> None:
        """Compile the networks: a loss by a teacher is too many passes for one graph."""
        for part in (self.renderer, *filter(None, self._frozen)):
            part.compile(dynamic=False)


class _Pairs(NamedTuple):
    """Pictures as they are and as they should be, values from -1 to 1, and how much their pixels differ."""

    found: Float[Tensor, "b 3 h w"]
    wanted: Float[Tensor, "b 3 h w"]
    loss: Float[Tensor, ""]
    counted: Float[Tensor, " b"]  # 1 where their features may be compared


def _seen(encoder: nn.Module, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
    """Features of pictures that nothing is learned about; pixels in [0, 1]."""
    with torch.no_grad():
        return encoder(pixels).float()
