"""Settings -> names and shapes of the tensors that they ask for, before any of these is made.

Settings come out of files, and could ask for any number of blocks: of blocks that are alike the first ones
are made, on torch's meta device, and the others are counted.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from digit.bounds import Bounds
from digit.errors import DigitError
from digit.features import EncoderConfig, is_vit
from digit.printing import readable
from digit.prior import PriorConfig
from digit.renderer import RendererConfig
from digit.renderer_flow import FlowConfig
from digit.tokenizer import TokenizerConfig
from digit.vqgan_config import VQGANConfig
from digit.weights.foreign import Layout

LARGEST, MANY = 2**24, 1024  # of any number in settings, and of numbers in a list of them
# What building a network of impossible settings raises, in torch and in timm.
_IMPOSSIBLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
# Tensors' own, and those of torch.nn.init that a mode sees instead of what they call.
_STARTS = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_")


class Undrawn(TorchFunctionMode):
    """Modules are made without their random start, whose place the loaded tensors take.

    Drawing it takes longer than reading the tensors, and on the meta device imports torch's compiler.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What the function gives; a filling with random numbers leaves its tensor as it is."""
        given = kwargs or {}
        if getattr(func, "__name__", "") in _STARTS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def outline(kind: type[nn.Module], config: Any, *, where: object) -> Layout:
    """The shape of each tensor of the module `kind` of these settings, by name; no tensor is made.

    Raises:
        DigitError: no network has such settings, which `where` names.
    """
    check_numbers(config, where)
    config = cut(config, where=where)
    blocks = list(_blocks(config))
    with torch.device("meta"), Undrawn():
        try:
            module = kind(_first(config, blocks))
        except _IMPOSSIBLE as error:
            what = readable((str(error).splitlines() or [type(error).__name__])[0], 160)
            raise DigitError(f"{where}: no network can be made with its settings ({what})") from None
    layout = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return layout | {name: shape for each in blocks for name, shape in each.others(layout)}


def build(kind: type[nn.Module], config: Any, layout: Layout) -> Any:
    """The module of these settings, whose outline is `layout`, without a random start.

    Blocks of an encoder that nothing is read from are not made.
    """
    depth = len({found[1] for name in layout if (found := re.search(r"vit\.blocks\.(\d+)\.", name))})
    with torch.random.fork_rng([]), Undrawn():
        module: Any = kind(cut(config, where=kind.__name__, depth=depth))
    module.config = config
    if isinstance(config, TokenizerConfig):
        module.encoder.config = config.encoder
    return module


def cut(config: Any, *, where: object, depth: int | None = None) -> Any:
    """The settings of the same network without the blocks of an encoder that are made and then dropped.

    They are not in its file. `depth` says how many are, where the settings do not. DigitError, naming
    `where`, if there is no such block.
    """
    if isinstance(config, TokenizerConfig):
        return replace(config, encoder=cut(config.encoder, where=where, depth=depth))
    if not isinstance(config, EncoderConfig) or not is_vit(config.name):
        return config
    if depth is None and "depth" not in config.arguments:
        return config
    if depth is None:
        there = config.arguments["depth"]
        if not isinstance(there, int) or there not in Bounds(1, 1024) or not -there <= config.block < there:
            raise DigitError(
                f"{where}: a ViT of {readable(there, 20)} blocks has none numbered {config.block}"
            )
        depth = config.block % there + 1
    return replace(config, block=depth - 1, arguments={**config.arguments, "depth": depth})


class _Blocks(NamedTuple):
    """Blocks of which the first `differ` may differ, and the others are as the last of these."""

    setting: str
    count: int
    differ: int
    names: str  # of their tensors: before the number, the number, after it

    def others(self, layout: Layout) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The tensors of the other blocks, of which `layout` has the first ones."""
        for name, shape in layout.items():
            found = re.fullmatch(self.names, name)
            if found and int(found[2]) == self.differ - 1:
                for number in range(self.differ, self.count):
                    yield f"{found[1]}{number}{found[3]}", shape


def _blocks(config: Any) -> Iterator[_Blocks]:
    """The blocks that settings ask for."""
    if isinstance(config, TokenizerConfig):
        yield from _blocks(config.encoder)
    elif isinstance(config, EncoderConfig) and "depth" in config.arguments:
        yield _Blocks("depth", config.arguments["depth"], 1, r"((?:encoder\.)?vit\.blocks\.)(\d+)(\..+)")
    elif isinstance(config, PriorConfig | RendererConfig | FlowConfig):
        yield _Blocks("layers", config.layers, 1, r"((?:transformer\.)?blocks\.)(\d+)(\..+)")
    elif isinstance(config, VQGANConfig):
        decoder = config.blocks if config.decoder_blocks is None else config.decoder_blocks
        for setting, count, side in (
            ("blocks", config.blocks, "encoder"),
            ("decoder_blocks", decoder, "decoder"),
        ):
            yield _Blocks(setting, count, 2, rf"({side}\.(?:down|up)\.\d+\.(?:block|attn)\.)(\d+)(\..+)")


def _first(config: Any, blocks: Iterable[_Blocks]) -> Any:
    """The settings of a network that has the first blocks alone."""
    fewer = {each.setting: min(each.count, each.differ) for each in blocks}
    if isinstance(config, TokenizerConfig):
        return replace(config, encoder=_first(config.encoder, blocks))
    if isinstance(config, EncoderConfig):
        return replace(config, block=0, arguments=config.arguments | fewer) if fewer else config
    return replace(config, **fewer)


def check_numbers(value: Any, where: object, name: str = "the settings") -> None:
    """DigitError for absurd numbers, also in settings and lists inside settings."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        for inner, each in value.items():
            check_numbers(each, where, inner)
    elif isinstance(value, list | tuple) and len(value) <= MANY:
        for each in value:
            check_numbers(each, where, name)
    elif isinstance(value, list | tuple) or (isinstance(value, int | float) and abs(value) > LARGEST):
        raise DigitError(f"{where}: {name} is {readable(value, 40)}, which its tensors cannot make")
