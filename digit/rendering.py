"""codes -> pixels: by the renderer that a request names, and the VQGAN where that draws VQ codes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from digit.errors import DigitError, LineageError
from digit.nn.batch import in_equal_parts
from digit.nn.decoding import CacheBits, Watch
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_flow import FlowRenderer
from digit.renderer_masked import MaskedRenderer
from digit.request import Request
from digit.vqgan import VQGAN

RendererName = Literal["flow", "autoregressive", "masked"]
RENDERERS: dict[RendererName, str] = {  # the part that each is; the default is the first that a model has
    "flow": "renderer_flow",
    "autoregressive": "renderer",
    "masked": "renderer_masked",
}


def render(
    renderer: FlowRenderer | Renderer | MaskedRenderer | None,
    codes: Int[Tensor, "b n"],
    seeds: Sequence[int],
    labels: Int[Tensor, " b"] | None,
    request: Request,
    *,
    decode: Callable[[Tensor], Tensor] | None,
    side: int,
    units: int,
    batch_size: int,
    autocast: bool | None,
    cache_bits: CacheBits,
    progress: Callable[[int], None] | None,
    watch: Watch | None = None,
) -> tuple[Int[Tensor, "b m"] | None, UInt8[Tensor, "b 3 h w"]]:
    """The VQ codes, if any are drawn, and the pixels, these on the CPU.

    Without a renderer the codes are VQ codes. `decode` makes pixels of these, pictures of `side` pixels.
    `labels` reach a renderer that knows classes. `progress` hears `units` for each picture,
    `watch` sees what a renderer has drawn so far, VQ codes or pixels.
    """
    how: dict[str, Any] = {"labels": labels if renderer is not None and renderer.config.classes else None}
    how |= {"autocast": autocast, "progress": progress, "watch": watch}
    if isinstance(renderer, FlowRenderer):
        how |= {"steps": request.steps, "guidance": request.rendering.guidance}
        if progress is not None:
            how["progress"] = in_units(progress, len(codes), units=units, steps=request.steps)
        return None, to_uint8(renderer.sample(codes, seeds, **how)).cpu()
    how["batch_size"] = batch_size
    if isinstance(renderer, MaskedRenderer):
        how |= {"steps": request.steps, "noise": request.noise}
    if isinstance(renderer, Renderer):
        how["cache_bits"] = cache_bits
    if renderer is not None:
        codes = renderer.sample(codes, seeds, request.rendering, **how)
    assert decode is not None, "a pipeline has a VQGAN where VQ codes are drawn"
    parts = in_equal_parts(decode, codes, side=side)
    return codes, torch.cat([to_uint8(few).cpu() for few in parts])


def check_stages(prior: Prior, vqgan: VQGAN | None, flow: FlowRenderer | None, *, alone: bool) -> None:
    """That the prior's codes and the pictures' sides fit; `alone`: no renderer is between prior and VQGAN.

    Raises:
        DigitError: pictures of unequal sizes.
        LineageError: codes of another kind.
    """
    own, drawn = prior.config, None if vqgan is None else (vqgan.length, vqgan.config.codes)
    if drawn is not None and alone and drawn != (own.length, own.codes):
        raise LineageError(
            f"the prior's {own.length} codes of {own.codes} are not the VQGAN's {drawn[0]} of "
            f"{drawn[1]}: add a renderer"
        )
    if flow is not None:
        check_flow(flow, prior, vqgan)


def check_flow(flow: FlowRenderer, prior: Prior, vqgan: VQGAN | None) -> None:
    """That a flow renderer reads the prior's codes, and that its pictures are as large as the VQGAN's.

    Raises:
        DigitError: they are of another size.
        LineageError: the prior draws other codes, or VQ codes.
    """
    own, given = flow.config, prior.config
    vq = "vqgan" in getattr(prior, "artifact", {}).get("lineage", {})
    if vq or (given.codes, given.length) != (own.codes, own.length):
        raise LineageError(
            f"the prior draws {given.length} {'VQ ' * vq}codes of {given.codes}, the flow renderer reads "
            f"{own.length} codes of {own.codes} by a tokenizer: take a prior and a renderer of the same codes"
        )
    if vqgan is not None and (side := vqgan.config.image_size) != own.image_size:
        raise DigitError(
            f"the flow renderer draws pictures of {own.image_size} px, the VQGAN of {side} px: leave one out"
        )


def in_units(
    progress: Callable[[int], None], pictures: int, *, units: int, steps: int
) -> Callable[[int], None]:
    """Hears how many pictures each step of a flow renderer has passed; `progress` hears `units` a picture.

    Those that fill up a part are heard of too: what is told ends with the `pictures`.
    """
    passed = told = 0

    def heard(rows: int) -> None:
        nonlocal passed, told
        passed = min(passed + rows, pictures * steps)
        progress(passed * units // steps - told)
        told = passed * units // steps

    return heard


def to_uint8(pixels: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Pixels in [0, 1] as bytes, rounded to the nearest level, channels last in memory."""
    levels = (pixels.float().clamp(0, 1) * 255).round()
    return levels.to(torch.uint8, memory_format=torch.channels_last)
