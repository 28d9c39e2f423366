"""The reference pages of the site, written while it is built.

`{verbs}` describes the verbs of the command line out of what their parsers are made of, `{surface}` the names
of digit/__init__.pyi out of their docstrings.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import digit
from digit.errors import spoken
from digit.run.arguments import Option, comments_of, description, options_of
from digit.run.main import COMMON, PROCESSES
from digit.run.verbs import GROUPS, Verb


class Verbs(SphinxDirective):
    """A section per group of `digit --help`, in it one per verb."""

    def run(self) -> list[nodes.Node]:
        """What stands in the directive's place."""
        lines = []
        for group, verbs in GROUPS.items():
            lines += [f"## {group.capitalize()}", ""]
            for name, verb in verbs.items():
                lines += _verb(name, verb)
        lines += ["## Every verb", "", "```{program} digit", "```", "", *_common(COMMON), *_common(PROCESSES)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Surface(SphinxDirective):
    """A section per kind of thing, in it what can be imported from `digit`."""

    def run(self) -> list[nodes.Node]:
        """What stands in the directive's place."""
        kinds: dict[str, list[str]] = {"Objects": [], "Functions": [], "Errors": []}
        for name in sorted(
            digit.__all__, key=lambda name: name != "DigitPipeline"
        ):  # the first that one meets
            thing = getattr(digit, name)
            if not isinstance(thing, type):
                kinds["Functions"].append(f".. autofunction:: digit.{name}")
            elif issubclass(thing, Exception):
                kinds["Errors"].append(f".. autoexception:: digit.{name}\n   :no-members:")
            else:
                kinds["Objects"].append(f".. autoclass:: digit.{name}\n   :members:{_also(thing)}")
        parts = [
            "\n\n".join((f"## {kind}", "```{eval-rst}", *entries, "```"))
            for kind, entries in kinds.items()
            if entries
        ]
        return self.parse_text_to_nodes("\n\n".join(parts), allow_section_headings=True)


def _also(thing: type) -> str:
    """The option that adds what people call without a name."""
    own = vars(thing).get("__call__")
    return "\n   :special-members: __call__" if own is not None else ""


def _verb(name: str, verb: Verb) -> Iterator[str]:
    function = verb.function()
    options = options_of(function)
    needed = [option for option in options if option.positional or option.required]
    yield from (f"### digit {name}", "", f"```{{program}} digit {name}", "```", "")
    yield from ("```text", " ".join((f"digit {name}", *map(_typed, needed), "[options]")), "```", "")
    for part in description(function).split("\n\n"):
        examples = [line for line in part.splitlines() if re.match(r"Examples?: ", line)]
        if examples:
            yield from ("```bash", *(line.partition(": ")[2] for line in examples), "```", "")
        else:
            yield from (_plain(part), "")
    for option in options:
        text = option.help + " Required." * option.required
        yield from (f"````{{option}} {_typed(option)}", _plain(text), "````", "")
    common = [*COMMON, *(PROCESSES if verb.together else {})]
    takes = ", ".join(f"`{each}`" for each in common)
    yield from (f"Besides, as [every verb](#every-verb): {takes}.", "")


def _common(options: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Options of all verbs, as argparse takes them."""
    for typed, how in options.items():
        yield from (f"````{{option}} {typed} {how.get('metavar', '')}", _plain(how["help"]), "````", "")


def _typed(option: Option) -> str:
    return option.metavar if option.positional else f"{option.name} {option.metavar}".strip()


def _plain(text: str) -> str:
    """The text as Markdown that shows it as it is, but for what stands in backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_<>\[\]|{}$#~])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def plain_types(_: Sphinx, thing: Any, __: bool) -> None:
    """Annotations without bounds and words for the command line: `Annotated[float, ...]` is a float."""
    function = inspect.unwrap(thing)
    if inspect.isfunction(function):
        function.__annotations__.update(get_type_hints(function))


def in_python(_: Sphinx, what: str, name: str, thing: Any, __: Any, lines: list[str]) -> None:
    """Docstrings in Python's words: options are arguments; fields have the comments beside them."""
    found = [f"``{line}``" if line.startswith("Example") else spoken(line) for line in lines]
    if what == "class" and dataclasses.is_dataclass(thing):
        found += ["", "Args:", *(f"    {field}: {text}" for field, text in comments_of(thing).items()), ""]
    lines[:] = found


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("verbs", Verbs)
    app.add_directive("surface", Surface)
    app.connect("autodoc-before-process-signature", plain_types)
    app.connect("autodoc-process-docstring", in_python, priority=100)  # before napoleon reads sections
    return {"parallel_read_safe": True}
