"""A tokenizer of somebody's own, as digit uses it: its codes are checked, and it has an id."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.backbone import as_floats
from digit.opening import open_regular, sha256_of

OPTIONAL = ("vectors", "features", "nearest", "decode")
_OTHERS = ("torch", "digit", "timm", "numpy", "builtins")  # packages whose classes are in no id


class OwnTokenizer:
    """What `digit.picture_tokenizer.PictureTokenizer` describes; of OPTIONAL it has what is given.

    Args:
        given: the object; a torch module is moved to `device` and set to evaluation mode.
        name: what it is called in sentences.
        device: where pixels are.

    Raises:
        DigitError: it has no `encode`, or its `codes`, `size` or `id` cannot be one.
    """

    def __init__(self, given: Any, *, name: str, device: torch.device | str = "cpu") -> None:
        if isinstance(given, str) or not callable(getattr(given, "encode", None)):
            raise DigitError(
                f"{name} is a {type(given).__name__} without encode(pixels) -> codes: name a tokenizer"
            )
        self.given, self.name, self.device = given, name, torch.device(device)
        module: Any = given
        if isinstance(given, nn.Module):
            module.to(self.device).eval()
        self.codes = _number(given, "codes", 2**16, name)
        self.size = _number(given, "size", 2**14, name)
        for each in OPTIONAL:
            if callable(method := getattr(given, each, None)):
                setattr(self, each, method)
        if hasattr(self, "nearest"):
            self.nearest = lambda features: self._checked(module.nearest(features), len(features), "nearest")

    @torch.no_grad()
    def encode(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Codes; DigitError for what is no whole numbers, no row for each picture, or out of range."""
        return self._checked(self.given.encode(as_floats(pixels)), len(pixels), "encode")

    def _checked(self, found: Any, pictures: int, method: str) -> Int[Tensor, "b n"]:
        if not isinstance(found, Tensor | np.ndarray):
            raise DigitError(f"{self.name}: {method} gave a {type(found).__name__}: give a tensor of codes")
        codes = torch.as_tensor(found)
        if codes.is_floating_point() or codes.is_complex() or codes.dtype is torch.bool:
            kind = str(codes.dtype).removeprefix("torch.")
            raise DigitError(f"{self.name}: {method} gave {kind}: give codes as whole numbers")
        if codes.ndim != 2 or len(codes) != pictures or not codes.shape[1]:
            raise DigitError(
                f"{self.name}: {method} gave the shape {tuple(codes.shape)} for {pictures} pictures: "
                "give one row of codes for each picture"
            )
        if codes.numel():
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or (self.codes is not None and high >= self.codes):
                most = "" if self.codes is None else f" to {self.codes - 1}"
                raise DigitError(
                    f"{self.name}: {method} gave codes from {low} to {high}: give codes from 0{most}, or "
                    "another number as `codes`"
                )
        return codes.long().to(self.device)

    def needs(self, method: str, what_for: str) -> Any:
        """One of OPTIONAL; DigitError, which says what it is for, where there is none."""
        if not hasattr(self, method):
            raise DigitError(f"{self.name} has no {method}, which {what_for} needs: give it one")
        return getattr(self, method)

    @property
    def vocabulary(self) -> int:
        """The size of its codebook; DigitError where it does not say."""
        if self.codes is None:
            raise DigitError(
                f"{self.name} does not say how many codes there are: give it `codes`, a whole number"
            )
        return self.codes

    @torch.no_grad()
    def table(self) -> Float[Tensor, "k d"]:
        """What each code stands for; DigitError where it does not say."""
        codes = torch.arange(self.vocabulary, device=self.device)
        found = self.needs("vectors", "this")(codes[None])
        if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != (1, len(codes)):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DigitError(
                f"{self.name}: vectors gave {shape} for codes (1, {len(codes)}): give (1, "
                f"{len(codes)}, channels)"
            )
        return found[0]

    @functools.cached_property
    def id(self) -> str:
        """Its own `id`, or else a sha256.

        That covers the source files of its class and of the classes and functions that it holds (but not what
        these import, nor those of torch, timm, NumPy and digit), all parameters and buffers, and all its
        attributes: numbers, texts, paths, tensors, arrays, and lists, dictionaries and objects of such.

        Raises:
            DigitError: a source file cannot be found, or there is an attribute of another kind.
        """
        own = getattr(self.given, "id", None)
        if own is not None:
            if not isinstance(own, str) or not 1 <= len(own) <= 200:
                raise DigitError(f"{self.name}: its id must be a text of 1 to 200 characters")
            return own
        digest, sources = hashlib.sha256(), set[str]()
        for part in _state(self.given, "", self.name, sources, ()):
            digest.update(part)
        for source in sorted(sources):
            digest.update(source.encode())
        return digest.hexdigest()


def _number(given: Any, attribute: str, most: int, name: str) -> int | None:
    value = getattr(given, attribute, None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise DigitError(f"{name}: its {attribute} must be a whole number from 1 to {most:,}")
    return value


_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, PurePath)


def _state(value: Any, place: str, name: str, sources: set[str], above: tuple[int, ...]) -> Iterator[bytes]:
    """The bytes of a value and of all in it, each after its place; `sources` gets the sha256 of files."""
    kind = type(value)
    yield f"\n{place} {kind.__qualname__} ".encode()
    if isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, Tensor | np.ndarray | np.generic):
        array = torch.as_tensor(value).detach().cpu().contiguous()
        yield f"{array.dtype} {tuple(array.shape)} ".encode()
        yield array.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, list | tuple | Mapping | set | frozenset):
        each = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(each):
            yield from _state(inner, f"{place}.{key}", name, sources, above)
    elif inspect.isroutine(value) or inspect.isclass(value):
        yield value.__qualname__.encode()
        _add_source(value, name, sources)
    elif id(value) in above:  # it holds itself
        yield b"above"
    elif (
        isinstance(value, nn.Module)
        or is_dataclass(value)
        or (hasattr(value, "__dict__") and not _foreign(kind))
    ):
        _add_source(kind, name, sources)
        held = _held(value)
        for key in sorted(held):
            yield from _state(held[key], f"{place}.{key}", name, sources, (*above, id(value)))
    else:
        raise DigitError(
            f"{name} holds a {kind.__name__} ({place.lstrip('.')}), of which no id can be made: give it an "
            "`id`, a text that is another one whenever codes may be"
        )


def _held(value: Any) -> dict[str, Any]:
    """What an object holds, by name; of a module its tensors and parts instead of torch's own tables."""
    held = vars(value)
    if not isinstance(value, nn.Module):
        return dict(held)
    own = {key: each for key, each in held.items() if not key.startswith("_") and key != "training"}
    if _foreign(type(value)):  # in which anything may lie
        own = {key: each for key, each in own.items() if isinstance(each, _PLAIN) or is_dataclass(each)}
    return {**own, **value._parameters, **value._buffers, **value._modules}


def _foreign(kind: Any) -> bool:
    return (kind.__module__ or "builtins").split(".")[0] in _OTHERS


def _add_source(kind: Any, name: str, sources: set[str]) -> None:
    """The file that a class or function was written in, which is what its codes hang on."""
    if _foreign(kind):
        return
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    try:
        with open_regular(str(file)) as source:
            sources.add(sha256_of(source))
    except OSError:
        raise DigitError(
            f"{name}: the source of {kind.__qualname__} is in no file, so that no id can be made: give it an "
            "`id`, a text that is another one whenever codes may be"
        ) from None
