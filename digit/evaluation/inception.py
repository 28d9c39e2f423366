"""pixels -> pooled and spatial features, logits: the InceptionV3 of FID (2015-12-05, ported from TensorFlow).

torchvision's network with TensorFlow's pools, and with the batch norms folded into the convolutions; weights
by torch-fidelity's names, which are torchvision's, from a file that is given, in torch-fidelity's cache, or
fetched from its releases.
"""

import importlib
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.errors import DigitError
from digit.files import atomic_file, sha256_file
from digit.nn.backbone import timm
from digit.opening import sha256_of
from digit.weights.foreign import Layout, check_layout, read

SIDE = 299  # px that the network sees
WIDTH, CLASSES = 2048, 1008
SPATIAL = 7  # channels of the spatial features: the first of "mixed_6/conv" (arXiv:2103.03841)
_EPSILON = 1e-3  # of its batch norms
SHA256 = "6726825d"  # how the sha256 of the published file begins
NAME = f"weights-inception-2015-12-05-{SHA256}.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
TIMEOUT = 20.0  # seconds without an answer
LARGEST, SLOWEST = 2**27, 1024  # bytes of the file, and bytes per second, at most and at least
_NORM = ("weight", "bias", "running_mean", "running_var")
_MEANS = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")


class Features(NamedTuple):
    """What the network says of b pictures."""

    pooled: Float[Tensor, "b 2048"]  # FID's
    spatial: Float[Tensor, "b 2023"]  # sFID's: 17 rows x 17 columns x 7 channels, channels last as in ADM
    logits: Float[Tensor, "b 1008"]  # without the bias, as the inception score takes them


class Inception(nn.Module):
    """InceptionV3 of no use before `fill` gives it weights. Inference only."""

    def __init__(self) -> None:
        super().__init__()
        timm()  # lets torchvision be imported
        theirs: Any = importlib.import_module("torchvision.models.inception")
        blocks = [partial(getattr(theirs, f"Inception{kind}"), conv_block=_Convolution) for kind in "ABCDE"]
        with torch.random.fork_rng([]):  # random weights, which are thrown away
            whole = theirs.Inception3(
                aux_logits=False, init_weights=False, inception_blocks=[_Convolution, *blocks, None]
            )
        self.sources = {name: part for name, part in whole.named_modules() if isinstance(part, _Convolution)}
        for name in _MEANS:
            setattr(whole, name, _Block(getattr(whole, name), nn.AvgPool2d(3, 1, 1, count_include_pad=False)))
        whole.Mixed_7c = _Block(whole.Mixed_7c, nn.MaxPool2d(3, 1, 1))
        last = ("avgpool", "dropout", "fc")
        self.steps = nn.ModuleDict({name: part for name, part in whole.named_children() if name not in last})
        self.head = nn.Parameter(torch.zeros(CLASSES, WIDTH))
        self.requires_grad_(False).eval()

    def layout(self) -> Layout:
        """Shapes of the tensors of torch-fidelity's file, by their names in it."""
        shapes: dict[str, tuple[int, ...]] = {"fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}
        for name, conv in self.sources.items():
            shapes[f"{name}.conv.weight"] = tuple(conv.weight.shape)
            shapes |= {f"{name}.bn.{part}": (conv.out_channels,) for part in _NORM}
        return shapes

    def fill(self, tensors: Mapping[str, Tensor], *, where: str) -> None:
        """Take weights by torch-fidelity's names of them; DigitError, naming `where`, if they do not fit."""
        counted = "num_batches_tracked"
        own = {name: value for name, value in tensors.items() if not name.endswith(counted)}
        check_layout(own, self.layout(), where=where)
        for name, conv in self.sources.items():
            weight, bias, mean, variance = (tensors[f"{name}.bn.{part}"].double() for part in _NORM)
            scale = weight / (variance + _EPSILON).sqrt()
            conv.weight.copy_(tensors[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1))
            assert conv.bias is not None
            conv.bias.copy_(bias - mean * scale)
        self.head.copy_(tensors["fc.weight"])

    def forward(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Features:
        """Features and logits of pixels from 0 to 255 of any size."""
        x = spatial = (resize_as_tensorflow(pixels.float(), SIDE) - 128) / 128
        for name, step in self.steps.items():
            x = step(x)
            if name == "Mixed_6d":  # TensorFlow's "mixed_6"; its first branch is "mixed_6/conv"
                spatial = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        pooled = x.mean((2, 3))
        return Features(pooled, spatial, pooled @ self.head.T)


class _Convolution(nn.Conv2d):
    """A convolution, its batch norm folded into it, and ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu_(super().forward(input))


class _Block(nn.Module):
    """A block of torchvision's with another pool before its last branch."""

    def __init__(self, block: Any, pool: nn.Module) -> None:
        super().__init__()
        self.block, self.pool, self.last = block, pool, block.branch_pool
        block.branch_pool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*self.block._forward(x)[:-1], self.last(self.pool(x))], 1)


def resize_as_tensorflow(pixels: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c {side} {side}"]:
    """Bilinear as in TensorFlow 1: from the corner at steps of h / side, neither centred nor smoothed."""

    def places(length: int) -> tuple[Tensor, Tensor, Tensor]:
        step = torch.tensor(length / side, dtype=torch.float32)
        at = torch.arange(side, dtype=torch.float32) * step
        low = at.long().clamp_max(length - 1)
        share = (at - low).to(pixels.device, pixels.dtype)
        return low.to(pixels.device), (low + 1).clamp_max(length - 1).to(pixels.device), share

    left, right, across = places(pixels.shape[3])
    top, bottom, down = places(pixels.shape[2])
    low, high = pixels[..., left], pixels[..., right]
    x = low + (high - low) * across
    low, high = x[..., top, :], x[..., bottom, :]
    return low + (high - low) * down[:, None]


class Read(NamedTuple):
    """A filled network and where its weights came from."""

    module: Inception
    tensors: dict[str, Tensor]  # as in the file
    sha256: str  # of the file
    official: bool  # whether it is the published one


def read_inception(given: Path | None = None) -> Read:
    """InceptionV3 with the weights of `given`, a .pth or .safetensors file in torch-fidelity's layout.

    Without a file: the one in torch-fidelity's cache, else it is fetched into there (91 MB). Raises
    DigitError, one sentence, if it cannot be had or holds something else.
    """
    path = _cached() if given is None else given
    if not path.is_file():
        raise DigitError(f"{path} does not exist: download {ADDRESS} and name it with --inception-weights")
    tensors = read(path)
    if not isinstance(tensors, dict) or "Conv2d_1a_3x3.conv.weight" not in tensors:
        raise DigitError(f"{path} holds no InceptionV3 as torch-fidelity names its tensors: give {NAME}")
    module = Inception()
    module.fill(tensors, where=str(path))
    sha256 = sha256_file(path)
    return Read(module, tensors, sha256, sha256.startswith(SHA256))


def _cached() -> Path:
    """torch-fidelity's own place for the file; fetched if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / NAME
    if path.is_file():
        return path
    try:
        with atomic_file(path) as file:
            with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT) as answer:
                begun, size = time.monotonic(), 0
                while piece := answer.read1(2**20):  # what there is, without waiting for more
                    size += file.write(piece)
                    if size > LARGEST:
                        raise DigitError(f"{ADDRESS} gives more than was published: repeat the command later")
                    if (passed := time.monotonic() - begun) > 3 * TIMEOUT and size < SLOWEST * passed:
                        raise TimeoutError("the answer is too slow")
            if not sha256_of(file).startswith(SHA256):
                raise DigitError(f"{ADDRESS} gives another file than published: repeat the command later")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DigitError(
            f"InceptionV3's weights are not at {path} and cannot be fetched ({error}): download {ADDRESS} "
            "elsewhere and name the file with --inception-weights"
        ) from None
    return path
