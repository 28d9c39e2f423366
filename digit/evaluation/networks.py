"""pixels -> features, class probabilities: the networks that measure, each named after its weights."""

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.calls import checked
from digit.errors import DigitError
from digit.evaluation.inception import read_inception
from digit.features import encoder_config, resize_positions
from digit.nn.backbone import create, timm
from digit.nn.classifier import Classifier
from digit.tensors import read_safetensors
from digit.weights.artifact import describe, load

AT_ONCE = 256  # pictures; maps of 224 px of 2,500 pictures would take 15 GB
INCEPTION = "inceptionv3"  # the name of FID's network; with any other weights the name carries their hash
_OFFICIAL = {"FD": "FID", "sFD": "sFID", "KD": "KID", "KD deviation": "KID deviation"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Outputs(NamedTuple):
    """What a network says of b pictures; float32."""

    features: Float[Tensor, "b d"]
    probabilities: Float[Tensor, "b c"] | None  # None if it classifies nothing
    spatial: Float[Tensor, "b s"] | None = None  # for sFID; InceptionV3 alone has them


Forward = Callable[[Tensor], tuple[Any, ...]]  # pixels in [0, 1] -> features, logits, maybe spatial


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network; make one with `open_network`, or `classifier_network` from a classifier at hand."""

    name: str  # such as squeezenet1_1-1f0c2a77: the family and the start of `sha256`
    sha256: str  # over the weights, as 64 hexadecimal digits
    module: nn.Module
    forward: Forward
    classes: tuple[str, ...] = ()  # names of the classes, in the order of the probabilities; () if unknown

    def outputs(self, pixels: Shaped[Tensor, "b 3 h w"], *, tf32: bool = False) -> Outputs:
        """Features and probabilities of uint8 pixels, or float ones in [0, 1], on the module's device.

        Convolutions run in full float32, with `tf32` in TensorFloat32 on GPUs that have it, or in bfloat16 if
        the caller has autocast on.
        """
        with torch.inference_mode(), _arithmetic(tf32):
            parts = [self._outputs(part) for part in pixels.split(AT_ONCE)]
            if len(parts) == 1:
                return parts[0]
            features = torch.cat([part.features for part in parts])
            return Outputs(features, *(_joined([part[i] for part in parts]) for i in (1, 2)))

    def _outputs(self, pixels: Tensor) -> Outputs:
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
        features, logits, *spatial = self.forward(pixels)
        probabilities = None if logits is None else logits.float().softmax(1)
        return Outputs(features.float(), probabilities, spatial[0].float() if spatial else None)

    def metric(self, kind: str) -> str:
        """A metric's name on these features: FID, sFID, KID on FID's own network only, else FD-<name>, ..."""
        return _OFFICIAL.get(kind, kind) if self.name == INCEPTION else f"{kind}-{self.name}"


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


@checked
def open_network(
    spec: str, *, inception_weights: Path | None = None, device: str | torch.device = "cpu"
) -> Network:
    """The network that `spec` names, frozen, on `device`.

    inception (FID's InceptionV3, from the file `inception_weights` or fetched), dinov2-s|b|l (class token at
    224 px; FD-DINOv2 of arXiv:2306.04675 is dinov2-l), timm:NAME, classifier:FOLDER (a classifier's
    artifact), squeezenet:FILE.safetensors. dinov2-l=FILE and timm:NAME=FILE take weights from a safetensors
    file in place of downloading them. Raises DigitError on anything else, and when weights are missing or do
    not fit.
    """
    kind, _, rest = spec.partition(":")
    name, _, file = (rest if kind == "timm" else spec).partition("=")
    weights = Path(file) if file else None
    if kind == "classifier" and rest:
        network = _open_classifier(Path(rest))
    elif spec == "inception":
        network = _open_inception(inception_weights)
    elif kind == "timm" and name:
        network = _open_timm(name, weights)
    elif name in ("dinov2-s", "dinov2-b", "dinov2-l"):
        network = _open_dinov2(name, weights)
    elif kind == "squeezenet" and rest:
        network = _open_squeezenet(Path(rest))
    else:
        raise DigitError(
            f"no network {spec!r}: give inception, dinov2-l, timm:NAME, classifier:FOLDER or "
            "squeezenet:FILE.safetensors"
        )
    network.module.to(device)
    return network


def classifier_network(classifier: Classifier, *, classes: Sequence[str] = ()) -> Network:
    """A trained classifier as a network; it is switched to eval mode."""

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = classifier.features(pixels)
        return features, classifier.head(features)

    return _network("classifier", classifier, forward, classes)


def squeezenet(classes: int = 1000) -> Any:
    """torchvision's SqueezeNet 1.1 (arXiv:1602.07360) without weights, which takes pictures of 224 px."""
    timm()  # lets torchvision be imported
    with torch.random.fork_rng([]):  # random weights, which are thrown away
        return importlib.import_module("torchvision.models").squeezenet1_1(num_classes=classes)


def weights_sha256(module: nn.Module) -> str:
    """sha256 over the names and values of a module's floating-point tensors, whatever file they came from."""
    return _tensors_sha256(module.state_dict())


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _network(family: str, module: nn.Module, forward: Forward, classes: Sequence[str] = ()) -> Network:
    module.eval().requires_grad_(False)
    sha256 = weights_sha256(module)
    return Network(f"{family}-{sha256[:8]}", sha256, module, forward, tuple(classes))


def _open_classifier(path: Path) -> Network:
    classifier = load(path, kind="classifier")
    assert isinstance(classifier, Classifier)
    return classifier_network(classifier, classes=describe(path)["classes"])


def _open_squeezenet(path: Path) -> Network:
    tensors = read_safetensors(path)
    classes = len(tensors.get("classifier.1.bias", torch.empty(1000)))
    module = squeezenet(classes)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise DigitError(f"{path} does not fit this network ({error}): convert it again") from None

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = module.features(_standardise(pixels, (224, 224), _MEAN, _STD))
        return maps.mean((2, 3)), module.classifier(maps).flatten(1)

    return _network("squeezenet1_1", module, forward, _imagenet_classes(classes))


def _open_timm(name: str, weights: Path | None) -> Network:
    module: Any = create(name, weights=weights, pretrained=weights is None)
    inputs = timm().data.resolve_model_data_config(module)
    _, height, width = inputs["input_size"]

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        maps = module.forward_features(_standardise(pixels, (height, width), inputs["mean"], inputs["std"]))
        logits = module.forward_head(maps) if module.num_classes else None
        return module.forward_head(maps, pre_logits=True), logits

    return _network(name, module, forward, _imagenet_classes(module.num_classes))


def _open_dinov2(name: str, weights: Path | None) -> Network:
    config = encoder_config(name)
    vit: Any = create(config.name, weights=weights, pretrained=weights is None, num_classes=0)
    before, prefix = vit.patch_embed.grid_size, vit.num_prefix_tokens
    learned = vit.pos_embed[:, prefix:].detach().clone()
    vit.set_input_size(img_size=(config.image_size, config.image_size))
    with torch.no_grad():
        # As DINOv2's own code resizes positions from 518 px, which timm does not.
        vit.pos_embed[:, prefix:] = resize_positions(learned, before, vit.patch_embed.grid_size, "reference")
    side = (config.image_size, config.image_size)

    def forward(pixels: Tensor) -> tuple[Tensor, None]:
        return vit.forward_features(_standardise(pixels, side, config.mean, config.std))[:, 0], None

    return _network(name, vit, forward)


def _open_inception(weights: Path | None) -> Network:
    file = read_inception(weights)
    # Channels last is faster, measured on CPUs; results agree to rounding.
    module: Any = file.module
    module.to(memory_format=torch.channels_last)

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The published network reads bytes; pictures that were bytes come back exactly.
        pooled, spatial, logits = module((pixels * 255).round().clamp(0, 255))
        return pooled, logits, spatial

    # The published file's own hash, which others publish too; of any other file the hash of its tensors.
    sha256 = file.sha256 if file.official else _tensors_sha256(file.tensors)
    return Network(INCEPTION if file.official else f"{INCEPTION}-{sha256[:8]}", sha256, module, forward)


def _standardise(
    pixels: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def _imagenet_classes(number: int) -> tuple[str, ...]:
    return tuple(timm().data.ImageNetInfo().label_names()) if number == 1000 else ()


@contextlib.contextmanager
def _arithmetic(tf32: bool) -> Iterator[None]:
    # TF32 keeps 10 bits: enough to move a published distance in its second decimal.
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
