"""Any timm network from a name or a local file: encoders, perceptual losses, measurements."""

import difflib
import importlib
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.errors import DigitError, first_line
from digit.printing import listed
from digit.progress import say
from digit.tensors import check_finite, read_safetensors

DINOV3_LICENCE = (
    "the weights are under Meta's DINOv3 License, to be read before they, or what is made with them, are "
    "used or passed on: https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
)


@cache
def timm() -> ModuleType:
    """timm, imported when first asked for, which takes a second; also beside a CPU build of torch.

    PyPI's torchvision is built against CUDA. Beside a CPU-only torch its compiled operators do not load, and
    its import then fails where it describes them ("operator torchvision::nms does not exist"), though timm
    needs only its transforms. Declaring the named schemas, without implementation, lets the import through;
    calling one still fails. Raises DigitError for a timm that is too old.
    """
    while True:
        try:
            module = importlib.import_module("timm")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None or missing[1] in _declared:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            _declared[missing[1]] = library
            for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "timm")]:
                del sys.modules[name]
            continue
        # Older ones build no network on the meta device, by which artifacts are checked.
        if tuple(map(int, re.findall(r"\d+", module.__version__)[:3])) < (1, 0, 21):
            raise DigitError(f"timm {module.__version__} is too old: install timm 1.0.21 or newer")
        return module


_declared: dict[str, torch.library.Library] = {}


class Standardize(nn.Module):
    """Pixels in [0, 1] to the scale a network was trained on; ImageNet's mean and deviation by default."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Standardised pixels."""
        return (pixels - self.mean) / self.std


def as_floats(pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Pixels in [0, 1] of uint8 ones; floats as they are, also where they were disturbed beyond that."""
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels


def in_range(pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Pixels in [0, 1] of uint8 ones, or of floats that are in this range, but for rounding.

    Raises:
        DigitError: another shape or kind of numbers, or floats outside: codes of such would mean nothing.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise DigitError(f"pixels have the shape {tuple(pixels.shape)}: give (pictures, 3, height, width)")
    if pixels.dtype != torch.uint8:
        kind = str(pixels.dtype).removeprefix("torch.")
        if not pixels.is_floating_point():
            raise DigitError(f"pixels are {kind}: give uint8, or floats in [0, 1]")
        if len(pixels):
            low, high = (float(each) for each in pixels.aminmax())
            if not (low >= -1e-3 and high <= 1.001):
                raise DigitError(f"pixels go from {low:.4g} to {high:.4g}: give uint8, or floats in [0, 1]")
    return as_floats(pixels)


def pretrained_settings(name: str) -> Any:
    """What timm knows of the weights of a network: input_size, mean, std, license; None of a name that is not
    timm's."""
    try:
        return timm().models.get_pretrained_cfg(name)
    except RuntimeError:  # no weights of this tag
        return None


def licence_of(name: str) -> str | None:
    """The licence that timm names for the weights it hosts by this name, a sentence for DINOv3, or None."""
    licence = getattr(pretrained_settings(name), "license", None)
    return DINOV3_LICENCE if "_dinov3" in name or licence == "dinov3-license" else licence


def create(
    name: str, *, weights: Path | None = None, pretrained: bool = False, **arguments: Any
) -> nn.Module:
    """The timm network `name`, random, from a local file, or downloaded (`pretrained`).

    `arguments` go to timm. Raises DigitError for an unknown name, arguments the network does not take, a file
    that does not fit, or a download that fails. The licence is said of weights that are fetched, and of
    DINOv3's in a file too.
    """
    if not timm().is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm().list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() lists the names"
        raise DigitError(f"timm has no network named {name!r}{hint}")
    licence = licence_of(name)
    if licence and ((pretrained and weights is None) or (licence == DINOV3_LICENCE and weights is not None)):
        say(
            f"{name}: {licence if licence == DINOV3_LICENCE else f'the licence that timm names is {licence}'}"
        )
    if pretrained and weights is None:
        try:
            return timm().create_model(name, pretrained=True, **arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise DigitError(
                f"the weights of {name} could not be downloaded ({first_line(error)}): "
                "give a local .safetensors file, for an encoder with --encoder-weights"
            ) from error
    own = sorted(set(arguments) & set(inspect.signature(timm().create_model).parameters))
    if own:  # such as checkpoint_path, by which timm would open a file: a model's settings must not
        raise DigitError(
            f"{name} does not take these arguments ({', '.join(own)} is no setting of a network)"
        )
    try:
        module = timm().create_model(name, pretrained=False, **arguments)
    except (TypeError, AssertionError, ValueError, ArithmeticError, RuntimeError) as error:
        raise DigitError(f"{name} does not take these arguments ({first_line(error)})") from error
    if weights is not None:
        load_weights(module, weights, name)
    return module


def load_weights(module: nn.Module, path: Path, name: str) -> None:
    """Fill a timm network from a .safetensors file, strictly, after timm's own conversion of official files.

    A classification head in the file that the network was built without (num_classes=0) is left out. Raises
    DigitError that lists missing, unexpected and wrongly shaped tensors, or those that are not finite;
    messages call the network `name`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DigitError(f"{path} is not a .safetensors file; `digit convert` makes one")
    if not path.exists():
        raise DigitError(f"there is no file {path} with the weights of {name}")
    tensors = read_safetensors(path)
    if "storage_tokens" in tensors:  # timm would drop its biases without a word
        raise DigitError(f"{path} has the names of DINOv3's authors: `digit convert` makes an encoder of it")
    check_finite(tensors, path)
    tensors = _convert(module, tensors, path, name)
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    head = module.get_classifier() if hasattr(module, "get_classifier") else None  # pyright: ignore[reportCallIssue]
    if isinstance(head, nn.Identity):
        names = (getattr(module, "default_cfg", None) or {}).get("classifier") or ()
        heads = {each.split(".")[0] for each in ((names,) if isinstance(names, str) else names)}
        # SigLIP's pool, where the network was built without one.
        heads |= {"attn_pool"} if getattr(module, "attn_pool", True) is None else set()
        tensors = {k: v for k, v in tensors.items() if k in expected or k.split(".")[0] not in heads}
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} is {tuple(tensors[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    if problems:
        hint = "; `digit convert` reads it" if "embeddings.cls_token" in tensors else ""
        raise DigitError(f"{path} does not fit {name}: {listed(problems)}{hint}")
    module.load_state_dict(tensors)


def _convert(module: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> dict[str, Tensor]:
    source = inspect.getmodule(type(module))
    convert = getattr(source, "checkpoint_filter_fn", None)
    expected = {key: value.shape for key, value in module.state_dict().items()}
    if convert is None or {key: value.shape for key, value in tensors.items()} == expected:
        return tensors
    try:
        return convert(tensors, module)
    except (KeyError, AttributeError, RuntimeError, ValueError, AssertionError) as error:
        raise DigitError(f"{path} does not fit {name}: timm fails on it ({first_line(error)})") from error
