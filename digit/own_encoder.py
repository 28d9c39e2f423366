"""Any torch module as an encoder: what makes features of pictures can make a tokenizer."""

import itertools
import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.bounds import Side
from digit.calls import checked
from digit.errors import DigitError, first_line
from digit.features import Encoder, EncoderConfig, operations
from digit.nn.backbone import Standardize


class OwnEncoder(Encoder):
    """A torch module that gives (b, n, d) features of square pictures (b, 3, s, s), floats in [0, 1].

    n is the square of a whole number, the features are in raster order. The module scales pixels as it needs
    them, is set to evaluation mode and otherwise left as it is. It is code, so that a tokenizer of it cannot
    be saved: `--tokenizer module:object` names it on the command line (docs/own-parts.md).

    Args:
        module: the module; a forward pass of one picture shows its width and number of vectors.
        image_size: s, the side in pixels to which pictures are resized; `module.image_size` if left out.

    Raises:
        DigitError: no side is given or known; the module fails on such pictures, or gives something else.
    """

    @checked
    def __init__(self, module: nn.Module, image_size: Side | None = None) -> None:
        nn.Module.__init__(self)
        name, side = type(module).__name__, image_size or getattr(module, "image_size", None)
        if not isinstance(side, int) or side < 1:
            raise DigitError(
                f"{name} does not say at which size it sees pictures: give it an image_size, a side in pixels"
            )
        self.config = EncoderConfig(name, side, hosted=False)
        self.standardize = Standardize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.vit, self.maps, self.origin = module.eval(), None, {}
        held = next(itertools.chain(module.parameters(), module.buffers()), None)
        self.to("cpu" if held is None else held.device)
        with torch.no_grad():
            try:  # the module is a user's: what torch and Python raise where it takes no such pictures
                found = module(torch.zeros(1, 3, side, side, device=self.device))
            except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
                raise DigitError(f"{name} fails on pictures of {side} px ({first_line(error)})") from error
        if not (
            isinstance(found, Tensor) and found.ndim == 3 and len(found) == 1 and found.is_floating_point()
        ):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DigitError(f"{name} gave {what} for one picture: give floats (pictures, vectors, channels)")
        self._tokens, self._width = found.shape[1:]
        if math.isqrt(self._tokens) ** 2 != self._tokens:
            raise DigitError(f"{name} gives {self._tokens} vectors of a picture, which fill no square")

    @property
    def grid(self) -> int:
        """Vectors along a side."""
        return math.isqrt(self._tokens)

    @property
    def width(self) -> int:
        """Channels of a feature vector."""
        return self._width

    @property
    def flops(self) -> int:
        """Floating-point operations for a picture, as torch counts them."""
        side = self.config.image_size
        return operations(self, torch.zeros(1, 3, side, side, device=self.device))

    def _features(self, pixels: Shaped[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        return self.vit(pixels.float())
