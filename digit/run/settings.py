"""Settings of a verb as a TOML file: a line for each, named as its option is, without the dashes.

`--config` reads it, and a training writes one into its folder, by which it can be repeated. Without torch.
"""

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from digit.errors import DigitError, first_line
from digit.opening import read_file
from digit.picture_tokenizer import names_code
from digit.run.arguments import MEANT, Option, reader, settings_of
from digit.run.recipes import defaults_of
from digit.run.verbs import VERBS, nearest

NAME = "settings.toml"  # in a run's folder
MOST = 1 << 20  # bytes of a file
ASKED = ("out", "plan")  # what a repeated run is asked anew


def read(path: Path) -> dict[str, Any]:
    """What a file of settings says, by names as options have them, before it is checked.

    Raises:
        DigitError: it cannot be read, or is no TOML.
    """
    try:
        values = tomllib.loads(read_file(path, most=MOST).decode())
    except OSError as error:
        raise DigitError(f"--config: {path} cannot be read ({error.strerror}): name a file") from None
    except (ValueError, RecursionError) as error:
        raise DigitError(
            f"--config: {path} is no TOML ({first_line(error)}): give a line for each setting, as lr = 1e-3"
        ) from None
    named: dict[str, Any] = {}
    for name, value in values.items():
        key = name.replace("_", "-")
        if key in named:
            raise DigitError(f"--config: {path} has {key} twice: leave one out")
        named[key] = value
    return named


def checked(values: Mapping[str, Any], settings: Sequence[Option], path: Path, verb: str) -> dict[str, Any]:
    """The values of a file by the paths of settings with dots, as options are parsed.

    Raises:
        DigitError: a name that the verb has not, or a value that its option would not take.
    """
    known = {setting.key: setting for setting in settings}
    found = {}
    for name, value in values.items():
        if name not in known:
            near = nearest(name, [*known]) or f"; `digit help {verb}` lists them"
            raise DigitError(f"--config: {path}: {verb} has no setting {name}{near}")
        try:
            found[".".join(known[name].path)] = _value(known[name], value)
        except ValueError as error:
            raise DigitError(f"--config: {path}: {name}: {error}") from None
    return found


def usual(settings: Sequence[Option], path: str) -> Any:
    """The default of a setting by its path with dots."""
    return next(setting.default for setting in settings if ".".join(setting.path) == path)


def text_of(verb: str, given: Mapping[str, Any]) -> str:
    """The file by which a run can be repeated: `given` are all arguments of its verb.

    What is None, or empty, as it is by itself has no line.
    """
    function = VERBS[verb].function()
    defaults = defaults_of(given.get("recipe"), verb.split()[-1], flow=bool(given.get("flow")))
    typed = "".join(f" {each.name} {each.default}" for each in settings_of(function, given) if _is_code(each))
    lines = [
        f"# All settings of a run of `digit {verb}`, which this repeats:",
        f"#     digit {verb} --config {NAME} --out FOLDER{typed}",
        "",
    ]
    for setting, before in zip(settings_of(function, given), settings_of(function, defaults), strict=True):
        nothing = setting.default in (None, (), {}) and before.default == setting.default
        if setting.path[0] not in ASKED and not nothing and not _is_code(setting):
            lines.append(line_of(setting))
    return "\n".join(lines) + "\n"


def _is_code(setting: Option) -> bool:
    """Whether the value has to be typed: code, or an object that Python gave."""
    value = setting.default
    return (
        setting.runs_code and value is not None and (names_code(value) or not isinstance(value, str | Path))
    )


def line_of(setting: Option) -> str:
    """The line of a file that has the default of a setting."""
    return f"{setting.key} = {_toml(setting.default)}"


def example(setting: Option) -> str:
    """The line that somebody may mean who typed it as an option."""
    value = not setting.default if setting.kind is bool else setting.default
    shown = _toml(value)
    if value in (None, ()):
        shown = f"[{setting.metavar}, ...]" if get_origin(setting.kind) is tuple else setting.metavar
    return f"{setting.key} = {shown}"


def listed(settings: Sequence[Option]) -> str:
    """What help says about settings that are no options; nothing where there are none."""
    lines = ", ".join(setting.key for setting in settings if setting.in_file)
    return lines and f"Only in a file that --config names (docs/settings.md explains each): {lines}."


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)} = {_toml(each)}' for name, each in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    # TOML's texts are JSON's, but for the one character that JSON leaves as it is.
    return json.dumps("none" if value is None else str(value)).replace("\x7f", "\\u007f")


def _value(setting: Option, value: Any) -> Any:
    """A value of a file as the setting's; ValueError says what is wrong with it."""
    origin, members = get_origin(setting.kind), get_args(setting.kind)
    if setting.kind is bool:
        if not isinstance(value, bool):
            raise ValueError("give true or false")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError("give names and numbers, as {depth = 4, heads = 2}")
        return {name: _single(each, int, setting) for name, each in value.items()}
    if value == "none" and setting.optional and setting.default is not None:
        return None
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError("give a list, as [1, 2]")
        if members[-1] is not ... and len(value) != len(members):
            raise ValueError(f"give {len(members)} values, these are {len(value)}")
        return tuple(_single(each, members[0], setting) for each in value)
    return _single(value, setting.kind, setting)


def _single(value: Any, kind: Any, setting: Option) -> Any:
    if setting.runs_code and names_code(value):
        raise ValueError(f"{value} is code, which no file may name: type {setting.name} {value}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"give {MEANT.get(kind, 'one text')}")
    try:
        return reader(kind, setting.bounds)(str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
