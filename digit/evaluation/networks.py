"""pixels -> features, class probabilities: the networks that measure, each named after its weights."""

import contextlib
import hashlib
import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.errors import DigitError
from digit.evaluation.classifier import Classifier
from digit.evaluation.squeezenet import SqueezeNet
from digit.files import read_safetensors, sha256_file
from digit.nn.backbone import create, timm
from digit.weights.artifact import describe, load

INCEPTION = "inceptionv3"  # the name of FID's network; with any other weights the name carries their hash
_INCEPTION_SHA256 = "6726825d"  # how the sha256 of torch-fidelity's file begins
_INCEPTION_FILE = f"weights-inception-2015-12-05-{_INCEPTION_SHA256}.pth"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Outputs(NamedTuple):
    """What a network says of b pictures; float32."""

    features: Float[Tensor, "b d"]
    probabilities: Float[Tensor, "b c"] | None  # None if it classifies nothing


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network; make one with `open_network`, or `classifier_network` from a classifier at hand."""

    name: str  # such as squeezenet1_1-1f0c2a77: the family and the start of `sha256`
    sha256: str  # over the weights, as 64 hexadecimal digits
    module: nn.Module
    forward: Callable[[Tensor], tuple[Tensor, Tensor | None]]  # pixels in [0, 1] -> features, logits
    classes: tuple[str, ...] = ()  # names of the classes, in the order of the probabilities; () if unknown

    def outputs(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Outputs:
        """Features and probabilities of uint8 pixels, or float ones in [0, 1], on the module's device.

        Convolutions run in full float32 (no TF32), or in bfloat16 if the caller has autocast on.
        """
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
        with torch.inference_mode(), _no_tf32():
            features, logits = self.forward(pixels)
            return Outputs(features.float(), None if logits is None else logits.float().softmax(1))

    def features(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features alone."""
        return self.outputs(pixels).features

    def probabilities(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"] | None:
        """The class probabilities alone; None if the network has no classes."""
        return self.outputs(pixels).probabilities

    def metric(self, kind: str) -> str:
        """A metric's name on these features: FD is called FID on FID's own network only, else FD-<name>."""
        if self.name == INCEPTION:
            return "FID" if kind == "FD" else kind
        return f"{kind}-{self.name}"


def open_network(
    spec: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Network:
    """The network that `spec` names, frozen, on `device`.

    classifier:DIR (a classifier's artifact), inception (FID's InceptionV3, `weights` its file), timm:NAME
    (`weights` a safetensors file, or None to download them), squeezenet:FILE.safetensors. Raises DigitError
    on anything else, and when weights are missing or do not fit.
    """
    kind, _, rest = spec.partition(":")
    if kind == "classifier" and rest:
        network = _open_classifier(Path(rest))
    elif kind == "inception":
        network = _open_inception(weights or rest)
    elif kind == "timm" and rest:
        network = _open_timm(rest, None if weights is None else Path(weights))
    elif kind == "squeezenet" and (weights or rest):
        network = _open_squeezenet(Path(weights or rest))
    else:
        raise DigitError(
            f"no network {spec!r}: give classifier:DIR, inception, timm:NAME or squeezenet:FILE.safetensors"
        )
    network.module.to(device)
    return network


def classifier_network(classifier: Classifier, *, classes: Sequence[str] = ()) -> Network:
    """A trained classifier as a network; it is switched to eval mode."""

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = classifier.features(pixels)
        return features, classifier.head(features)

    return _network("classifier", classifier, forward, classes)


def weights_sha256(module: nn.Module) -> str:
    """sha256 over the names and values of a module's floating-point tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.is_floating_point():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _network(
    family: str,
    module: nn.Module,
    forward: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    classes: Sequence[str] = (),
) -> Network:
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
    module = SqueezeNet(classes)
    _load(module, tensors, path)

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return module.pooled(_standardise(pixels, (224, 224), _MEAN, _STD))

    return _network("squeezenet1_1", module, forward, _imagenet_classes(classes))


def _open_timm(name: str, weights: Path | None) -> Network:
    module: Any = create(name, weights=weights, pretrained=weights is None)
    inputs = timm.data.resolve_model_data_config(module)
    _, height, width = inputs["input_size"]

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        maps = module.forward_features(_standardise(pixels, (height, width), inputs["mean"], inputs["std"]))
        logits = module.forward_head(maps) if module.num_classes else None
        return module.forward_head(maps, pre_logits=True), logits

    return _network(name, module, forward, _imagenet_classes(module.num_classes))


def _open_inception(weights: str | Path) -> Network:
    if not weights or not Path(weights).is_file():
        raise DigitError(
            f"{weights or 'the file of InceptionV3'} is not here: download {_INCEPTION_FILE} from"
            " torch-fidelity's releases (v0.2.0) and name it by --feature-weights"
        )
    path = Path(weights)
    official = path.suffix == ".pth" and sha256_file(path).startswith(_INCEPTION_SHA256)
    if path.suffix != ".safetensors" and not official:
        raise DigitError(
            f"{path} is not {_INCEPTION_FILE} (its sha256 differs): download it again, or give safetensors"
        )
    state = torch.load(path, map_location="cpu", weights_only=True) if official else read_safetensors(path)
    module = _inception(state, path)

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        # The published network reads bytes; pictures that were bytes come back exactly.
        return module((pixels * 255).round().clamp(0, 255).to(torch.uint8))

    network = _network(INCEPTION, module, forward)
    if official:
        return Network(INCEPTION, network.sha256, module, forward)
    return network


def _inception(state: dict[str, Tensor], path: Path) -> nn.Module:
    try:
        extractor = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError:
        raise DigitError("FID needs torch-fidelity: pip install torch-fidelity") from None
    # Its constructor reads a pickle without restraint, so it gets a file of tensors that were read safely.
    with tempfile.TemporaryDirectory() as folder:
        safe = Path(folder) / "inception.pth"
        torch.save(state, safe)
        try:
            return extractor.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(safe)
            )
        except RuntimeError as error:
            raise DigitError(
                f"{path} does not hold this InceptionV3's tensors ({error}): download it again"
            ) from None


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise DigitError(f"{path} does not fit this network ({error}): convert it again") from None


def _standardise(
    pixels: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def _imagenet_classes(number: int) -> tuple[str, ...]:
    return tuple(timm.data.ImageNetInfo().label_names()) if number == 1000 else ()


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    # TF32 keeps 10 bits: enough to move a published distance in its second decimal.
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
