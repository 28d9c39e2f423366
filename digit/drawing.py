"""labels, seeds -> pictures, batch by batch; and how they are seen while they are drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image
from torch import Tensor

from digit.nn.decoding import CacheBits
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_flow import FlowRenderer
from digit.renderer_masked import MaskedRenderer
from digit.rendering import render, to_uint8
from digit.request import Request

GREY = 200  # the level of what is not there yet


@dataclass(frozen=True)
class Pictures:
    """What a pipeline call returns, plain tensors on the CPU; row i everywhere belongs to seed i."""

    pixels: UInt8[Tensor, "b 3 h w"]  # channels last in memory, as pictures have them
    codes: Int[Tensor, "b n"]
    vq_codes: Int[Tensor, "b m"] | None  # None where the flow renderer drew
    seeds: list[int]
    labels: list[int] | None
    settings: dict[str, Any]

    @cached_property
    def images(self) -> list[Image.Image]:
        """The pixels as pictures of Pillow, made when first asked for."""
        return as_images(self.pixels)


@dataclass(frozen=True)
class Drawing:
    """How far a batch is, as a pipeline's `callback` gets it; row i everywhere belongs to seed i.

    Tensors are copies on the CPU, and may be kept. Pixels are made when they are first asked for: a callback
    that looks at every tenth drawing pays for these alone.
    """

    first: int  # which of the call's pictures is row 0: batches come one after another
    seeds: list[int]
    labels: list[int] | None
    codes: Int[Tensor, "b n"]  # -1 where none is drawn yet
    vq_codes: Int[Tensor, "b m"] | None  # likewise; None before the renderer begins, and of a flow renderer
    finished: bool  # the batch's pictures are done
    _show: Callable[[], UInt8[Tensor, "b 3 h w"]] = field(repr=False)

    @cached_property
    def pixels(self) -> UInt8[Tensor, "b 3 h w"]:
        """The pictures so far: the prior's codes as squares of a colour each, grey where none is drawn yet.

        Then what the renderer's VQ codes show, or what the flow renderer takes for the pictures; at last the
        pictures.
        """
        return self._show()

    @property
    def images(self) -> list[Image.Image]:
        """The same as pictures of Pillow."""
        return as_images(self.pixels)


def draw(
    prior: Prior,
    renderer: FlowRenderer | Renderer | MaskedRenderer | None,
    request: Request,
    *,
    decode: Callable[[Int[Tensor, "b m"]], Float[Tensor, "b 3 h w"]] | None,
    side: int,
    units: int,
    prefix: Int[Tensor, "b p"] | None,
    batch_size: int,
    autocast: bool | None,
    cache_bits: CacheBits,
    progress: Callable[[int], None] | None,
    callback: Callable[[Drawing], None] | None,
) -> Pictures:
    """The pictures of a request; arguments are those of a pipeline's call and of `rendering.render`."""
    device = next(prior.parameters()).device
    classes = None if request.labels is None else torch.tensor(request.labels, device=device)
    how: dict[str, Any] = {"batch_size": batch_size, "autocast": autocast, "cache_bits": cache_bits}
    how["progress"] = progress
    all_codes, all_vq, all_pixels = [], [], []
    for start in range(0, len(request.seeds), batch_size):
        part = slice(start, start + batch_size)
        own, shown = (None if each is None else each[part] for each in (classes, prefix))
        seeds, see = request.seeds[part], None
        if callback is not None:
            labels = None if request.labels is None else request.labels[part]
            colours = None if renderer is None else prior.config.codes
            see = Onlooker(callback, start, seeds, labels, side, colours, decode, device)
        codes = prior.sample(seeds, own, request.prior, prefix=shown, watch=see and see.drawn, **how)
        vq_codes, pixels = render(
            renderer,
            codes,
            seeds,
            own,
            request,
            decode=decode,
            side=side,
            units=units,
            watch=see and partial(see.rendered, codes.cpu()),
            **how,
        )
        all_codes.append(codes.cpu())
        all_vq += [] if vq_codes is None else [vq_codes.cpu()]
        all_pixels.append(pixels)
        if see is not None:
            see.done(all_codes[-1], all_vq[-1] if all_vq else None, pixels)
    settings = request.settings if prefix is None else request.settings | {"prefix": prefix.shape[1]}
    whole = torch.cat(all_vq) if all_vq else None
    codes, pixels = torch.cat(all_codes), torch.cat(all_pixels)
    return Pictures(pixels, codes, whole, request.seeds, request.labels, settings)


@dataclass(frozen=True)
class Onlooker:
    """Makes drawings of what the stages of a batch let see, and hands them to a callback."""

    callback: Callable[[Drawing], None]
    first: int
    seeds: list[int]
    labels: list[int] | None
    side: int  # of the pictures, in pixels
    colours: int | None  # how many codes the prior has; None: they are VQ codes
    decode: Callable[[Int[Tensor, "b m"]], Float[Tensor, "b 3 h w"]] | None
    device: torch.device  # where it decodes

    def drawn(self, codes: Int[Tensor, "b n"]) -> None:
        """The prior has drawn some of the codes."""
        colours = self.colours
        if colours is None:
            self._tell(codes, codes, lambda: self._decoded(codes))
        else:
            self._tell(codes, None, lambda: mosaic(codes, colours, self.side))

    def rendered(self, codes: Int[Tensor, "b n"], found: Shaped[Tensor, "b ..."]) -> None:
        """A renderer has drawn some of the VQ codes, or pixels in [0, 1] of its own."""
        if found.is_floating_point():
            self._tell(codes, None, lambda: to_uint8(found))
        else:
            self._tell(codes, found, lambda: self._decoded(found))

    def done(
        self,
        codes: Int[Tensor, "b n"],
        vq_codes: Int[Tensor, "b m"] | None,
        pixels: UInt8[Tensor, "b 3 h w"],
    ) -> None:
        """The pictures of the batch are there."""
        self._tell(codes, vq_codes, lambda: pixels, finished=True)

    def _tell(
        self,
        codes: Tensor,
        vq_codes: Tensor | None,
        show: Callable[[], Tensor],
        *,
        finished: bool = False,
    ) -> None:
        self.callback(Drawing(self.first, self.seeds, self.labels, codes, vq_codes, finished, show))

    @torch.no_grad()
    def _decoded(self, vq_codes: Int[Tensor, "b m"]) -> UInt8[Tensor, "b 3 h w"]:
        """What VQ codes show, grey where none is drawn yet."""
        assert self.decode is not None, "VQ codes are drawn where a VQGAN decodes them"
        known = vq_codes.clamp(min=0).to(self.device)
        pixels = torch.cat([to_uint8(self.decode(part)).cpu() for part in known.split(64)])
        return pixels.masked_fill(enlarged((vq_codes < 0).unsqueeze(1), self.side), GREY)


def as_images(pixels: UInt8[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """Pixels as pictures of Pillow."""
    return [Image.fromarray(row) for row in pixels.permute(0, 2, 3, 1).contiguous().numpy()]


def mosaic(codes: Int[Tensor, "b n"], vocabulary: int, side: int) -> UInt8[Tensor, "b 3 {side} {side}"]:
    """A picture of codes in raster order: a colour for each code, grey for -1. Alike codes are not alike."""
    colours = torch.cat((code_colours(vocabulary), torch.full((1, 3), GREY, dtype=torch.uint8)))
    return enlarged(colours[codes].permute(0, 2, 1), side)


def enlarged(cells: Shaped[Tensor, "b c n"], side: int) -> Shaped[Tensor, "b c {side} {side}"]:
    """Values of a square of places in raster order, each over its part of a picture of `side` pixels."""
    grid = math.ceil(cells.shape[-1] ** 0.5)
    picture = F.pad(cells.float(), (0, grid**2 - cells.shape[-1])).unflatten(-1, (grid, grid))
    return F.interpolate(picture, size=(side, side), mode="nearest").to(cells.dtype)


def code_colours(vocabulary: int) -> UInt8[Tensor, "k 3"]:
    """A colour for each code, by lot and always the same."""
    fixed = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (vocabulary, 3), dtype=torch.uint8, generator=fixed)
