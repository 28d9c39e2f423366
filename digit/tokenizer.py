"""pixels -> codes: the encoder's features, each named by its nearest centroid (DiGIT, section 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from digit.bounds import Batch, Codebook, Count, Seed, Side, Whole
from digit.calls import check_fields, checked
from digit.centroids import Plan, cluster
from digit.data.images import ImageSource, open_images
from digit.data.preprocess import PicturesLike, preprocess
from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, encoder_config, reading
from digit.kmeans import assign
from digit.nn.backbone import in_range
from digit.nn.checks import check_device, check_vocabulary
from digit.nn.summary import in_a_line
from digit.own_encoder import OwnEncoder


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
        self._side: int | None = None

    @classmethod
    @checked
    def fit(
        cls,
        images: str | Path | ImageSource,
        *,
        encoder: str | Encoder | nn.Module = "dinov2-b-reg",
        clusters: Codebook = 8192,
        size: Side | None = None,
        per_cluster: Count = 256,
        iterations: Whole = 20,
        mirror: bool = True,
        seed: Seed = 0,
        batch_size: Batch = 64,
        device: torch.device | str = "cpu",
    ) -> "Tokenizer":
        """K-means over an encoder's features of pictures, as `digit fit` does it; nothing is written.

        `digit.save(tokenizer, folder)` makes of it what the other verbs take. Memory holds `clusters` times
        `per_cluster` feature vectors and one batch.

        Args:
            images: a folder, zip or shards of pictures, or what `digit.open_images` gave.
            encoder: a name as `digit.encoder_config` takes it, whose weights timm fetches; or an encoder,
                such as `digit.load(folder)` of one that `digit convert` made; or any torch module that
                `digit.own_encoder.OwnEncoder` takes, whose tokenizer cannot be saved.
            clusters: K, the number of codes.
            size: side in pixels of the pictures before the encoder resizes them; the encoder's if left out.
            per_cluster: feature vectors kept for K-means, per cluster.
            iterations: of Lloyd's algorithm.
            mirror: also see every picture mirrored.
            seed: of the sample and the starting centroids.
            batch_size: pictures at once.
            device: where it works, and the tokenizer stays: cpu, cuda or cuda:N.

        Raises:
            DigitError: no pictures, an unknown encoder, or more clusters than feature vectors.
        """
        source = images if isinstance(images, ImageSource) else open_images(images)
        if isinstance(encoder, str):
            encoder = Encoder(encoder_config(encoder), pretrained=True)
        elif not isinstance(encoder, Encoder):
            encoder = OwnEncoder(encoder)
        encoder, side = encoder.to(check_device(device)), size or encoder.config.image_size
        how: dict[str, Any] = {
            "mirror": mirror,
            "seed": seed,
            "batch": batch_size,
            "threads": None,
            "strict": False,
        }
        plan = Plan(source, encoder, {}, side, clusters, per_cluster, **how)
        plan.check()
        centroids = cluster(plan, iterations=iterations)[0].centroids
        fitted = cls(TokenizerConfig(encoder.config, clusters), encoder=encoder, centroids=centroids)
        fitted._side = side
        return fitted.to(encoder.device).eval()

    def __repr__(self) -> str:
        """One line."""
        return in_a_line(
            self, f"{self.encoder.config.name} at {self.size} px", f"{self.config.codes:,} codes",
            f"{self.grid} x {self.grid} a picture",
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Side in pixels of the pictures that it was fitted on, at which files are read."""
        told = (getattr(self, "artifact", {}).get("extra") or {}).get("size")
        return self._side or told or self.config.encoder.image_size

    @property
    def codes(self) -> int:
        """K, the number of codes."""
        return self.config.codes

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
    def encode(self, pixels: Shaped[Tensor, "b 3 h w"] | PicturesLike) -> Int[Tensor, "b n"]:
        """The codes of square pictures of any size: the nearest centroid, by `config.distance`.

        Pixels are uint8, or floats in [0, 1]; files, folders and pictures of Pillow become pixels of `size`
        by `digit.preprocess`. DigitError for other pixels, pictures that are not square or cannot be read.
        """
        if not isinstance(pixels, Tensor):
            pixels = preprocess(pixels, size=self.size).to(self.centroids.device)
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
