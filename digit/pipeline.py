"""labels, seeds -> pixels: prior, renderer and VQGAN composed; the tokenizer travels along."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from digit.errors import DigitError, LineageError
from digit.files import read_json, write_json_atomic
from digit.nn.pieces import at_once, state_of
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.tokenizer import Tokenizer
from digit.vqgan import VQGAN, decoding
from digit.weights.artifact import artifact_of, describe, load, save, verify
from digit.weights.config import from_dict

BUNDLED = "cifar10"  # the model that comes with the package

RendererName = Literal["autoregressive", "masked"]
RENDERERS: dict[RendererName, str] = {"autoregressive": "renderer", "masked": "renderer_masked"}


@dataclass(frozen=True)
class PipelineSampling:
    """How a pipeline draws unless told otherwise."""

    prior: SamplerConfig = field(default_factory=SamplerConfig)  # with labels
    prior_unconditional: SamplerConfig = field(default_factory=SamplerConfig)  # without labels
    renderer: SamplerConfig = field(default_factory=SamplerConfig)  # the autoregressive renderer
    masked: SamplerConfig = field(default_factory=SamplerConfig)  # the masked renderer
    masked_steps: int = 8  # its passes
    masked_noise: float = 4.5  # weight of its Gumbel noise on confidence


@dataclass(frozen=True)
class Pictures:
    """What a pipeline call returns; row i everywhere belongs to seed i."""

    pixels: UInt8[Tensor, "b 3 h w"]  # channels last in memory, as pictures have them
    codes: Int[Tensor, "b n"]
    vq_codes: Int[Tensor, "b m"]
    seeds: list[int]
    labels: list[int] | None
    settings: dict[str, Any]

    @cached_property
    def images(self) -> list[Image.Image]:
        """The pixels as pictures of Pillow, made when first asked for."""
        rows = self.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return [Image.fromarray(row) for row in rows]


class DigitPipeline:
    """The whole chain. Without a renderer the prior's codes are VQ codes (the paper's VQ-only baseline)."""

    def __init__(
        self,
        prior: Prior,
        vqgan: VQGAN,
        *,
        renderer: Renderer | None = None,
        renderer_masked: MaskedRenderer | None = None,
        tokenizer: Tokenizer | None = None,
        classes: Sequence[str] = (),
        sampling: PipelineSampling | None = None,
    ) -> None:
        """Compose trained stages.

        Raises:
            LineageError: the stages were not trained on each other's codes.
        """
        self.prior, self.vqgan, self.tokenizer = prior.eval(), vqgan.eval(), tokenizer
        self.renderer, self.renderer_masked = renderer, renderer_masked
        self.classes, self.sampling = list(classes), sampling or PipelineSampling()
        self._decode: tuple[tuple[tuple[int, int], ...], Callable[[Tensor], Tensor]] | None = None
        _check_together(self)

    @property
    def device(self) -> torch.device:
        """Where the stages are."""
        return next(self.prior.parameters()).device

    def to(self, device: torch.device | str) -> "DigitPipeline":
        """Move every stage to `device`; returns the pipeline itself."""
        for module in self._parts().values():
            module.to(device)
        return self

    def _parts(self) -> dict[str, torch.nn.Module]:
        named = {name: getattr(self, name) for name in PARTS}
        return {name: module for name, module in named.items() if module is not None}

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        parts: Sequence[str] | None = None,
    ) -> "DigitPipeline":
        """Open a pipeline: a folder, the name of a bundled model, or an `owner/name` on the hub.

        Args:
            path_or_name: nothing opens the bundled CIFAR-10 model.
            device: where to put the stages.
            parts: which of renderer, renderer_masked and tokenizer to open, all of them if left out, and a
                renderer of a model that has one: the pipeline lacks the others, whose files are checked
                nevertheless.

        Raises:
            DigitError: no such model, a file of it is missing or damaged, or an unknown part.
        """
        folder = locate(path_or_name)
        config = read_config(folder)
        sampling = from_dict(
            PipelineSampling, config["sampling"], where=f"{folder / 'config.json'}: sampling"
        )
        if unknown := set(parts or ()) - set(PARTS):
            raise DigitError(f"no parts {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
        modules: dict[str, Any] = {}
        artifacts: dict[str, dict[str, Any]] = {}
        for name, identity in config["parts"].items():
            if parts is None or name in (*parts, "prior", "vqgan"):
                modules[name] = load(folder / name, kind=name, device=device)
                artifacts[name] = artifact_of(modules[name])
            else:
                artifacts[name] = verify(folder / name, kind=name)
            if artifacts[name]["id"] != identity:
                raise LineageError(
                    f"{folder / name} is not the {name} this pipeline was saved with: restore that folder"
                )
        _check_lineage(artifacts)
        stages = modules.pop("prior"), modules.pop("vqgan")
        return cls(*stages, **modules, classes=config["classes"], sampling=sampling)

    def save_pretrained(
        self, path: str | Path, *, stored_as: Literal["float32", "float16", "int8"] = "float32"
    ) -> None:
        """Write the pipeline as a folder of artifacts and one config.json.

        Args:
            path: the folder; made if missing.
            stored_as: how matrices lie on disk; int8 keeps one scale a row and is a quarter of float32.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, module in self._parts().items():
            there = artifact_of(module)
            save(
                module,
                folder / name,
                lineage=there["lineage"],
                classes=there.get("classes"),
                stored_as=stored_as,
                extra=there.get("extra"),
                id=there["id"],
            )
        finish(folder, list(self._parts()), classes=self.classes, sampling=self.sampling)

    def label_ids(self, labels: Sequence[int | str]) -> list[int]:
        """Class names or numbers as numbers.

        Raises:
            DigitError: an unknown name or a number out of range.
        """
        count = self.prior.config.classes
        if not count:
            raise DigitError("this model knows no classes: leave --labels out")
        ids = []
        for label in labels:
            if isinstance(label, str) and not label.lstrip("-").isdigit():
                if label not in self.classes:
                    raise DigitError(f"unknown label {label!r}: choose {_likely(label, self.classes)}")
                ids.append(self.classes.index(label))
            elif not 0 <= int(label) < count:
                raise DigitError(f"label {label} is out of range: choose 0 to {count - 1}")
            else:
                ids.append(int(label))
        return ids

    @torch.inference_mode()
    def __call__(
        self,
        labels: Sequence[int | str] | int | str | None = None,
        *,
        num_images: int | None = None,
        seeds: Sequence[int] | None = None,
        renderer: RendererName | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        guidance_schedule: Literal["constant", "linear"] | None = None,
        renderer_temperature: float | None = None,
        renderer_top_k: int | None = None,
        renderer_top_p: float | None = None,
        steps: int | None = None,
        noise: float | None = None,
        prefix: Int[Tensor, "b p"] | None = None,
        batch_size: int | None = None,
        autocast: bool | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pictures:
        """Draw pictures. Picture i is a function of seed i and label i, whatever the batch.

        Args:
            labels: one class for all, or one a picture (names or numbers); nothing draws without a class.
            num_images: how many; seeds count from 0. Needless when `seeds` or a list of labels is given.
            seeds: one a picture.
            renderer: "autoregressive" or "masked"; the pipeline's first one if left out.
            temperature: of the prior; 0 takes the likeliest code. None, here and below: the pipeline's own.
            top_k: keep the k likeliest codes of the prior; 0 keeps all.
            top_p: keep the likeliest codes up to this probability; 1 keeps all.
            guidance: classifier-free guidance of the prior; 1 is none.
            guidance_schedule: "linear" lets it grow from 1 at the first code to its value at the last.
            renderer_temperature: as above, for the renderer.
            renderer_top_k: as above, for the autoregressive renderer.
            renderer_top_p: as above, for the autoregressive renderer.
            steps: of the masked renderer.
            noise: of the masked renderer: weight of the Gumbel noise on its confidence, 0 by the last step.
            prefix: the first p codes of each picture, as `encode` gives them; the prior draws the others.
                With all of them it draws none: the pictures are what the codes say, rendered.
            batch_size: pictures at once; 64 on a CPU, and on a GPU as many as there are, up to 1024.
            autocast: half precision; by default on a GPU only. A seed's picture may differ in details.
            progress: called with the number of finished code positions times pictures; see `work`.

        Raises:
            DigitError: an unknown label, an option out of range, or a renderer that the model lacks,
                or a prefix that is not of its prior.
        """
        given, ids = _resolve(labels, num_images, seeds, self)
        base = self.sampling.prior if ids is not None else self.sampling.prior_unconditional
        prior = _with(
            base,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            guidance_schedule=guidance_schedule,
        )
        if ids is None and prior.guidance != 1.0:
            raise DigitError("guidance needs labels: pass --labels, or leave --guidance out")
        ar = _with(
            self.sampling.renderer,
            temperature=renderer_temperature,
            top_k=renderer_top_k,
            top_p=renderer_top_p,
        )
        masked = _with(self.sampling.masked, temperature=renderer_temperature)
        passes = self.sampling.masked_steps if steps is None else steps
        gumbel = self.sampling.masked_noise if noise is None else noise
        if not 0 <= gumbel < float("inf"):
            raise DigitError(f"noise is {noise}: give a number from 0 up")
        chosen = self.renderer_called(renderer)
        if prefix is not None and len(prefix) != len(given):
            raise DigitError(
                f"{len(given)} seeds came with {len(prefix)} rows of a prefix: give one row a seed"
            )
        label_tensor = None if ids is None else torch.tensor(ids, device=self.device)
        all_codes, all_vq, all_pixels = [], [], []
        batch_size = batch_size or at_once(self.device, len(given))
        decode = self.vqgan.decode if autocast is False else self._decoding()
        for start in range(0, len(given), batch_size):
            part = given[start : start + batch_size]
            rows = None if label_tensor is None else label_tensor[start : start + batch_size]
            how: dict[str, Any] = {"batch_size": batch_size, "autocast": autocast, "progress": progress}
            head = None if prefix is None else prefix[start : start + batch_size]
            codes = self.prior.sample(part, rows, prior, prefix=head, **how)
            if chosen is None:
                vq_codes = codes
            elif chosen == "masked":
                assert self.renderer_masked is not None
                vq_codes = self.renderer_masked.sample(codes, part, masked, steps=passes, noise=gumbel, **how)
            else:
                assert self.renderer is not None
                vq_codes = self.renderer.sample(codes, part, ar, **how)
            all_codes.append(codes.cpu())
            all_vq.append(vq_codes.cpu())
            all_pixels += [to_uint8(_in_company(decode, part)).cpu() for part in vq_codes.split(DECODED)]
        pixels = torch.cat(all_pixels)
        settings: dict[str, Any] = {"prior": asdict(prior), "renderer": chosen}
        if chosen:
            settings[chosen] = asdict(masked if chosen == "masked" else ar)
        if chosen == "masked":
            settings[chosen] |= {"steps": passes, "noise": gumbel}
        if prefix is not None:
            settings["prefix"] = prefix.shape[1]
        return Pictures(pixels, torch.cat(all_codes), torch.cat(all_vq), given, ids, settings)

    def _decoding(self) -> Callable[[Tensor], Tensor]:
        """How VQ codes become pixels; made again when a weight of the VQGAN has changed."""
        state = state_of(self.vqgan)
        if self._decode is None or self._decode[0] != state:
            self._decode = state, decoding(self.vqgan)
        return self._decode[1]

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The codes that the prior models of pixels in [0, 1], square, of the VQGAN's side; on the CPU.

        The tokenizer's, or the VQGAN's own where there is no renderer. As in `digit tokenize`, networks run
        in bfloat16 on a GPU.

        Raises:
            DigitError: the model has no tokenizer.
        """
        if self.renderers and self.tokenizer is None:
            raise DigitError(
                "this model has no tokenizer to encode pictures with: compose it again with --tokenizer"
            )
        reader = self.tokenizer if self.tokenizer is not None and self.renderers else self.vqgan
        reader.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return reader.encode(pixels.to(self.device)).cpu()

    @property
    def renderers(self) -> list[str]:
        """The renderers this pipeline has, the default one first."""
        return [name for name, part in RENDERERS.items() if getattr(self, part) is not None]

    def renderer_called(self, name: str | None) -> str | None:
        """The renderer of this name; without one the default, None where there is none.

        Raises DigitError for a name that this pipeline has no renderer of.
        """
        if name and name not in self.renderers:
            raise DigitError(
                f"this model has no {name} renderer: choose from {', '.join(self.renderers) or 'none'}"
            )
        return name or next(iter(self.renderers), None)

    def work(self, num_images: int, *, prefix: int = 0) -> int:
        """How many units `progress` will count for `num_images` pictures: the codes to be drawn."""
        drawn = self.prior.config.length - prefix
        return num_images * (drawn + (self.vqgan.length if self.renderers else 0))


DECODED = 64  # pictures that the VQGAN decodes at once: their activations take far more room than their codes
PARTS = ("prior", "renderer", "renderer_masked", "vqgan", "tokenizer")


def to_uint8(pixels: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Pixels in [0, 1] as bytes, rounded to the nearest level, channels last in memory."""
    levels = (pixels.float().clamp(0, 1) * 255).round()
    return levels.to(torch.uint8, memory_format=torch.channels_last)


def _in_company(decode: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """Pixels of VQ codes. A lone picture is decoded twice: a CPU's convolutions round one otherwise."""
    return decode(codes) if len(codes) > 1 else decode(codes.expand(2, -1))[:1]


def _with(settings: Any, **given: Any) -> Any:
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def _resolve(
    labels: Sequence[int | str] | int | str | None,
    num_images: int | None,
    seeds: Sequence[int] | None,
    pipeline: DigitPipeline,
) -> tuple[list[int], list[int] | None]:
    """One seed and one label a picture. A shorter list of labels is repeated over the pictures in turn."""
    if isinstance(labels, int | str):
        labels = [labels]
    ids = None if labels is None else pipeline.label_ids(labels)
    if ids is not None and not ids:
        raise DigitError("--labels is empty: name at least one class, or leave it out")
    count = len(seeds) if seeds is not None else num_images or (len(ids) if ids else 1)
    if count < 1 or (num_images is not None and num_images != count):
        raise DigitError(f"--num {num_images} does not fit {count} seeds: give one of them, at least 1")
    if ids is not None:
        ids = [ids[i % len(ids)] for i in range(count)]
    return list(seeds) if seeds is not None else list(range(count)), ids


def _check_together(pipeline: DigitPipeline) -> None:
    """Every stage must have been trained on codes of the stages beside it."""
    prior, vqgan = pipeline.prior.config, pipeline.vqgan.config
    if not pipeline.renderers and (prior.codes != vqgan.codes or prior.length != pipeline.vqgan.length):
        raise LineageError(
            f"the prior's {prior.length} codes of {prior.codes} are not the VQGAN's "
            f"{pipeline.vqgan.length} of {vqgan.codes}: add a renderer"
        )
    made = {name: getattr(module, "artifact", None) for name, module in pipeline._parts().items()}
    _check_lineage({name: artifact for name, artifact in made.items() if artifact})


def _check_lineage(artifacts: Mapping[str, dict[str, Any]]) -> None:
    for name, artifact in artifacts.items():
        for wanted, identity in artifact.get("lineage", {}).items():
            if wanted in artifacts and artifacts[wanted]["id"] != identity:
                raise LineageError(
                    f"the {name} was trained with the {wanted} {identity[:12]}, not with "
                    f"{artifacts[wanted]['id'][:12]}: compose stages of one lineage"
                )


def finish(
    path: str | Path, parts: Sequence[str], *, classes: Sequence[str], sampling: PipelineSampling
) -> None:
    """Make a pipeline of a folder whose parts are saved in it already, each under its name: its config.json.

    For models too large to hold all parts in memory at once; the tensors are not read again.

    Raises:
        DigitError: a part that is no whole artifact, or no prior or VQGAN among them.
        LineageError: the parts were not made from each other.
    """
    folder = Path(path)
    artifacts = {name: describe(folder / name) for name in PARTS if name in parts}
    if set(artifacts) != set(parts) or not {"prior", "vqgan"} <= set(artifacts):
        raise DigitError(f"{folder} has the parts {', '.join(parts)}: a pipeline needs a prior and a vqgan")
    _check_lineage(artifacts)
    write_json_atomic(
        folder / "config.json",
        {
            "kind": "pipeline",
            "format": 1,
            "classes": list(classes),
            "sampling": asdict(sampling),
            "parts": {name: artifact["id"] for name, artifact in artifacts.items()},
        },
        checksum=True,
    )


def _likely(label: str, classes: Sequence[str]) -> str:
    """The classes to choose from, or the most similar ones where there are many."""
    if len(classes) <= 20:
        return f"from {', '.join(classes) or 'numbers'}"
    names = {name.lower(): name for name in classes}
    near = [names[name] for name in difflib.get_close_matches(label.lower(), names, n=3, cutoff=0.5)]
    return f"{' or '.join(near)}, or a number" if near else f"a number from 0 to {len(classes) - 1}"


def locate(path_or_name: str | Path | None) -> Path:
    """The folder of a model: one on this disk, one bundled with the package, or one fetched from the hub.

    Raises:
        DigitError: there is no such model, or the hub does not answer.
    """
    name = str(path_or_name or BUNDLED)
    if Path(name).is_dir():
        return Path(name)
    models = Path(str(resources.files("digit"))) / "models"
    if "/" not in name and (models / name).is_dir():
        return models / name
    if name.count("/") == 1 and not name.startswith((".", "/")):
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

        try:
            return Path(huggingface_hub.snapshot_download(name))
        except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise DigitError(
                f"{name} is no folder here and could not be fetched from the hub ({type(error).__name__}): "
                "check the name or the network"
            ) from None
    known = sorted(path.parent.name for path in models.glob("*/config.json"))
    raise DigitError(f"no model {name}: give a folder, or one of the bundled models ({', '.join(known)})")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a pipeline, checked to be one; DigitError if it is absent, damaged or another."""
    path = folder / "config.json"
    if not path.is_file():
        raise DigitError(f"{folder} has no config.json: it is no pipeline; compose one with `digit compose`")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("kind") != "pipeline":
        kind = config.get("kind") if isinstance(config, dict) else None
        raise DigitError(f"{folder} is a {kind}, not a pipeline: compose one with `digit compose`")
    parts, classes = config.get("parts"), config.get("classes")
    if not (
        isinstance(config.get("sampling"), dict)
        and isinstance(parts, dict)
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in (*classes, *parts.values()))
    ):
        raise DigitError(f"{path} lacks sampling, parts or classes of a pipeline: restore it")
    unknown = set(parts) - set(PARTS)
    if unknown or config.get("format") != 1:
        raise DigitError(
            f"{folder} was written by a newer digit ({', '.join(sorted(unknown))}): update the package"
        )
    if not {"prior", "vqgan"} <= set(parts):
        raise DigitError(f"{path} names no prior or no vqgan, without which nothing is drawn: restore it")
    return config
