"""The masked renderer's passes on a GPU: packed weights, one kernel per draw, one graph for few images."""

import weakref
from collections.abc import Callable, Hashable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.fast.graphs import Captured
from digit.fast.kernels.draw import Filters, draw
from digit.fast.kernels.filling import embed, settle
from digit.fast.kernels.noise import gumbels
from digit.fast.packed import PackedTransformer
from digit.fast.weights import state_of
from digit.nn.decoding import Watch, products_dtype
from digit.nn.sampling import SamplerConfig
from digit.nn.transformer import Transformer
from digit.renderer_masked import MaskedRenderer, masked_after, twice, with_none

FEW = 8  # images up to which launching costs more than computing, so that a graph of all passes pays


class FastFiller:
    """Hidden states and draws of a bidirectional transformer, for any number of images."""

    def __init__(
        self, transformer: Transformer, head: Float[Tensor, "v d"], *, specials: int, dtype: torch.dtype
    ) -> None:
        """Packs the weights."""
        self.packed = PackedTransformer(transformer, dtype)
        self.specials, self.count = specials, len(head) - specials
        self.head = head.detach().to(dtype).contiguous()
        self.settings = torch.ones(3, device=head.device, dtype=torch.float64)
        self.zero = torch.zeros((), device=head.device, dtype=torch.int32)
        self._graphs: dict[Hashable, Captured] = {}

    def choose(
        self,
        hidden: Float[Tensor, "r m d"],
        keys: Int[Tensor, "b 2"],
        places: Int[Tensor, "b m"],
        config: SamplerConfig,
        *,
        step: int,
        guidance: float = 1.0,
    ) -> tuple[Int[Tensor, "b m"], Float[Tensor, "b m"]]:
        """A code per position, and its log-probability before filters and temperature.

        Where the sampler guides, by `guidance` at this step, `hidden` has the rows without a label below the
        others.
        """
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = self.packed.product(rows, self.head, dtype=torch.float32)
        codes = torch.empty(places.numel(), 1, device=rows.device, dtype=torch.int64)
        confidence = torch.empty(places.numel(), 1, device=rows.device)
        top_p, guided = config.top_p < 1, config.guidance != 1
        filters = Filters(
            greedy=config.temperature == 0,
            top_k=0 < config.top_k < self.count,
            top_p=top_p,
            of_vocabulary=top_p and self.specials > 0 and config.top_p_of == "vocabulary",
            guided=guided,
        )
        draw(
            logits,
            keys,
            codes,
            filters,
            settings=self.settings,
            counter=self.zero,
            count=self.count,
            specials=self.specials,
            guidance=torch.full((1,), guidance, device=rows.device) if guided else None,
            confidence=confidence,
            places=places.flatten(),
            step=step,
        )
        return codes.view(places.shape), confidence.view(places.shape)

    def set(self, config: SamplerConfig) -> "FastFiller":
        """The numbers of the filters, for the draws to come."""
        numbers = [config.temperature, config.top_p, config.top_k]
        self.settings.copy_(torch.tensor(numbers, dtype=torch.float64))
        return self

    def replay(self, key: Hashable, *given: Tensor) -> Tensor | None:
        """What `capture` gave with this key, of tensors of the same kinds; None if it was not called."""
        known = self._graphs.get(key)
        return None if known is None else known(*given).clone()

    def capture(self, key: Hashable, work: Callable[..., Tensor], *given: Tensor) -> Tensor:
        """What `work(self, *given)` gives, by a graph that stays."""
        self._graphs[key] = Captured(partial(work, self), *given)
        return self._graphs[key](*given).clone()


def fill(
    renderer: MaskedRenderer,
    codes: Int[Tensor, "b n"],
    keys: Int[Tensor, "b 2"],
    confidence_keys: Int[Tensor, "b 2"],
    config: SamplerConfig,
    *,
    steps: int,
    noise: float,
    labels: Int[Tensor, " b"] | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
    autocast: bool | None = None,
) -> Int[Tensor, "b m"]:
    """What `renderer_masked.fill` draws, by packed weights and one kernel per draw; seen when it is done."""
    transformer, specials = renderer.transformer, renderer.config.specials
    dtype = products_dtype(transformer, autocast)
    given = [codes, keys.to(codes.device), confidence_keys.to(codes.device)]
    given += [] if labels is None else [labels]

    def work(filler: FastFiller, *given: Tensor) -> Tensor:
        return _passes(renderer, filler, *given, config=config, steps=steps, noise=noise)

    def current() -> FastFiller:
        return filler_for(transformer, renderer.projection.weight, specials=specials, dtype=dtype)

    def filled() -> Tensor:
        if not replays(codes):
            return work(current().set(config), *given)
        # A graph reads these where they are; the transformer's weights it has copied.
        tables = [part.weight.data_ptr() for part in renderer.children() if isinstance(part, nn.Embedding)]
        key = (len(codes), steps, config, noise, dtype, *tables)
        # To see whether a weight has changed takes long: the GPU begins with what there is meanwhile.
        last = last_filler(transformer)
        early = None if last is None else last.set(config).replay(key, *given)
        filler = current()
        if early is not None and filler is last:
            return early
        return filler.set(config).capture(key, work, *given)

    with torch.inference_mode(), torch.autocast(codes.device.type, enabled=False):
        vq_codes = filled()
    if progress is not None:
        progress(vq_codes.numel())
    if watch is not None:
        watch(vq_codes.cpu())
    return vq_codes.clone()  # outside of inference mode: a tensor that may also be trained on


def _passes(
    renderer: MaskedRenderer,
    filler: FastFiller,
    codes: Int[Tensor, "b n"],
    keys: Int[Tensor, "b 2"],
    confidence_keys: Int[Tensor, "b 2"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    config: SamplerConfig,
    steps: int,
    noise: float,
) -> Int[Tensor, "b m"]:
    """The loop: embed, read, draw, settle, each a kernel or few."""
    b, m, device = len(codes), renderer.config.vq_length, codes.device
    gumbel = gumbels(confidence_keys, steps, m)
    table = renderer.vq_embedding.weight * renderer.scale
    prefix = renderer.embed(twice(codes, config), with_none(labels, config))
    positions = renderer.vq_position_embedding.weight[1:]
    vq_codes = torch.full((b, m), renderer.mask, device=device)
    masked = torch.arange(m, device=device).repeat(b, 1)
    for step, left in enumerate(masked_after(m, steps)):
        embedded = embed(prefix, table, positions, twice(vq_codes, config), filler.packed.dtype)
        hidden = filler.packed.read(embedded, wanted=twice(masked, config) + prefix.shape[1])
        guidance = config.guidance_at(step, steps)
        drawn, confidence = filler.choose(hidden, keys, masked, config, step=step, guidance=guidance)
        how = {"gumbel": gumbel[:, step], "noise": noise * (1 - (step + 1) / steps), "left": left}
        masked = settle(vq_codes, masked, drawn, confidence=confidence, mask=renderer.mask, **how)
    return vq_codes


def replays(codes: Int[Tensor, "b n"]) -> bool:
    """Whether all passes of so few images are one graph."""
    return codes.is_cuda and len(codes) <= FEW


_fillers: "weakref.WeakKeyDictionary[Transformer, tuple[tuple, FastFiller]]" = weakref.WeakKeyDictionary()


def filler_for(
    transformer: Transformer, head: Float[Tensor, "v d"], *, specials: int, dtype: torch.dtype
) -> FastFiller:
    """The transformer's filler: its last one if no weight has changed."""
    state = (dtype, *state_of(transformer, head))
    found = _fillers.get(transformer)
    if found is None or found[0] != state:
        found = (state, FastFiller(transformer, head, specials=specials, dtype=dtype))
        _fillers[transformer] = found
    return found[1]


def last_filler(transformer: Transformer) -> FastFiller | None:
    """The one that `filler_for` gave last, without a look at the weights."""
    found = _fillers.get(transformer)
    return None if found is None else found[1]
