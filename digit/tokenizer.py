"""pixels -> codes: the encoder's features, each named by its nearest centroid (DiGIT, section 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from digit.bounds import Codebook
from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, reading
from digit.kmeans import assign
from digit.nn.backbone import in_range
from digit.nn.checks import check_vocabulary


@dataclass(frozen=True)
class TokenizerConfig:
    """An encoder and the number of its centroids."""

    encoder: EncoderConfig  # whose features are clustered
    codes: Codebook  # K, the number of centroids
    # exact: float32 with the centroids' own norms. The others repeat the published code on an imported
    # checkpoint: stored takes the norms that lie in it, half computes in float16 besides, as training did.
    distance: Literal["exact", "stored", "half"] = "exact"

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)


class Tokenizer(nn.Module):
    """The discriminative tokenizer: a frozen encoder and K centroids.

    Args:
        config: its settings.
        encoder: one that is built already, such as the one the centroids were fitted on; without one it is
            built with random weights, to be filled by a state dict.
        centroids: float32, zeros without them.

    Raises:
        DigitError: an encoder of other settings, or centroids of another shape than the settings say.
    """

    centroids: Tensor
    squares: Tensor | None

    @checked
    def __init__(
        self,
        config: TokenizerConfig,
        *,
        encoder: Encoder | None = None,
        centroids: Float[Tensor, "k d"] | None = None,
    ) -> None:
        super().__init__()
        if encoder is not None and encoder.config != config.encoder:
            raise DigitError(
                f"the encoder given is {encoder.config}, the tokenizer's settings say {config.encoder}"
            )
        self.config = config
        self.encoder = encoder if encoder is not None else Encoder(config.encoder)
        shape = (config.codes, self.encoder.width)
        if centroids is not None and centroids.shape != shape:
            raise DigitError(
                f"the tokenizer's centroids must have the shape {shape}, these have {tuple(centroids.shape)}"
            )
        table = torch.zeros(shape) if centroids is None else centroids.detach().float().clone()
        self.register_buffer("centroids", table)
        stored = None if config.distance == "exact" else table.square().sum(1)
        self.register_buffer("squares", stored)

    @property
    def grid(self) -> int:
        """Codes along a side of a picture."""
        return self.encoder.grid

    @property
    def length(self) -> int:
        """Codes of a picture, in raster order."""
        return self.encoder.tokens

    @checked
    @torch.no_grad()
    def features(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What the codes are the nearest centroids of; pixels as `Encoder.forward` takes them."""
        return self.encoder(pixels)

    @checked
    @torch.no_grad()
    def encode(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The codes of square pictures of any size: the nearest centroid, by `config.distance`.

        Pixels are uint8, or floats in [0, 1]. DigitError for others, and for pictures that are not square.
        """
        return self.nearest(self.encoder(in_range(pixels)))

    @checked
    @torch.no_grad()
    def nearest(self, features: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"]:
        """The codes of features."""
        half = self.config.distance == "half"
        return assign(features, self.centroids, squares=self.squares, half=half)

    @checked
    def vectors(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The centroids that codes stand for; DigitError for codes that it has not."""
        check_vocabulary(codes, self.config.codes)
        return F.embedding(codes, self.centroids)


def encoding(tokenizer: Tokenizer) -> Callable[[Shaped[Tensor, "b 3 h w"]], Int[Tensor, "b n"]]:
    """The fastest way from square pictures, uint8 or float in [0, 1], to their codes, for many pictures.

    Features as by `features.reading`, in half precision on a GPU; distances as the tokenizer's settings say.
    """
    read = reading(tokenizer.encoder)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return tokenizer.nearest(read(pixels))

    return encode
