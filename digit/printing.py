"""What people see: in one line, of bounded length, without anything that a terminal or a plot would obey.

Names and values come out of files, and files from anywhere. All that digit prints goes through here, and so
does every sentence of a `DigitError`; `tests/test_printing.py` sees to it.
"""

import json
import re
import sys
from collections.abc import Callable, Collection
from typing import Any

SENTENCE = 3000  # characters of a sentence at most
NAME = 80  # and of a name in it
LISTED = 8  # names that stand in a sentence at most
# Control characters, what ends a line or turns its direction, halves of characters, which no stream takes.
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(text: object, most: int = SENTENCE) -> str:
    r"""The text in one line of at most `most` characters: ESC as \x1b, what is too long without its middle.

    What is plain already stays as it is.
    """
    whole = str(text)
    if len(whole) > most:  # the end of a sentence says what to do
        whole = f"{whole[: most - most // 4 - 5]} ... {whole[len(whole) - most // 4 :]}"
    told = _OBEYED.sub(_escaped, whole)
    return told if len(told) <= most else readable(told, most)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def listed(names: Collection[object], most: int = LISTED) -> str:
    """Names with commas between: the first `most`, each shortened, and how many more there are."""
    first = [readable(name, NAME) for name, _ in zip(names, range(most), strict=False)]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(first) + more


def put(line: object, *, error: bool = False) -> None:
    """Print a line on standard output, or on standard error at once."""
    print(readable(line), file=sys.stderr if error else sys.stdout, flush=error)


def put_page(text: str) -> None:
    """Print a text of several lines, such as help, on standard output."""
    print("\n".join(readable(line) for line in text.split("\n")))


def put_json(value: Any, default: Callable[[Any], Any]) -> None:
    """Print a whole result for machines on standard output; JSON escapes by itself all that is not ASCII."""
    json.dump(value, sys.stdout, indent=2, default=default)
    print()
