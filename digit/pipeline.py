"""labels, seeds -> pixels: prior, renderer and what decodes composed; the tokenizer travels along."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from digit.bounds import Batch, Count, Draws, Guidance, Temperature, TopP, Weight, Whole
from digit.calls import checked
from digit.data.preprocess import PicturesLike, preprocess
from digit.drawing import Drawing, Pictures, draw
from digit.errors import DigitError
from digit.nn.checks import check_device, check_prefix
from digit.nn.decoding import CacheBits
from digit.nn.labels import label_ids
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_flow import FlowRenderer
from digit.renderer_masked import MaskedRenderer
from digit.rendering import RENDERERS, RendererName, check_stages
from digit.request import Request, at_once, in_turn, resolve, seeds_and_labels
from digit.tokenizer import Tokenizer
from digit.vqgan import VQGAN, decoding
from digit.weights.model_folder import (
    PARTS,
    PipelineSampling,
    check_parts,
    lacking,
    locate,
    open_model,
    save_model,
)


class DigitPipeline:
    """The whole chain. Without a renderer the prior's codes are VQ codes (the paper's VQ-only baseline).

    Pixels are made by the VQGAN, or by a flow renderer, which needs none.
    """

    @checked
    def __init__(
        self,
        prior: Prior,
        vqgan: VQGAN | None = None,
        *,
        renderer: Renderer | None = None,
        renderer_masked: MaskedRenderer | None = None,
        renderer_flow: FlowRenderer | None = None,
        tokenizer: Tokenizer | None = None,
        classes: Sequence[str] = (),
        sampling: PipelineSampling | None = None,
    ) -> None:
        """Compose trained stages.

        Raises:
            DigitError: they lack what makes pixels, or make pictures of unequal sizes.
            LineageError: they were not trained on each other's codes.
        """
        self.prior, self.vqgan, self.tokenizer = prior.eval(), vqgan and vqgan.eval(), tokenizer
        self.renderer, self.renderer_masked = renderer, renderer_masked
        self.renderer_flow = renderer_flow and renderer_flow.eval()
        self.classes, self.sampling = list(classes), sampling or PipelineSampling()
        self._check_together()
        if renderer_flow is not None:
            own, said = renderer_flow.config, self.sampling
            weight = own.guidance if said.flow_guidance is None else said.flow_guidance
            steps = said.flow_steps or own.steps
            self.sampling = replace(said, flow_steps=steps, flow_guidance=weight)

    @property
    def device(self) -> torch.device:
        """Where the stages are."""
        return next(self.prior.parameters()).device

    @checked
    def to(self, device: torch.device | str) -> "DigitPipeline":
        """Move every stage to `device`; returns the pipeline itself."""
        device = check_device(device)
        for module in self._parts().values():
            module.to(device)
        return self

    @property
    def image_size(self) -> int:
        """The side of its pictures in pixels."""
        maker = self.renderer_flow if self.vqgan is None else self.vqgan
        assert maker is not None, "checked when the stages were composed"
        return maker.config.image_size

    def _parts(self) -> dict[str, torch.nn.Module]:
        named = {name: getattr(self, name) for name in PARTS}
        return {name: module for name, module in named.items() if module is not None}

    def _check_together(self) -> None:
        """Every stage must have been trained on codes of the stages beside it."""
        if (absent := lacking(self._parts())) is not None:
            raise DigitError(f"these stages make no pictures: add a {absent}")
        check_stages(self.prior, self.vqgan, self.renderer_flow, alone=not self.renderers)
        made = {name: getattr(module, "artifact", None) for name, module in self._parts().items()}
        check_parts({name: artifact for name, artifact in made.items() if artifact})

    def __repr__(self) -> str:
        """One line: the parts, the picture's side, the classes, the device."""
        classes = f", {count} classes" if (count := self.prior.config.classes) else ""
        return f"DigitPipeline({' + '.join(self._parts())}, {self.image_size} px{classes}, {self.device})"

    @classmethod
    @checked
    def from_pretrained(
        cls,
        path_or_name: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        parts: Sequence[str] | None = None,
        revision: str | None = None,
    ) -> "DigitPipeline":
        """Open a folder, a bundled model's name (CIFAR-10's by default), or the hub's `owner/name`.

        `parts`: which of renderer, renderer_masked, renderer_flow and tokenizer to open, all of them if left
        out, and with a flow renderer alone no VQGAN; the files of the others are checked nevertheless.
        `revision`: of a name on the hub, a branch, a tag or a commit; `owner/name@revision` says the same.
        DigitError: no such model, a file of it is missing or damaged, or an unknown part.
        """
        model = open_model(locate(path_or_name, revision), device=device, parts=parts)
        return cls(**model.parts, classes=model.classes, sampling=model.sampling)

    @checked
    def save_pretrained(
        self,
        path: str | Path,
        *,
        stored_as: Literal["float32", "float16", "int8"] = "float32",
        licence: str | None = None,
        datasets: Sequence[str] = (),
    ) -> None:
        """Write the pipeline as a folder of artifacts, one config.json, and a card of it, README.md.

        `stored_as`: how matrices lie on disk; int8 keeps one scale per row and is a quarter of float32.
        `licence`, an identifier of the hub such as mit, is of what you trained, and `datasets` what you
        trained it on: the card says that neither is stated if left out.
        """
        how: dict[str, Any] = {"classes": self.classes, "sampling": self.sampling, "stored_as": stored_as}
        save_model(path, self._parts(), licence=licence, datasets=datasets, **how)

    @checked
    def push_to_hub(
        self, name: str, *, private: bool = False, revision: str | None = None, **how: Any
    ) -> str:
        """Upload it to owner/name on the hub with a card and 16 pictures; gives the commit's address.

        `revision` is a branch, `how` as of `save_pretrained`. The token is that of `hf auth login`.
        DigitError where the hub refuses or does not answer.
        """
        from digit.weights.push import push_pipeline  # the hub's client takes a while to import

        return push_pipeline(self, name, private=private, revision=revision, **how)

    @checked
    def label_ids(self, labels: Sequence[int | str]) -> list[int]:
        """Class names or numbers as numbers; DigitError for an unknown name or a number out of range."""
        return label_ids(labels, names=self.classes, classes=self.prior.config.classes)

    # Long by its signature and docstring, which are the settings of drawing.
    @checked
    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int | str] | int | str | None = None,
        *,
        num_images: Draws | None = None,
        seeds: Sequence[int] | None = None,
        unconditional: bool = False,
        renderer: RendererName | None = None,
        temperature: Temperature | None = None,
        top_k: Whole | None = None,
        top_p: TopP | None = None,
        guidance: Guidance | None = None,
        guidance_schedule: Literal["constant", "linear"] | None = None,
        renderer_temperature: Temperature | None = None,
        renderer_top_k: Whole | None = None,
        renderer_top_p: TopP | None = None,
        renderer_guidance: Guidance | None = None,
        steps: Count | None = None,
        noise: Weight | None = None,
        prefix: Int[Tensor, "b p"] | None = None,
        batch_size: Batch | None = None,
        autocast: bool | None = None,
        cache_bits: CacheBits = 16,
        progress: Callable[[int], None] | None = None,
        callback: Callable[[Drawing], None] | None = None,
    ) -> Pictures:
        """Draw pictures. Picture i is a function of seed i and label i, whatever the batch.

        Args:
            labels: names or numbers of classes; label i is of seed i, a shorter list is repeated. Left out,
                the class of picture i is seeds[i] modulo the number of classes.
            num_images: how many; seeds count from 0. Needless when `seeds` or a list of labels is given.
            seeds: one per picture.
            unconditional: draw without a class. A model that knows no classes always does.
            renderer: "flow", "autoregressive" or "masked"; the first of these that it has if left out.
            temperature: of the prior; 0 takes the likeliest code. None, here and below: the pipeline's own.
            top_k: keep the k likeliest codes of the prior; 0 keeps all.
            top_p: keep the likeliest codes up to this probability; 1 keeps all.
            guidance: classifier-free guidance of the prior; 1 is none.
            guidance_schedule: "linear" lets it grow from 1 at the first code to its value at the last.
            renderer_temperature: as above, for a renderer that draws VQ codes.
            renderer_top_k: as above, for the autoregressive renderer.
            renderer_top_p: as above, for the autoregressive renderer.
            renderer_guidance: of a renderer that knows classes, which adds to that of the prior; 1 is none.
                The flow renderer's is by codes too, and doubles its work.
            steps: passes of the flow or the masked renderer.
            noise: of the masked renderer: weight of the Gumbel noise on its confidence, 0 by the last step.
            prefix: the first p codes of each picture, as `encode` gives them; the prior draws the others.
                With all of them it draws none: the pictures are what the codes say, rendered.
            batch_size: pictures at once; 64 on a CPU, and on a GPU as many as there are, up to 1024.
            autocast: half precision; by default on a GPU only. A seed's picture may differ in details.
            cache_bits: 8 halves the memory and the reading of keys and values, on a GPU with Triton only. A
                seed's picture may differ in details.
            progress: called with the number of finished code positions times pictures; see `work`.
            callback: called after each step with the codes, and pictures, as far as they are drawn (on a GPU
                after several steps at once). What it raises ends the drawing.

        Raises:
            DigitError: an unknown label, more labels than pictures, labels or guidance with `unconditional`,
                an option out of range, a renderer that the model lacks, or a prefix that is not of its prior.
        """
        known: dict[str, Any] = {"names": self.classes, "classes": self.prior.config.classes}
        rows = seeds_and_labels(labels, num_images, seeds, unconditional=unconditional, **known)
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        settings |= {"guidance_schedule": guidance_schedule, "renderer_temperature": renderer_temperature}
        settings |= {"renderer_top_k": renderer_top_k, "renderer_top_p": renderer_top_p}
        settings |= {"renderer_guidance": renderer_guidance, "steps": steps, "noise": noise}
        request = self.requested(*rows, renderer=renderer, **settings)
        count = len(request.seeds)
        if prefix is not None:
            own = self.prior.config
            check_prefix(count, prefix, length=own.length, codes=own.codes)
        decode = self.vqgan and (self.vqgan.decode if autocast is False else decoding(self.vqgan))
        size = batch_size or at_once(self.device, count)
        how: dict[str, Any] = {"side": self.image_size, "units": self._units, "decode": decode}
        how |= {"prefix": prefix, "batch_size": size, "autocast": autocast, "cache_bits": cache_bits}
        how |= {"progress": progress, "callback": callback}
        return draw(self.prior, self._drawing(request), request, **how)

    @checked
    def requested(
        self,
        seeds: list[int],
        labels: list[int] | None,
        *,
        renderer: RendererName | None = None,
        steps: int | None = None,
        noise: float | None = None,
        **settings: Any,
    ) -> Request:
        """What a call with these seeds, labels and settings draws; DigitError for what it would refuse."""
        start = "renderer_"
        request = resolve(
            self.sampling,
            seeds,
            labels,
            renderer=self.renderer_called(renderer),
            prior={name: value for name, value in settings.items() if not name.startswith(start)},
            rendering={
                name.removeprefix(start): value for name, value in settings.items() if name.startswith(start)
            },
            steps=steps,
            noise=noise,
        )
        self.prior.labels_for(len(seeds), request.labels, guidance=request.prior.guidance)
        drawing = self._drawing(request)
        if isinstance(drawing, MaskedRenderer):
            drawing.check_steps(request.steps)
        if isinstance(drawing, Renderer | MaskedRenderer):
            told = request.labels if drawing.config.classes else None
            drawing.config.labels_for(len(seeds), told, guidance=request.rendering.guidance)
        return request

    def _drawing(self, request: Request) -> FlowRenderer | Renderer | MaskedRenderer | None:
        """The renderer that a request names."""
        name: Any = request.renderer
        return None if name is None else getattr(self, RENDERERS[name])

    @checked
    @torch.no_grad()
    def encode(self, pixels: Shaped[Tensor, "b 3 h w"] | PicturesLike) -> Int[Tensor, "b n"]:
        """The codes that the prior models of square pictures of `image_size` pixels per side; on the CPU.

        Pixels are uint8, as a call gives them, or floats in [0, 1]; files, folders and pictures of Pillow
        become pixels by `digit.preprocess`. The codes are the tokenizer's, or the
        VQGAN's own where there is no renderer. As in `digit tokenize`, networks run in bfloat16 on a GPU.
        DigitError where the model has no tokenizer, for other pixels, or for what cannot be read.
        """
        if self.renderers and self.tokenizer is None:
            raise DigitError(
                "this model has no tokenizer to encode pictures with: compose it again with --tokenizer"
            )
        reader = self.tokenizer if self.tokenizer is not None and self.renderers else self.vqgan
        assert reader is not None, "without a renderer there is a VQGAN"
        reader.eval()
        if not isinstance(pixels, Tensor):
            pixels = preprocess(pixels, size=self.image_size)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return reader.encode(pixels.to(self.device)).cpu()

    @checked
    def decode(
        self, codes: Int[Tensor, "b n"], *, seeds: Sequence[int] | None = None, **how: Any
    ) -> UInt8[Tensor, "b 3 h w"]:
        """The pixels of codes as `encode` and a call give them: a call whose prefix is all of each picture.

        `seeds` are the renderer's, 0 and on if left out; `how` are settings of a call. DigitError for codes
        that are not the prior's, or not all of a picture.
        """
        if codes.shape[1] != self.prior.config.length:
            raise DigitError(
                f"codes: pictures of this model have {self.prior.config.length} of them, not {codes.shape[1]}"
            )
        return self(seeds=range(len(codes)) if seeds is None else seeds, prefix=codes, **how).pixels

    @checked
    def complete(
        self,
        pictures: Shaped[Tensor, "b 3 h w"] | PicturesLike,
        *,
        prefix: Whole,
        seeds: Sequence[int] = range(8),
        labels: Sequence[int | str] | None = None,
        **how: Any,
    ) -> Pictures:
        """Draw pictures that begin as given ones do, as `digit sample --prefix-from`, one per seed of each.

        Those of a picture follow on one another, in the order of `seeds`.

        Args:
            pictures: what `encode` takes.
            prefix: how many codes of each picture are kept, in raster order.
            seeds: of the completions, the same for each picture.
            labels: classes of the pictures, in turn; left out, each completion has that of its seed.
            how: further settings of a call.

        Raises:
            DigitError: as `encode` and a call, or more `prefix` than a picture has codes.
        """
        if prefix > self.prior.config.length:
            raise DigitError(
                f"prefix: pictures of this model have {self.prior.config.length} codes, not {prefix}"
            )
        codes, each = self.encode(pictures)[:, :prefix], len(seeds)
        told = None if labels is None else in_turn(self.label_ids(labels), len(codes))
        return self(
            told and [label for label in told for _ in range(each)],
            seeds=list(seeds) * len(codes),
            prefix=codes.repeat_interleave(each, 0),
            **how,
        )

    @property
    def renderers(self) -> list[str]:
        """The renderers this pipeline has, the default one first."""
        return [name for name, part in RENDERERS.items() if getattr(self, part) is not None]

    @checked
    def renderer_called(self, name: str | None) -> str | None:
        """The renderer of this name; without one the default, None where there is none.

        Raises DigitError for a name that this pipeline has no renderer of.
        """
        if name and name not in self.renderers:
            raise DigitError(
                f"this model has no {name} renderer: choose from {', '.join(self.renderers) or 'none'}"
            )
        return name or next(iter(self.renderers), None)

    @checked
    def renderer_classes(self, name: str | None = None) -> int:
        """How many classes the renderer of this name, or the default one, is told; 0 where there is none."""
        chosen: Any = self.renderer_called(name)
        return 0 if chosen is None else getattr(self, RENDERERS[chosen]).config.classes

    @checked
    def work(self, num_images: Whole, *, prefix: Whole = 0) -> int:
        """How many units `progress` will count for `num_images` pictures: the codes to be drawn.

        A flow renderer's passes count as many as the VQ codes beside it would, or as the codes it reads.
        """
        return num_images * (self.prior.config.length - prefix + self._units)

    @property
    def _units(self) -> int:
        """What rendering a picture counts: VQ codes, or where none can be drawn the codes that are read."""
        if not self.renderers:
            return 0
        return self.prior.config.length if self.vqgan is None else self.vqgan.length
