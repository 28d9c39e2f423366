"""A verb's signature -> its options, their help and the parser; without torch, as the verbs' modules are.

Each parameter is an option; a parameter that is a dataclass is a group of them, a field each. Its text is the
parameter's in the docstring, or the comment beside the field.
"""

import argparse
import dataclasses
import functools
import inspect
import re
import shutil
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from digit.bounds import Bounds, bounds_of
from digit.errors import DigitError
from digit.run.options import IN_FILE, POSITIONAL, RUNS_CODE, InFile, Metavar

COLUMN = 26  # where the texts of options begin
USAGE: dict[str, Any] = {"subsequent_indent": " " * 9, "break_on_hyphens": False}  # behind "usage: "
LONG = 40  # characters of choices beyond which they stand in the text
WORDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
MEANT = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """One option of a verb, or a positional argument."""

    path: tuple[str, ...]  # the parameter, and the field where it is a dataclass
    kind: Any  # its type, without None
    metavar: str  # for each value
    default: Any  # `required` where there is none
    text: str
    group: str  # the parameter that it is a part of; "" for those of the verb itself
    positional: bool = False
    optional: bool = False  # `none` can be typed, where the default is more
    bounds: Bounds | None = None  # of each number
    in_file: bool = False  # set by --config alone, and no option
    runs_code: bool = False  # may name code of the user's, which no file may

    @property
    def key(self) -> str:
        """As a file of settings has it."""
        return self.path[-1].replace("_", "-")

    @property
    def name(self) -> str:
        """As the help shows it; a switch that is on is shown as what turns it off."""
        if self.positional:
            return self.metavar
        return ("--no-" if self.default is True else "--") + self.key

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is inspect.Parameter.empty

    @property
    def names(self) -> tuple[str, ...]:
        """All that can be typed for it."""
        return (f"--{self.key}", f"--no-{self.key}") if self.kind is bool else (self.name,)

    @property
    def help(self) -> str:
        """Its text with the default, where that is more than nothing."""
        value = self.default
        if self.required or value is False or value in (None, (), {}):
            return self.text
        if isinstance(value, tuple):
            value = " ".join(map(str, value))
        value = "on" if value is True else value
        return f"{self.text} (default: {value})".strip()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DigitError(message.removeprefix("argument "))


def options_of(verb: Callable[..., Any], defaults: Mapping[str, Any] | None = None) -> list[Option]:
    """The options of a verb in their order; `defaults` replace those of its signature."""
    return [option for option in settings_of(verb, defaults) if not option.in_file]


def settings_of(verb: Callable[..., Any], defaults: Mapping[str, Any] | None = None) -> list[Option]:
    """The same with those that only a file of settings has."""
    hints = get_type_hints(verb, include_extras=True)
    texts = _texts(inspect.getdoc(verb) or "")
    found: list[Option] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        default = (defaults or {}).get(name, parameter.default)
        found += _options((name,), hints[name], default, texts.get(name, ""), "")
    return found


def description(verb: Callable[..., Any]) -> str:
    """What the verb's docstring says before its arguments."""
    return re.split(r"\n(?:Args|Raises|Returns):\n", inspect.getdoc(verb) or "")[0].strip()


def parser_of(
    name: str,
    verb: Callable[..., Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    more: str = "",
    last: str = "",
    common: Mapping[str, Mapping[str, Any]] | None = None,
) -> argparse.ArgumentParser:
    """The parser of `digit NAME`: gives what was typed and nothing more, by `path` with dots.

    `more` is what its help says besides the docstring, `last` what it ends with, and `common` are options
    that it is given besides its own, as argparse's `add_argument` takes them.
    """
    options = options_of(verb, defaults)
    needed = [_usage(option) for option in options if option.positional or option.required]
    width = min(max(shutil.get_terminal_size().columns, 40), 100)

    parser = _Parser(
        prog=f"digit {name}",
        usage=textwrap.fill(" ".join((f"digit {name}", *needed, "[options]")), width - 7, **USAGE),
        description=_wrapped(f"{description(verb)}\n\n{more}".strip(), width),
        epilog=_wrapped(last, width),
        formatter_class=functools.partial(
            argparse.RawDescriptionHelpFormatter, max_help_position=COLUMN, width=width
        ),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    texts = _texts(inspect.getdoc(verb) or "")
    groups: dict[str, Any] = {}
    for option in options:
        title = "arguments" if option.positional else option.group or "options"
        if title not in groups:
            groups[title] = parser.add_argument_group(title, texts.get(option.group))
        _add(groups[title], option)
    every = parser.add_argument_group("every verb")
    for option, how in (common or {}).items():
        every.add_argument(option, **how)
    return parser


def call_of(
    verb: Callable[..., Any], typed: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of a call: what was typed, in dataclasses where it belongs there.

    Raises:
        DigitError: the dataclass refuses a value.
    """
    signature = inspect.signature(verb).parameters
    return _changes({name: parameter.default for name, parameter in signature.items()} | {**defaults}, typed)


def _changes(start: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from `start`, where a path with dots changes a dataclass in it."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in typed.items():
        name, _, rest = path.partition(".")
        found.setdefault(name, {})[rest] = value
    return {
        name: inner[""] if "" in inner else replace(start[name], **_changes(vars(start[name]), inner))
        for name, inner in found.items()
    }


def _options(
    path: tuple[str, ...],
    annotation: Any,
    default: Any,
    text: str,
    group: str,
    in_file: frozenset[str] = frozenset(),
) -> list[Option]:
    kind: Any
    kind, notes = _plain(annotation)
    if not dataclasses.is_dataclass(kind):
        word = next((note.word for note in notes if isinstance(note, Metavar)), None) or _word(kind)
        if word.count("|") and len(word) > LONG:
            text, word = f"{text.removesuffix('.')}: {word.replace('|', ', ')}.", "NAME"
        place = POSITIONAL in notes
        bounds = None if kind is str else bounds_of(annotation)  # those of Python's other type
        alone = path[-1] in in_file or IN_FILE in notes
        more = (place, None in notes, bounds, alone, RUNS_CODE in notes)
        return [Option(path, kind, word, default, text, group, *more)]
    hints, comments = get_type_hints(kind, include_extras=True), comments_of(kind)  # pyright: ignore[reportArgumentType]
    in_file = next((note for note in notes if isinstance(note, InFile)), in_file)
    return [
        option
        for field in dataclasses.fields(kind)
        for option in _options(
            (*path, field.name),
            hints[field.name],
            getattr(default, field.name),
            comments.get(field.name, ""),
            path[-1],
            in_file,
        )
    ]


def _plain(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without None and Annotated, and what Annotated said, with None for None."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, notes = _plain(parts[0])
        return kind, [*parts[1:], *notes]
    if origin in (Union, types.UnionType):
        part = next(part for part in parts if part is not type(None))
        kind, notes = _plain(part)
        return kind, [*notes, *([None] if type(None) in parts else [])]
    if origin is tuple:
        members = [_plain(part) for part in parts]
        return tuple[tuple(kind for kind, _ in members)], [note for _, notes in members for note in notes]
    return annotation, []


def _word(kind: Any) -> str:
    """What stands for one value of a type."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return _word(get_args(kind)[0])
    return "NAME N" if get_origin(kind) is dict else WORDS.get(kind, "")


def _add(group: Any, option: Option) -> None:
    """Add an option to argparse's group."""
    name, text = option.path, option.help.replace("%", "%%")
    more: dict[str, Any] = {"help": text, "metavar": option.metavar}
    if option.kind is bool:
        for typed, value in zip(option.names, (True, False), strict=True):
            shown = text if typed == option.name else argparse.SUPPRESS
            group.add_argument(typed, dest=".".join(name), action="store_const", const=value, help=shown)
        return
    if get_origin(option.kind) is tuple:
        members = get_args(option.kind)
        more |= {
            "type": reader(members[0], option.bounds),
            "nargs": "+" if members[-1] is ... else len(members),
        }
        more["action"] = _Together
    elif get_origin(option.kind) is dict:
        more |= {"nargs": "+", "action": functools.partial(_Pairs, bounds=option.bounds)}
    else:
        more["type"] = reader(
            option.kind, option.bounds, optional=option.optional and option.default is not None
        )
    if option.positional:
        if not option.required:
            more["nargs"] = "*" if "nargs" in more else "?"
        group.add_argument(".".join(name), **more)
    else:
        group.add_argument(option.name, dest=".".join(name), required=option.required, **more)


class _Together(argparse.Action):
    """Several values as the tuple that the verb takes."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if values:
            setattr(namespace, self.dest, tuple(values))


class _Pairs(argparse.Action):
    """Names and whole numbers in turn as a dict."""

    def __init__(self, *names: Any, bounds: Bounds | None, **how: Any) -> None:
        super().__init__(*names, **how)
        self._bounds = bounds

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if len(values) % 2:
            raise argparse.ArgumentError(self, "give names and numbers in turn, as depth 4 heads 2")
        try:
            numbers = [reader(int, self._bounds)(value) for value in values[1::2]]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, dict(zip(values[::2], numbers, strict=True)))


def reader(kind: Any, bounds: Bounds | None = None, *, optional: bool = False) -> Callable[[str], Any]:
    """From what is typed to a value; argparse shows the error's sentence behind the option's name."""

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        if not text.strip():  # as of a shell's variable that is not set
            raise argparse.ArgumentTypeError("the value is empty: give one, or leave the option out")
        if get_origin(kind) is Literal:
            choices = {str(choice): choice for choice in get_args(kind)}
            if text in choices:
                return choices[text]
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        if text.startswith("~/") and kind in (str, Path):  # shells leave it in --out=~/x
            text = str(Path(text).expanduser())
        try:
            value: Any = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {MEANT[kind]}") from None
        if bounds is not None and (refusal := bounds.refusal(value)):
            raise argparse.ArgumentTypeError(refusal)
        return value

    return read


def _usage(option: Option) -> str:
    several = get_args(option.kind)[-1:] == (...,)
    word = option.metavar + " ..." * several
    if option.positional:
        return word if option.required else f"[{word}]"
    return f"{option.name} {word}"


def _wrapped(text: str, width: int) -> str:
    """Paragraphs filled to `width`; an example is split as a shell takes it, indented lines stay."""
    how: Any = {"break_on_hyphens": False, "break_long_words": False}

    def part_of(part: str) -> str:
        if part.startswith(" "):
            return part
        if not re.match(r"Examples?:", part):
            return textwrap.fill(part, width, **how)
        lines = [
            textwrap.wrap(line, width - 2, subsequent_indent="    ", **how) for line in part.splitlines()
        ]
        return "\n".join(" \\\n".join(line) for line in lines)

    return "\n\n".join(part_of(part) for part in text.split("\n\n"))


def _texts(docstring: str) -> dict[str, str]:
    """The texts of a docstring's `Args:` by name, each in one line."""
    section = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r" {4}(\w+): +(.*)", line)
        if start:
            name, found[start[1]] = start[1], start[2]
        elif name:
            found[name] += " " + line.strip()
    return found


@functools.cache
def comments_of(kind: type) -> dict[str, str]:
    """The comments beside a dataclass's fields by name, each in one line."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.getsource(kind).splitlines():
        start = re.match(r" {4}(\w+): ", line)
        if start:
            name = start[1]
        elif re.match(r" {4}(def |@)", line):
            break
        comment = line.partition("  # ")[2]
        if name and comment:
            found[name] = f"{found.get(name, '')} {comment.strip()}".strip()
    return found


def typed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """What the command line gives, by path; `--top_k=1` is `--top-k=1`, and DigitError what is neither."""
    parts = [argument.partition("=") for argument in arguments]
    words = [
        name.replace("_", "-") + equals + value if name.startswith("--") else name + equals + value
        for name, equals, value in parts
    ]
    return vars(parser.parse_args(words))
