"""`module:object`: a tokenizer of the user's own, whose code runs. Verbs come here with what was typed."""

import functools
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from digit.errors import DigitError
from digit.features import Encoder
from digit.own_tokenizer import OwnTokenizer
from digit.picture_tokenizer import PictureTokenizer, names_code
from digit.tokenizer import Tokenizer
from digit.weights.artifact import artifact_of, identity


def open_own(given: Path | PictureTokenizer, device: torch.device) -> OwnTokenizer | None:
    """The tokenizer that module:object or file.py:object names, or that Python gave; None for a folder.

    The object is a tokenizer, or a class or function that makes one without arguments. The current folder is
    importable, and beside a file its folder; what is installed goes before both.

    Raises:
        DigitError: there is no such module, file or object, it wants arguments, or it is no tokenizer.
    """
    if isinstance(given, Path):
        if not names_code(given):
            return None
        return OwnTokenizer(_made(given), name=str(given), device=device)
    own = OwnTokenizer(given, name=type(given).__name__, device=device)
    if isinstance(given, Tokenizer) and type(given.encoder) is Encoder:
        own.id = artifact_of(given)["id"] if hasattr(given, "artifact") else identity(given)
    return own


def id_of(module: Any) -> str:
    """Of a tokenizer of somebody's own or of an artifact."""
    return module.id if isinstance(module, OwnTokenizer) else artifact_of(module)["id"]


def known(given: Path | PictureTokenizer, opened: Any) -> Path | str:
    """What decides a result: the id of what is no folder, whose name says nothing of its code."""
    return f"id {opened.id}" if isinstance(opened, OwnTokenizer) else Path(str(given))


def _made(spec: Path) -> Any:
    place, _, name = str(spec).rpartition(":")
    module = _file(Path(place), spec) if place.endswith(".py") else _module(place, spec)
    found: Any
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise DigitError(f"{spec}: {place} has no {name} ({error}): name what is in it") from None
    if inspect.isclass(found) or (callable(found) and not hasattr(found, "encode")):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise DigitError(
                f"{spec} cannot be made without arguments ({error}): name one that can"
            ) from None
        return found()
    return found


def _module(place: str, spec: Path) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # one that the user's own module wants
        raise DigitError(
            f"{spec}: there is no module {error.name}: name one that can be imported from here, or a file.py"
        ) from None
    except (TypeError, ValueError) as error:  # as of a relative name
        raise DigitError(f"{spec}: {place} is no name of a module ({error})") from None


def _file(path: Path, spec: Path) -> ModuleType:
    if not path.is_file():
        raise DigitError(f"{spec}: there is no file {path}: name one with a tokenizer in it")
    _importable(path.resolve().parent)
    there = sys.modules.get(path.stem)
    if there is not None and Path(getattr(there, "__file__", None) or "").resolve() == path.resolve():
        return there
    name = path.stem if there is None else f"own_{path.stem}"
    described: Any = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
    except BaseException:  # as Python's own import leaves no half module, and it is raised again
        del sys.modules[name]
        raise
    return module


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # at the end: no file beside it hides a module that is imported later
