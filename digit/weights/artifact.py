"""An artifact: a folder with config.json (what it is, what it was made from) and model.safetensors."""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from digit.calls import checked
from digit.entries import Named, Text, entries
from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig
from digit.files import clean_up, make_folder, read_json, write_json_atomic
from digit.locks import locked
from digit.nn.backbone import DINOV3_LICENCE
from digit.nn.checks import check_device
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.nn.linear_probe import Probe, ProbeConfig
from digit.opening import open_regular, sha256_of
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_flow import FlowConfig, FlowRenderer
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.tensors import check_finite, shapes_in, tensors_in, write_safetensors_atomic
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.foreign import misfits
from digit.weights.outline import build, check_numbers, outline
from digit.weights.storage import (
    StoredAs,
    changed,
    fingerprint,
    from_dict,
    pack,
    to_dict,
    unpack,
    unpacked_shapes,
)

KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "encoder": (Encoder, EncoderConfig),
    "tokenizer": (Tokenizer, TokenizerConfig),
    "vqgan": (VQGAN, VQGANConfig),
    "prior": (Prior, PriorConfig),
    "renderer": (Renderer, RendererConfig),
    "renderer_masked": (MaskedRenderer, MaskedConfig),
    "renderer_flow": (FlowRenderer, FlowConfig),
    "classifier": (Classifier, ClassifierConfig),
    "probe": (Probe, ProbeConfig),
}
FORMAT = 1  # raised when an older digit could no longer read what is written
CONFIG, MODEL = "config.json", "model.safetensors"
_TYPES: dict[str, Any] = {  # of what a config.json holds
    "kind": Named,
    "id": Named,
    "stored_as": StoredAs,
    "config": dict[str, Any],
    "lineage": dict[str, Text],
    "files": dict[str, str],
    "classes": list[Text],
    "made_by": dict[str, Any] | None,
    "extra": dict[str, Any] | None,
}
LOW_PRECISION = (
    "prior",
    "renderer",
    "renderer_masked",
    "renderer_flow",
)  # kinds whose weights may be bfloat16 or float16


@checked
def save(
    module: nn.Module,
    path: str | Path,
    *,
    lineage: dict[str, str] | None = None,
    classes: list[str] | None = None,
    extra: dict[str, Any] | None = None,
    stored_as: StoredAs = "float32",
    id: str | None = None,
) -> str:
    """Write `module` (with its settings in `module.config`) to the folder `path`; its id.

    `lineage` maps a word such as "tokenizer" to the id of what this was made from; `classes` are the names of
    the labels. The id is the sha256 of settings and float32 weights; pass the id of the original when it is
    only stored in another way, so that what was made from it still fits. DigitError where the folder cannot
    be written, or another process is just writing there.
    """
    path, kind, tensors = Path(path), kind_of(module), _tensors(module)
    _check_known(module)
    config: Any = module.config
    id = id or identity(module)
    # Buffers stay exact: centroids and codebooks decide which code is the nearest.
    if isinstance(module, Tokenizer):
        extra = {"size": module.size, **(extra or {})}
    extra = {**_origin(module.encoder if isinstance(module, Tokenizer) else module), **(extra or {})}
    encoder = config if isinstance(config, EncoderConfig) else getattr(config, "encoder", None)
    if isinstance(encoder, EncoderConfig) and "_dinov3" in encoder.name:
        extra = {**(extra or {}), "licence": DINOV3_LICENCE}
    exact = set(tensors) - {name.replace("_orig_mod.", "") for name, _ in module.named_parameters()}
    try:
        make_folder(path)
        with locked(
            path, f"another process is writing an artifact into {path}: wait, or choose --out", again=True
        ):
            clean_up(path)
            digest = write_safetensors_atomic(
                path / MODEL, pack(tensors, stored_as, exact=exact), metadata={"artifact": f"{kind} {id}"}
            )
            value = {
                "format": FORMAT,
                "kind": kind,
                "id": id,
                "config": to_dict(config),
                "lineage": lineage or {},
                "classes": classes or [],
                "stored_as": stored_as,
                "made_by": {"digit": version(), "torch": torch.__version__},
                "files": {MODEL: digest},
                "extra": extra or {},
            }
            write_json_atomic(path / CONFIG, value, checksum=True)
    except OSError as error:
        raise DigitError(f"{path} cannot be written ({error}): make room or choose another folder") from error
    return id


def _origin(encoder: nn.Module) -> dict[str, str]:
    """Licence and place of an encoder's weights: as timm has them, or the artifact that it came from."""
    told = (getattr(encoder, "artifact", {}).get("extra") or {}) | getattr(encoder, "origin", {})
    names = ("licence", "base_model") if isinstance(encoder, Encoder) else ()
    return {name: told[name] for name in names if name in told}


def identity(module: nn.Module) -> str:
    """The id that `module` has as an artifact: the sha256 of its kind, settings and float32 weights.

    Settings at their defaults are left out, so that a setting which comes later changes no id.
    """
    config: Any = module.config
    return fingerprint(json.dumps([kind_of(module), changed(config)], sort_keys=True), _tensors(module))


@checked
def load(
    path: str | Path,
    *,
    kind: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The module of an artifact, in eval mode on `device`; `.artifact` is its config.json as a dictionary.

    `dtype` is that of the weights, float32 if left out; only priors and renderers take another, since nearest
    neighbours need float32. DigitError when the folder or a file is absent or damaged, when it is not of
    `kind`, when settings or tensors do not fit, when a weight is NaN or infinite, or when a newer digit wrote
    it.
    """
    path, device = Path(path), check_device(device)
    artifact = _described(path, kind)
    stage_type, config_type = classes_of(artifact["kind"])
    if dtype is not None and not dtype.is_floating_point:
        raise DigitError(f"dtype: give a floating point one, such as torch.bfloat16, not {dtype}")
    if dtype not in (None, torch.float32) and artifact["kind"] not in LOW_PRECISION:
        raise DigitError(
            f"{path} is a {artifact['kind']}, which works in float32 only: load it without a dtype"
        )
    check_numbers(artifact["config"], path / CONFIG)
    config = from_dict(config_type, artifact["config"], where=str(path / CONFIG))
    _check_classes(config, artifact["classes"], path / CONFIG)
    layout = outline(stage_type, config, where=path / CONFIG)
    with _weights(path, artifact) as file:
        # Before a tensor is read or made: settings that do not fit could ask for any amount of memory.
        if problems := misfits(unpacked_shapes(shapes_in(file, path / MODEL)), layout):
            raise DigitError(f"{path / MODEL} does not fit its settings: tensors {problems}")
        tensors = unpack(tensors_in(file, path / MODEL))
    check_finite(tensors, path / MODEL)
    module = build(stage_type, config, layout)
    module.load_state_dict(tensors)
    module.artifact = artifact
    return module.to(device, dtype).eval()


def artifact_of(module: nn.Module) -> dict[str, Any]:
    """The config.json of the artifact that `load` made `module` from; DigitError if it was not loaded."""
    artifact = getattr(module, "artifact", None)
    if not isinstance(artifact, dict):
        raise DigitError(f"this {type(module).__name__} comes from no artifact: save it and load it first")
    return artifact


def verify(path: str | Path, *, kind: str | None = None) -> dict[str, Any]:
    """The config.json of an artifact whose tensors are the ones it describes; nothing is made of them.

    DigitError when the folder or a file is absent or damaged, and when it is not of `kind`.
    """
    path = Path(path)
    artifact = _described(path, kind)
    with _weights(path, artifact):
        return artifact


def _described(path: Path, kind: str | None) -> dict[str, Any]:
    """The config.json of an artifact; DigitError when it is not of `kind`, if one is given."""
    artifact = describe(path)
    if kind is not None and artifact["kind"] != kind:
        raise DigitError(f"{path} is a {artifact['kind']}, where a {kind} is needed")
    return artifact


@contextlib.contextmanager
def _weights(path: Path, artifact: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """The open file of the tensors that `artifact` describes: these very bytes were compared with it."""
    try:
        file = open_regular(path / MODEL)
    except FileNotFoundError:
        raise DigitError(f"{path / MODEL} does not exist: copy the whole folder") from None
    except OSError as error:
        raise DigitError(f"{path / MODEL} cannot be read ({error.strerror}): copy the whole folder") from None
    with file:
        if sha256_of(file) != artifact["files"].get(MODEL):
            raise DigitError(
                f"{path / MODEL} is not the file that {CONFIG} describes (sha256 differs): copy both again"
            )
        yield file


def describe(path: str | Path) -> dict[str, Any]:
    """The config.json of an artifact, checked to be one; its tensors are not read."""
    path = Path(path)
    if not path.is_dir():
        raise DigitError(f"{path} is not a folder: an artifact is a folder with {CONFIG} and {MODEL}")
    if not (path / CONFIG).is_file():
        raise DigitError(
            f"{path} holds no {CONFIG}: it is not an artifact, or its training has not saved one yet"
        )
    artifact = read_json(path / CONFIG)
    if not isinstance(artifact, dict) or not isinstance(artifact.get("format"), int):
        raise DigitError(f"{path / CONFIG} does not describe an artifact")
    if artifact["format"] > FORMAT:
        raise DigitError(f"{path} was written by a newer digit (format {artifact['format']}): upgrade digit")
    entries(artifact, _TYPES, where=path / CONFIG)
    return artifact


def kind_of(module: nn.Module) -> str:
    """The kind of a module; DigitError if it is not one that artifacts hold."""
    for kind, (stage, _) in KINDS.items():
        if type(module) is stage:
            return kind
    names = ", ".join(stage.__name__ for stage, _ in KINDS.values())
    raise DigitError(f"a {type(module).__name__} cannot be an artifact: it must be one of {names}")


def _check_known(module: nn.Module) -> None:
    """DigitError for a tokenizer whose encoder is code of somebody's: a file names no code."""
    encoder = getattr(module, "encoder", None)
    if isinstance(module, Tokenizer) and type(encoder) is not Encoder:
        raise DigitError(
            "a tokenizer of an encoder of your own cannot be saved, since artifacts hold no code: name it on "
            "the command line as --tokenizer module:object (docs/own-parts.md)"
        )


def classes_of(kind: str) -> tuple[type[Any], type[Any]]:
    """The module and the settings of a kind; DigitError if there is no such kind."""
    if kind not in KINDS:
        raise DigitError(f"there is no artifact kind {kind[:40]!r}: the kinds are {', '.join(KINDS)}")
    return KINDS[kind]


def _check_classes(config: Any, names: Sequence[str], path: Path) -> None:
    """DigitError where there are other numbers of names of classes and of rows for them."""
    rows = getattr(config, "classes", 0)
    if names and rows and len(names) != rows:
        raise DigitError(f"{path} names {len(names):,} classes, its tensors are of {rows:,}: copy it again")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """By the names they have outside of torch.compile."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}


def version() -> str:
    """The version of this package, or a word that it is not installed."""
    try:
        return importlib.metadata.version("digit-image")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
