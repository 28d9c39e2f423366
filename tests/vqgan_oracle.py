"""The two published VQGANs written a second time: names and shapes of their files, and float64 functions."""

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


def layout(
    width: int,
    multipliers: tuple[int, ...],
    *,
    codes: int,
    code_dim: int,
    taming: bool,
    latents: int | None = None,
    attention_levels: tuple[int, ...] = (),
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor; two blocks a level, taming's decoder has three."""
    latents, shapes = latents or code_dim, {}

    def convolution(name: str, inputs: int, outputs: int, size: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        convolution(f"{name}.conv1", inputs, outputs, 3, bias=taming)
        norm(f"{name}.norm2", outputs)
        convolution(f"{name}.conv2", outputs, outputs, 3, bias=taming)
        if inputs != outputs:
            convolution(f"{name}.nin_shortcut", inputs if taming else outputs, outputs, 1, bias=taming)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            convolution(f"{name}.{part}", channels, channels, 1)

    def level(name: str, i: int, inputs: int, blocks: int) -> None:
        for j in range(blocks):
            block(f"{name}.{i}.block.{j}", inputs if j == 0 else widths[i], widths[i])
            if i in attention_levels:
                attention(f"{name}.{i}.attn.{j}", widths[i])

    def middle(name: str) -> None:
        block(f"{name}.mid.block_1", widths[-1], widths[-1])
        if taming:
            attention(f"{name}.mid.attn_1", widths[-1])
        block(f"{name}.mid.block_2", widths[-1], widths[-1])

    widths = [width * each for each in multipliers]
    last = len(widths) - 1
    convolution("encoder.conv_in", 3, width, 3, bias=taming)
    for i in range(last + 1):
        level("encoder.down", i, widths[i - 1] if i else width, 2)
        if taming and i < last:
            convolution(f"encoder.down.{i}.downsample.conv", widths[i], widths[i], 3)
    middle("encoder")
    norm("encoder.norm_out", widths[-1])
    convolution("encoder.conv_out", widths[-1], latents, 3 if taming else 1)
    convolution("decoder.conv_in", latents, widths[-1], 3)
    middle("decoder")
    for i in range(last + 1):
        level("decoder.up", i, widths[min(i + 1, last)], 3 if taming else 2)
        if i:
            convolution(f"decoder.up.{i}.upsample.conv", widths[i], widths[i], 3)
    norm("decoder.norm_out", widths[0])
    convolution("decoder.conv_out", widths[0], 3, 3)
    if taming:
        convolution("quant_conv", latents, code_dim, 1)
        convolution("post_quant_conv", code_dim, latents, 1)
    shapes["quantize.embedding.weight"] = (codes, code_dim)
    return shapes


def draw(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Random float32 tensors under which every one of them shows in the pixels."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = torch.empty(shape).normal_(generator=random)
        if value.ndim > 1 and name != "quantize.embedding.weight":
            value *= value[0].numel() ** -0.5
        elif value.ndim == 1:
            value = 0.3 * value + (1 if "norm" in name and name.endswith("weight") else 0)
        tensors[name] = value
    return tensors


def latents_of(tensors: Tensors, pixels: Tensor) -> Tensor:
    """What is quantised, of pixels in [0, 1]."""
    t, taming = tensors, "quant_conv.weight" in tensors
    x = pixels.double() * 2 - 1 if taming else pixels.double()
    x = _conv(t, "encoder.conv_in", x)
    levels = _levels(t, "encoder.down")
    for i in range(levels):
        x = _level(t, f"encoder.down.{i}", x)
        if i < levels - 1 and taming:
            # A row and a column of zeros follow the picture; none precede it.
            framed = torch.zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1, dtype=x.dtype)
            framed[:, :, :-1, :-1] = x
            name = f"encoder.down.{i}.downsample.conv"
            x = F.conv2d(framed, t[f"{name}.weight"].double(), t[f"{name}.bias"].double(), stride=2)
        elif i < levels - 1:
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    x = _conv(t, "encoder.conv_out", _norm_swish(t, "encoder.norm_out", _middle(t, "encoder", x)))
    return _conv(t, "quant_conv", x) if taming else x


def codes_of(tensors: Tensors, pixels: Tensor) -> Tensor:
    """VQ codes in raster order."""
    rows = latents_of(tensors, pixels).flatten(2).transpose(1, 2)
    return torch.cdist(rows, tensors["quantize.embedding.weight"].double()).argmin(-1)


def pixels_of(tensors: Tensors, codes: Tensor, side: int) -> Tensor:
    """Pixels, not clamped, of a square of `side` codes."""
    t, taming = tensors, "quant_conv.weight" in tensors
    x = t["quantize.embedding.weight"].double()[codes].transpose(1, 2).unflatten(2, (side, side))
    x = _conv(t, "decoder.conv_in", _conv(t, "post_quant_conv", x) if taming else x)
    x = _middle(t, "decoder", x)
    for i in reversed(range(_levels(t, "decoder.up"))):
        x = _level(t, f"decoder.up.{i}", x)
        if i:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = _conv(t, f"decoder.up.{i}.upsample.conv", x)
    x = _conv(t, "decoder.conv_out", _norm_swish(t, "decoder.norm_out", x))
    return (x + 1) / 2 if taming else x


def _levels(t: Tensors, name: str) -> int:
    return 1 + max(int(each.split(".")[2]) for each in t if each.startswith(name))


def _level(t: Tensors, name: str, x: Tensor) -> Tensor:
    j = 0
    while f"{name}.block.{j}.conv1.weight" in t:
        x = _block(t, f"{name}.block.{j}", x)
        if f"{name}.attn.{j}.q.weight" in t:
            x = _attention(t, f"{name}.attn.{j}", x)
        j += 1
    return x


def _middle(t: Tensors, name: str, x: Tensor) -> Tensor:
    x = _block(t, f"{name}.mid.block_1", x)
    if f"{name}.mid.attn_1.q.weight" in t:
        x = _attention(t, f"{name}.mid.attn_1", x)
    return _block(t, f"{name}.mid.block_2", x)


def _block(t: Tensors, name: str, x: Tensor) -> Tensor:
    h = _conv(t, f"{name}.conv1", _norm_swish(t, f"{name}.norm1", x))
    h = _conv(t, f"{name}.conv2", _norm_swish(t, f"{name}.norm2", h))
    if f"{name}.nin_shortcut.weight" not in t:
        return x + h
    return h + _conv(t, f"{name}.nin_shortcut", x if "quant_conv.weight" in t else h)


def _attention(t: Tensors, name: str, x: Tensor) -> Tensor:
    normed = _norm(t, f"{name}.norm", x)
    q, k, v = (_conv(t, f"{name}.{part}", normed).flatten(2) for part in "qkv")
    weights = torch.einsum("bci,bcj->bij", q, k).div(x.shape[1] ** 0.5).softmax(-1)
    return x + _conv(t, f"{name}.proj_out", torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


def _conv(t: Tensors, name: str, x: Tensor) -> Tensor:
    weight, bias = t[f"{name}.weight"].double(), t.get(f"{name}.bias")
    return F.conv2d(x, weight, None if bias is None else bias.double(), padding=weight.shape[-1] // 2)


def _norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    groups = x.reshape(len(x), 32, -1)
    groups = groups - groups.mean(-1, keepdim=True)
    groups = groups / (groups.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    scale, shift = (t[f"{name}.{part}"].double()[:, None, None] for part in ("weight", "bias"))
    return groups.reshape(x.shape) * scale + shift


def _norm_swish(t: Tensors, name: str, x: Tensor) -> Tensor:
    x = _norm(t, name, x)
    return x / (1 + torch.exp(-x))
