"""pixels -> codes: the encoder's features, each named by its nearest centroid (DiGIT, section 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, InferenceFeatures
from digit.kmeans import assign
from digit.nn.batch import in_pieces
from digit.nn.nearest import Precision
from digit.nn.vit import unsupported


@dataclass(frozen=True)
class TokenizerConfig:
    """An encoder and the number of its centroids."""

    encoder: EncoderConfig  # whose features are clustered
    codes: int  # K, the number of centroids
    # exact: float32 with the centroids' own norms. The others repeat the published code on an imported
    # checkpoint: stored takes the norms that lie in it, half computes in float16 besides, as training did.
    distance: Literal["exact", "stored", "half"] = "exact"


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

    @torch.no_grad()
    def features(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What the codes are the nearest centroids of; pixels in [0, 1], square, any size."""
        return self.encoder(pixels)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The codes of square pictures of any size in [0, 1]: the nearest centroid, by `config.distance`."""
        half = self.config.distance == "half"
        return assign(self.encoder(pixels), self.centroids, squares=self.squares, half=half)

    def vectors(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The centroids that codes stand for."""
        return F.embedding(codes, self.centroids)


class InferenceTokenizer:
    """The codes of a tokenizer by its encoder's form for inference, in half precision.

    Args:
        tokenizer: whose encoder `InferenceFeatures` can take; its weights are copied.
        precision: of the distances to the centroids; float32 is exact for the features there are.
        most: pictures at once. What does not fit into memory is halved, whatever this says.
        how: dtype, gelu and attention of `InferenceFeatures`.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, precision: Precision = "float32", most: int = 512, **how: Any
    ) -> None:
        self._tokens = InferenceFeatures(tokenizer.encoder, **how)
        self._centroids, self._squares = tokenizer.centroids, tokenizer.squares
        self._half = tokenizer.config.distance == "half"
        self._precision: Precision = precision
        self._most = most

    def features(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What the codes are the nearest centroids of; pixels are uint8, or float in [0, 1]; square."""
        return in_pieces(self._tokens.features, pixels, self._most)

    def encode(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The codes of pictures as `features` takes them."""
        return in_pieces(self._encode, pixels, self._most)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        # Class and register tokens get codes too: cutting them off first would copy all features.
        return self._tokens(pixels, self._nearest)[:, self._tokens.prefix :]

    def _nearest(self, tokens: Tensor) -> Tensor:
        how = {"squares": self._squares, "half": self._half, "precision": self._precision}
        return assign(tokens, self._centroids, **how)


def encoding(
    tokenizer: Tokenizer, *, precision: Precision = "float32"
) -> Callable[[Shaped[Tensor, "b 3 h w"]], Int[Tensor, "b n"]]:
    """The fastest way from square pictures, uint8 or float in [0, 1], to their codes, for many pictures.

    On a GPU an `InferenceTokenizer` in float16; where the encoder cannot take that form, the module itself
    under bf16 autocast. On a CPU the module as it is. `precision` is that of the distances.
    """
    if tokenizer.centroids.is_cuda and unsupported(tokenizer.encoder.vit) is None:
        return InferenceTokenizer(tokenizer, precision=precision).encode
    half = tokenizer.config.distance == "half"

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            features = tokenizer.encoder(pixels / 255 if pixels.dtype == torch.uint8 else pixels)
        return assign(
            features, tokenizer.centroids, squares=tokenizer.squares, half=half, precision=precision
        )

    return encode
