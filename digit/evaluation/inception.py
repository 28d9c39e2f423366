"""pixels -> pooled and spatial features, logits: the InceptionV3 of FID (2015-12-05, ported from TensorFlow).

Its own few lines, so that measuring needs no other package: the tensors' names and the padding of its pools
are those of torch-fidelity's file, which is given, in its cache or fetched from its releases, and the batch
norms are folded into the convolutions.
"""

import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.errors import DigitError
from digit.files import atomic_path, sha256_file
from digit.weights.foreign import Layout, check_layout, read

SIDE = 299  # px that the network sees
WIDTH, CLASSES = 2048, 1008
SPATIAL = 7  # channels of the spatial features: the first of "mixed_6/conv" (arXiv:2103.03841)
_EPSILON = 1e-3  # of its batch norms
SHA256 = "6726825d"  # how the sha256 of the published file begins
NAME = f"weights-inception-2015-12-05-{SHA256}.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
TIMEOUT = 20.0  # seconds without an answer


class Conv(NamedTuple):
    """A convolution with batch norm and ReLU; at stride 2, or without `pad`, it has no border."""

    name: str
    channels: int
    kernel: int | tuple[int, int]
    stride: int = 1
    pad: bool = True


class Fork(NamedTuple):
    """Two convolutions of the same input, joined."""

    first: Conv
    second: Conv


Step = Conv | Fork | Literal["mean", "max", "half"]  # 3x3 pools: stride 1 (mean without the border), stride 2
Branches = list[list[Step]]


def _block_5(pooled: int) -> Branches:
    return [
        [Conv("branch1x1", 64, 1)],
        [Conv("branch5x5_1", 48, 1), Conv("branch5x5_2", 64, 5)],
        [Conv("branch3x3dbl_1", 64, 1), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)],
        ["mean", Conv("branch_pool", pooled, 1)],
    ]


def _block_6(inner: int) -> Branches:
    double = [Conv("branch7x7dbl_1", inner, 1)]
    for number, kernel in zip((2, 3, 4, 5), ((7, 1), (1, 7), (7, 1), (1, 7)), strict=True):
        double.append(Conv(f"branch7x7dbl_{number}", 192 if number == 5 else inner, kernel))
    return [
        [Conv("branch1x1", 192, 1)],
        [
            Conv("branch7x7_1", inner, 1),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ],
        [*double],
        ["mean", Conv("branch_pool", 192, 1)],
    ]


def _block_7(pool: Literal["mean", "max"]) -> Branches:
    def fork(name: str) -> Fork:
        return Fork(Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1)))

    return [
        [Conv("branch1x1", 320, 1)],
        [Conv("branch3x3_1", 384, 1), fork("branch3x3_2")],
        [Conv("branch3x3dbl_1", 448, 1), Conv("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")],
        [pool, Conv("branch_pool", 192, 1)],
    ]


_STEM: list[Step] = [
    Conv("Conv2d_1a_3x3", 32, 3, 2),
    Conv("Conv2d_2a_3x3", 32, 3, pad=False),
    Conv("Conv2d_2b_3x3", 64, 3),
    "half",
    Conv("Conv2d_3b_1x1", 80, 1),
    Conv("Conv2d_4a_3x3", 192, 3, pad=False),
    "half",
]
_SHRINK_6: Branches = [
    [Conv("branch3x3", 384, 3, 2)],
    [Conv("branch3x3dbl_1", 64, 1), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, 2)],
    ["half"],
]
_SHRINK_7: Branches = [
    [Conv("branch3x3_1", 192, 1), Conv("branch3x3_2", 320, 3, 2)],
    [
        Conv("branch7x7x3_1", 192, 1),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, 3, 2),
    ],
    ["half"],
]
_BLOCKS: dict[str, Branches] = {
    "Mixed_5b": _block_5(32),
    "Mixed_5c": _block_5(64),
    "Mixed_5d": _block_5(64),
    "Mixed_6a": _SHRINK_6,
    "Mixed_6b": _block_6(128),
    "Mixed_6c": _block_6(160),
    "Mixed_6d": _block_6(160),
    "Mixed_6e": _block_6(192),
    "Mixed_7a": _SHRINK_7,
    "Mixed_7b": _block_7("mean"),
    "Mixed_7c": _block_7("max"),
}


class Features(NamedTuple):
    """What the network says of b pictures."""

    pooled: Float[Tensor, "b 2048"]  # FID's
    spatial: Float[Tensor, "b 2023"]  # sFID's: 17 rows x 17 columns x 7 channels, channels last as in ADM
    logits: Float[Tensor, "b 1008"]  # without the bias, as the inception score takes them


class Inception(nn.Module):
    """InceptionV3 with random weights; `fill` gives it published ones. Inference only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, channels = _chain(_STEM, 3, "")
        self.blocks = nn.ModuleDict()
        for name, branches in _BLOCKS.items():
            self.blocks[name] = block = _Block(branches, channels, f"{name}.")
            channels = block.channels
        assert channels == WIDTH
        self.head = nn.Parameter(torch.randn(CLASSES, WIDTH) / WIDTH**0.5)
        self.requires_grad_(False).eval()

    def layout(self) -> Layout:
        """Shapes of the tensors of torch-fidelity's file, by their names in it."""
        shapes: dict[str, tuple[int, ...]] = {"fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}
        for conv in self._convolutions():
            shapes[f"{conv.source}.conv.weight"] = tuple(conv.weight.shape)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{conv.source}.bn.{part}"] = (conv.out_channels,)
        return shapes

    def fill(self, tensors: Mapping[str, Tensor], *, where: str) -> None:
        """Take weights by torch-fidelity's names of them; DigitError, naming `where`, if they do not fit."""
        check_layout(
            {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")},
            self.layout(),
            where=where,
        )
        for conv in self._convolutions():
            norm = {
                part: tensors[f"{conv.source}.bn.{part}"].double()
                for part in ("weight", "bias", "running_mean", "running_var")
            }
            scale = norm["weight"] / (norm["running_var"] + _EPSILON).sqrt()
            conv.weight.copy_(tensors[f"{conv.source}.conv.weight"].double() * scale.view(-1, 1, 1, 1))
            assert conv.bias is not None
            conv.bias.copy_(norm["bias"] - norm["running_mean"] * scale)
        self.head.copy_(tensors["fc.weight"])

    def forward(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Features:
        """Features and logits of pixels from 0 to 255 of any size."""
        x = (resize_as_tensorflow(pixels.float(), SIDE) - 128) / 128
        x = self.stem(x)
        spatial = None
        for name, block in self.blocks.items():
            x = block(x)
            if name == "Mixed_6d":  # TensorFlow's "mixed_6"; its first branch is "mixed_6/conv"
                spatial = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        assert spatial is not None
        pooled = x.mean((2, 3))
        return Features(pooled, spatial, pooled @ self.head.T)

    def _convolutions(self) -> "list[_Convolution]":
        return [module for module in self.modules() if isinstance(module, _Convolution)]


class _Convolution(nn.Conv2d):
    """A convolution and ReLU; `source` is the name its tensors have in the file."""

    def __init__(self, conv: Conv, channels: int, source: str) -> None:
        kernel = conv.kernel if isinstance(conv.kernel, tuple) else (conv.kernel, conv.kernel)
        border = (kernel[0] // 2, kernel[1] // 2) if conv.pad and conv.stride == 1 else (0, 0)
        super().__init__(channels, conv.channels, kernel, conv.stride, border)
        self.source = source
        nn.init.kaiming_normal_(self.weight)  # so that random weights keep the scale of the features

    def forward(self, input: Tensor) -> Tensor:
        return F.relu_(super().forward(input))


class _Fork(nn.Module):
    def __init__(self, fork: Fork, channels: int, prefix: str) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_Convolution(conv, channels, prefix + conv.name) for conv in fork)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


class _Block(nn.Module):
    """Branches of one input, joined."""

    def __init__(self, branches: Branches, channels: int, prefix: str) -> None:
        super().__init__()
        chains = [_chain(steps, channels, prefix) for steps in branches]
        self.branches = nn.ModuleList(chain for chain, _ in chains)
        self.channels = sum(count for _, count in chains)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _chain(steps: list[Step], channels: int, prefix: str) -> tuple[nn.Sequential, int]:
    """The modules of a branch, and the channels that leave it."""
    modules: list[nn.Module] = []
    for step in steps:
        if isinstance(step, Conv):
            modules.append(_Convolution(step, channels, prefix + step.name))
            channels = step.channels
        elif isinstance(step, Fork):
            modules.append(_Fork(step, channels, prefix))
            channels = step.first.channels + step.second.channels
        elif step == "mean":
            modules.append(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
        else:
            modules.append(nn.MaxPool2d(3, 1, 1) if step == "max" else nn.MaxPool2d(3, 2))
    return nn.Sequential(*modules), channels


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
    with torch.random.fork_rng([]):  # building draws random weights, which are thrown away
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
        with atomic_path(path) as temporary:
            with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT) as answer, temporary.open("wb") as file:
                shutil.copyfileobj(answer, file)
            if not sha256_file(temporary).startswith(SHA256):
                raise DigitError(f"{ADDRESS} gives another file than published: repeat the command later")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DigitError(
            f"InceptionV3's weights are not at {path} and cannot be fetched ({error}): download {ADDRESS} "
            "elsewhere and name the file with --inception-weights"
        ) from None
    return path
