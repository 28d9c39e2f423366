"""The decoding loop on a GPU: caches written in place, and one captured graph that serves every position."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.errors import DigitError
from digit.fast.graphs import capture
from digit.fast.kernels.attention import PAIRS, attend
from digit.fast.kernels.draw import Filters, draw
from digit.fast.packed import PackedTransformer
from digit.fast.weights import state_of
from digit.nn.decoding import CacheBits, CodeTables, Watch, inference
from digit.nn.sampling import SamplerConfig
from digit.nn.transformer import KeyValueCache, Transformer, TransformerConfig

STRIDE = 8  # positions of one graph
AHEAD = 4  # graphs that may wait on the device: more would only make progress jump


@dataclass(frozen=True)
class Shape:
    """What a captured graph is made for; everything else may change between two runs."""

    rows: int  # images at once
    guided: bool  # two rows per image
    room: int  # positions of the caches
    length: int  # codes per image
    dtype: torch.dtype  # of products and caches
    bits: CacheBits  # of a number in the caches: 8 are e4m3 with one scale for each vector
    filters: Filters
    short: bool = False  # fewer rows than were asked for, since memory had no room for more

    @property
    def streams(self) -> int:
        """Rows of the transformer."""
        return 2 * self.rows if self.guided else self.rows


def decode(
    transformer: Transformer,
    prefix: Float[Tensor, "b p d"],
    *,
    keys: Int[Tensor, "b 2"],
    length: int,
    config: SamplerConfig,
    tables: CodeTables,
    null_prefix: Float[Tensor, "b p d"] | None = None,
    given: Int[Tensor, "b g"] | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
    autocast: bool | None = None,
    cache_bits: CacheBits = 16,
) -> Int[Tensor, "b n"]:
    """What `nn.decoding.decode` draws, where not all codes are given. Rows without memory wait for others."""
    guided, first = config.guidance != 1, 0 if given is None else given.shape[1]
    prefixes = (prefix, null_prefix) if guided and null_prefix is not None else (prefix,)
    images, room = len(keys), prefix.shape[1] + length - first - 1
    codes, begin = [], 0

    def see(drawn: Int[Tensor, "r n"], known: int) -> None:
        """Codes of the rows from `begin` on, of which `known` are there."""
        now = torch.full((images, length), -1)
        now[begin : begin + len(drawn), first:known] = drawn[:, first:known].cpu()
        if codes:
            now[:begin] = torch.cat(codes).cpu()
        if given is not None:
            now[:, :first] = given.cpu()
        assert watch is not None
        watch(now)

    with (
        inference(transformer, autocast=autocast) as dtype,
        torch.autocast(prefix.device.type, enabled=False),
    ):
        shape = Shape(images, guided, room, length, dtype, cache_bits, _filters(config, tables))
        while begin < images:
            wanted = replace(shape, rows=images - begin)
            decoder = decoder_for(transformer, tables, wanted)
            part = slice(begin, begin + min(wanted.rows, decoder.shape.rows))
            chosen = torch.cat([prefix[part] for prefix in prefixes])
            how: dict[str, Any] = {"config": config, "first": first, "progress": progress}
            codes.append(decoder.run(chosen, keys[part], **how, watch=watch and see))
            begin = part.stop
        whole = torch.cat(codes)
        if given is not None:
            whole[:, :first] = given
    return whole.clone()  # outside of inference mode: a tensor that may also be trained on


def _filters(config: SamplerConfig, tables: CodeTables) -> Filters:
    top_p = config.top_p < 1
    return Filters(
        greedy=config.temperature == 0,
        top_k=0 < config.top_k < len(tables.codes),
        top_p=top_p,
        of_vocabulary=top_p and tables.specials > 0 and config.top_p_of == "vocabulary",
        guided=config.guidance != 1,
    )


class FastDecoder:
    """The transformer, its caches and its graphs, for one shape."""

    def __init__(self, transformer: Transformer, tables: CodeTables, shape: Shape) -> None:
        """Packs the weights, allocates and captures."""
        device = tables.codes.device
        self.shape, self.device, self.config = shape, device, transformer.config
        self.packed = PackedTransformer(transformer, shape.dtype, outputs=len(tables.head))
        self.specials, self.count = tables.specials, len(tables.codes)
        self.tables = (tables.codes.detach().float(), tables.positions.detach().float(), tables.scale)
        self.head = tables.head.detach().to(shape.dtype).contiguous()
        self.cache = ScaledCache(transformer.config, shape, device=device)
        width = transformer.config.width
        self.embedded = torch.zeros(shape.streams, width, device=device, dtype=shape.dtype)
        self.keys = torch.zeros(shape.rows, 2, device=device, dtype=torch.int64)
        self.codes = torch.zeros(shape.rows, shape.length, device=device, dtype=torch.int64)
        self.settings = torch.ones(3, device=device, dtype=torch.float64)
        self.guidance = torch.ones(shape.length, device=device)
        self.filled = torch.zeros((), device=device, dtype=torch.int32)
        self.drawn = torch.zeros((), device=device, dtype=torch.int32)
        self.arrived = torch.zeros(PAIRS, device=device, dtype=torch.int32)  # windows of attention
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if device.type == "cuda":
            self._capture()

    def run(
        self,
        prefix: Float[Tensor, "s p d"],
        keys: Int[Tensor, "b 2"],
        *,
        config: SamplerConfig,
        first: int,
        progress: Callable[[int], None] | None,
        watch: Callable[[Tensor, int], None] | None = None,
    ) -> Int[Tensor, "b n"]:
        """Codes of the positions from `first` on, after embedded prefixes; earlier ones are not written.

        `watch` sees the codes after every graph, and how many of a row are drawn.
        """
        images, rows, length = len(keys), self.shape.rows, self.shape.length
        numbers = [config.temperature, config.top_p, config.top_k]
        self.settings.copy_(torch.tensor(numbers, dtype=torch.float64))
        self.guidance.copy_(torch.tensor([config.guidance_at(p, length) for p in range(length)]))
        self.keys[:images].copy_(keys)
        self.cache.length = 0
        places = [slice(0, images)] + ([slice(rows, rows + images)] if self.shape.guided else [])
        for place, part in zip(places, prefix.split(images), strict=True):
            if part.shape[1] > 1:
                nothing = torch.empty(images, 0, device=self.device, dtype=torch.int64)
                self.packed.read(part[:, :-1], self.cache.rows(place), wanted=nothing)
            self.embedded[place].copy_(part[:, -1])
        self.filled.fill_(prefix.shape[1] - 1)
        self.drawn.fill_(first)
        waiting = []
        position = first
        while position < length:
            steps = STRIDE if position + STRIDE <= length else 1
            self._go(steps)
            position += steps
            if progress is not None:
                if self.device.type == "cuda":
                    waiting.append(torch.cuda.Event())
                    waiting[-1].record()
                    if len(waiting) > AHEAD:
                        waiting.pop(0).synchronize()
                for _ in range(steps):
                    progress(images)
            if watch is not None:
                watch(self.codes[:images], position)
        return self.codes[:images].clone()

    def _go(self, steps: int) -> None:
        if self.graphs:
            self.graphs[steps].replay()
        else:
            self._steps(steps)

    def _steps(self, steps: int) -> None:
        for step in range(steps):
            self._step(step)
        self.filled += steps
        self.drawn += steps

    def _step(self, offset: int) -> None:
        """Read the embedded codes of one position, draw those of the next and embed them."""
        draw(
            self.scores(offset),
            self.keys,
            self.codes,
            self.shape.filters,
            settings=self.settings,
            counter=self.drawn,
            offset=offset,
            count=self.count,
            specials=self.specials,
            guidance=self.guidance if self.shape.guided else None,
            tables=self.tables,
            embedded=self.embedded,
            chained=self.packed.chains(self.shape.streams),
        )

    def scores(self, offset: int = 0) -> Float[Tensor, "s v"]:
        """Logits of what follows the embedded codes, which join the caches at `filled + offset`."""

        def mix(layer: int, qkv: Tensor) -> Tensor:
            mixed = torch.empty(len(qkv), self.config.width, device=self.device, dtype=qkv.dtype)
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            scales = self.cache.scales[layer] if self.cache.scales else None
            chained = self.packed.chains(len(qkv))
            how: dict[str, Any] = {"offset": offset, "scales": scales, "arrived": self.arrived}
            attend(qkv, keys, values, mixed, self.filled, chained=chained, **how)
            return mixed

        hidden = self.packed(self.embedded, mix)
        how: dict[str, Any] = {"parts": True, "arrived": self.packed.arrived, "dtype": torch.float32}
        return self.packed.product(hidden, self.head, **how)

    def _capture(self) -> None:
        """Graphs of one position and of `STRIDE`."""
        for steps in (1, STRIDE):
            if steps <= min(self.shape.length, self.shape.room):
                self.filled.zero_()  # the run before capture counts on
                self.drawn.zero_()
                self.graphs[steps], _ = capture(lambda steps=steps: self._steps(steps), self.device)


class ScaledCache(KeyValueCache):
    """The cache in the numbers of a shape: as they come, or in 8 bits with a scale per vector."""

    def __init__(self, config: TransformerConfig, shape: Shape, *, device: torch.device) -> None:
        """Room for all rows of the shape."""
        dtype = shape.dtype if shape.bits == 16 else torch.float8_e4m3fn
        super().__init__(config, shape.streams, length=shape.room, device=device, dtype=dtype)
        self.scales: list[tuple[Tensor, Tensor]] = []
        if shape.bits == 8:
            size = (shape.streams, config.heads, shape.room)
            for _ in range(config.layers):
                pair = (torch.empty(size, device=device, dtype=torch.float16) for _ in range(2))
                self.scales.append((next(pair), next(pair)))

    def rows(self, place: slice) -> "ScaledCache":
        """The same memory, of some of the rows."""
        part = object.__new__(ScaledCache)
        part.keys = [each[place] for each in self.keys]
        part.values = [each[place] for each in self.values]
        part.scales = [(keys[place], values[place]) for keys, values in self.scales]
        part.length = 0
        return part

    def extend(
        self, layer: int, keys: Float[Tensor, "b h n c"], *, values: Float[Tensor, "b h n c"]
    ) -> tuple[Float[Tensor, "b h n c"], Float[Tensor, "b h n c"]]:
        """Write the positions; they come back as they were given, since nothing lies before them."""
        if not self.scales:
            super().extend(layer, keys, values=values)
            return keys, values
        end = self.length + keys.shape[2]
        for part, store, scales in zip(
            (keys, values), (self.keys[layer], self.values[layer]), self.scales[layer], strict=True
        ):
            scale = (part.float().abs().amax(-1).clamp(min=1e-3) / 448).half()
            scales[:, :, self.length : end] = scale
            store[:, :, self.length : end] = (part.float() / scale.float().unsqueeze(-1)).to(store.dtype)
        return keys, values


def cache_bytes(config: TransformerConfig, streams: int, room: int, *, dtype: torch.dtype, bits: int) -> int:
    """Bytes of the caches of `streams` rows."""
    each = dtype.itemsize if bits == 16 else 1 + 2 * config.heads / config.width
    return int(2 * config.layers * streams * room * config.width * each)


_decoders: "weakref.WeakKeyDictionary[Transformer, tuple[tuple[tuple[int, int], ...], FastDecoder]]" = (
    weakref.WeakKeyDictionary()
)


def decoder_for(transformer: Transformer, tables: CodeTables, shape: Shape) -> FastDecoder:
    """A decoder of this shape, of fewer rows where the device has no memory for all.

    The transformer's last one serves again if it is of the same kind, large enough and not much larger, and
    no weight has changed. Raises DigitError where not even one row fits.
    """
    state = state_of(transformer, tables.codes, tables.head)
    found = _decoders.pop(transformer, None)
    if found is not None and found[0] == state:
        has = found[1].shape
        alike = has == replace(shape, rows=has.rows, room=has.room, short=has.short)
        enough = has.room >= shape.room and has.rows // 2 < shape.rows
        if alike and enough and (has.rows >= shape.rows or has.short):
            _decoders[transformer] = found
            return found[1]
    del found
    decoder = FastDecoder(transformer, tables, _fitted(transformer.config, shape, tables.codes.device))
    _decoders[transformer] = (state, decoder)
    return decoder


def forget() -> None:
    """Give back the memory of all decoders."""
    _decoders.clear()
    torch.cuda.empty_cache()


def _fitted(config: TransformerConfig, shape: Shape, device: torch.device) -> Shape:
    """The shape with as many rows as memory has room for; before any is cut, other decoders are dropped."""
    if device.type != "cuda":
        return shape
    streams = 2 if shape.guided else 1
    each = cache_bytes(config, streams, shape.room, dtype=shape.dtype, bits=shape.bits)
    each += streams * 64 * config.width * 16  # what one step holds between its products, generously
    if each * shape.rows > _free(device):
        forget()
    fit = int(_free(device) // each)
    if fit < 1:
        raise DigitError(
            f"the GPU has no memory left for the {each / 2**20:.0f} MiB of one image: free some, or use a CPU"
        )
    return shape if fit >= shape.rows else replace(shape, rows=fit, short=True)


def _free(device: torch.device) -> float:
    """Bytes that may be filled: all but a gigabyte and a tenth."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 0.9 * (torch.cuda.mem_get_info(device)[0] + unused - 2**30)
