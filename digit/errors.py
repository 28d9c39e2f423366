"""What goes wrong on the user's side, each in one sentence that says what to do, in the caller's words."""

import contextlib
import re
from collections.abc import Iterator, Mapping

from digit.printing import readable

# Sentences are written with options as they are typed. What stands in backticks is a command.
_OPTION = re.compile(r"`[^`]*`|(?<![\w/.-])--(no-)?([a-z][a-z0-9-]*)( (?=[A-Z]{2,}\b))?")
_caller = {"types": False}  # one for all threads


@contextlib.contextmanager
def on_command_line() -> Iterator[None]:
    """Inside, sentences name options as they are typed; outside, as arguments of Python."""
    before, _caller["types"] = _caller["types"], True
    try:
        yield
    finally:
        _caller["types"] = before


def spoken(sentence: str) -> str:
    """The sentence in the caller's words: `--top-k` is top_k in Python, and `--no-mirror` mirror=False."""
    if _caller["types"]:
        return sentence

    def argument(found: re.Match[str]) -> str:
        off, name, value = found.groups()
        end = "=False" if off else "=" if value else ""  # as in --out FOLDER
        return found[0] if name is None else name.replace("-", "_") + end

    return _OPTION.sub(argument, sentence)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, no stop at its end; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


class DigitError(Exception):
    """Bad input: the command line prints it as one sentence and exits with code 2.

    The message names the file, option or argument and says what to do; whatever it quotes, it is one line of
    bounded length (`digit.printing.readable`). Nothing half written is left behind.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(spoken(readable(sentence)))


class LineageError(DigitError):
    """Artifacts that do not belong together, such as a prior and the codes of another tokenizer."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, with another exit code."""


def check_lineage(who: str, made_with: Mapping[str, str], other: str, ids: Mapping[str, str]) -> None:
    """LineageError where `who` and `other` name different artifacts of one kind.

    Both mappings are ids by kind, such as {"tokenizer": id}. A kind that only one of them names is no
    contradiction: a converted stage may not know what it was made with.
    """
    for kind, identity in made_with.items():
        if ids.get(kind, identity) != identity:
            raise LineageError(
                f"{who} belongs to the {kind} {identity[:12]}, {other} to {ids[kind][:12]}: use stages and "
                f"codes of one {kind}"
            )
