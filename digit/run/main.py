"""`digit VERB ...`: parses, then loads what the verb needs and runs it; bad input ends in a sentence, code 2.

Help and typing errors need no torch: the verbs' modules are light, and a verb imports the rest when it runs.
"""

import contextlib
import errno
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digit import __version__
from digit.errors import DigitError, Terminated, first_line, on_command_line
from digit.printing import put, put_json, put_page
from digit.run import settings
from digit.run.arguments import Option, call_of, options_of, parser_of, settings_of, typed
from digit.run.processes import by_exception, interrupted, number, orphaned, run_together, without_processes
from digit.run.recipes import defaults_of, described
from digit.run.surroundings import check_environment
from digit.run.unused import unused
from digit.run.verbs import OLD_VERBS, VERBS, group_page, members, nearest, overview, renamed

ALIKE = 3.0  # grace period in seconds: another process stays silent so long that the main one's sentence wins
HELP = ("-h", "--help")
COMMON = {
    "--help": {"action": "store_true", "help": "show this help and stop"},
    "--json": {
        "action": "store_true",
        "help": "the full result as JSON on standard output, all else on standard error",
    },
    "--config": {
        "metavar": "FILE",
        "help": "settings from a TOML file, a line for each, as steps = 1000; options win over it",
    },
}
PROCESSES = {
    "--processes": {
        "metavar": "N",
        "type": number,
        "help": "split the work over N processes of this machine, best one for each GPU; the result is the "
        "same (default: 1)",
    }
}

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BAD_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENXIO),
)


@dataclass(frozen=True)
class Command:
    """One command line, understood."""

    verb: str
    call: Callable[[], dict[str, Any]]
    json: bool
    processes: int
    arguments: list[str]  # as they were typed
    unused: list[str]  # sentences about options that change nothing


@on_command_line()
def understand(arguments: list[str]) -> Command | str:
    """What the command line asks for, or the page of help that it asks for.

    Raises:
        DigitError: no such verb or option, a value that is missing or wrong.
    """
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in HELP:
        return overview()
    if arguments[0] == "--version":
        return f"digit {__version__}"
    two = " ".join(arguments[:2])
    if members(arguments[0]) and two not in VERBS and arguments[0] not in VERBS:
        if len(arguments) > 1 and arguments[1] in HELP:
            return group_page(arguments[0])
        raise DigitError(_no_member(arguments))
    verb = two if two in VERBS else arguments[0]
    if verb not in VERBS:
        words = [*dict.fromkeys(name.split()[0] for name in VERBS), "help"]
        raise DigitError(f"there is no verb {verb}{nearest(verb, words) or ';'} `digit --help` lists them")
    return _command(verb, arguments[len(verb.split()) :], arguments)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        command = understand(arguments)
    except DigitError as error:
        return _fail(str(error))
    if isinstance(command, str):
        put_page(command)
        return 0
    return carry_out(command)


@on_command_line()
def carry_out(command: Command) -> int:
    """Run the verb, alone or in several processes; its exit code."""
    arguments, processes = command.arguments, command.processes
    if processes > 1:
        return run_together(without_processes(arguments), processes)
    from digit.distributed import is_main, joined
    from digit.progress import say

    try:
        with joined(), contextlib.redirect_stdout(sys.stderr if command.json else sys.stdout):
            for line in command.unused:
                say(line)
            result = command.call()
            speaks = is_main()
    except DigitError as error:
        if orphaned():  # all of them end, and one that notices the end of another knows no reason
            return interrupted(Terminated())
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        return interrupted(stop)
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        return _fail(
            f"not enough memory ({first_line(error)[:200]}): give a smaller --batch, or less at once"
        )
    except OSError as error:
        if error.errno in _NO_ROOM:
            return _fail(
                f"no space left while writing {error.filename or 'a file'}: free some and repeat the command"
            )
        if error.errno in _BAD_PLACE:
            return _fail(
                f"{error.filename or 'a file'} cannot be written or read ({error.strerror}): "
                "choose another place"
            )
        raise
    if speaks and command.json:
        put_json(result, _plain)
    return 0


@on_command_line()
def main() -> None:
    """The console script."""
    code = 2
    try:
        check_environment()
        command = understand(sys.argv[1:])
        if isinstance(command, str):
            put_page(command)
            code = 0
        else:
            _load_torch()
            by_exception()
            warnings.filterwarnings("ignore", category=UserWarning)  # libraries' advice is for developers
            code = carry_out(command)
        sys.stdout.flush()
    except DigitError as error:
        code = _fail(str(error))
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        code = _fail("standard output takes no more, as its disk is full: free some and repeat the command")
    except KeyboardInterrupt as stop:
        code = interrupted(stop)
    if code > 128 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a signal: a thread that waits for a disk would keep the process
    sys.exit(code)


def _load_torch() -> None:
    """Import it now: a signal during these seconds ends the process at once."""
    try:
        import torch  # noqa: F401
    except Exception as error:  # its libraries raise what they like for wrong variables
        reason = str(error).strip().splitlines() or [""]
        raise DigitError(
            f"torch cannot be loaded ({type(error).__name__}: {reason[0][:200]}): install it again, or unset "
            "the TORCH variables of the environment"
        ) from None


def _command(verb: str, arguments: list[str], whole: list[str]) -> Command | str:
    """The verb's own arguments, understood; `whole` is the command line that they end."""
    function, stage = VERBS[verb].function(), verb.removeprefix("train ")
    file = _value(arguments, "--config")
    with _told(verb):
        written = settings.read(Path(file)) if file else {}
        recipe, start = (_early(arguments, written, name) for name in ("recipe", "init-from"))
        which = {name: bool(_early(arguments, written, name)) for name in ("flow", "masked")}
        defaults = defaults_of(recipe, stage, **which, init_from=start)
        known = settings_of(function, defaults)
        from_file = settings.checked(written, known, Path(file), verb) if file else {}
        shown = {**defaults, **call_of(function, from_file, defaults)}
    common = COMMON | (PROCESSES if VERBS[verb].together else {})
    more: Any = {"more": described(recipe) if recipe else "", "last": settings.listed(known)}
    parser = parser_of(verb, function, shown, **more, common=common)
    if any(argument in HELP for argument in arguments):
        return parser.format_help()
    with _told(verb):
        names = [name for option in options_of(function, defaults) for name in option.names]
        _known(verb, [*names, *common], known, arguments)
        given = typed(parser, arguments)
        as_json, processes = given.pop("json", False), given.pop("processes", 1)
        given.pop("config", None)
        if (given.get("plan.dry_run") or from_file.get("plan.dry_run")) and processes > 1:
            given, processes = {"plan.gpus": processes} | given, 1  # one process tells for all
        call = call_of(function, from_file | given, defaults)
    other = {path: value for path, value in from_file.items() if value != settings.usual(known, path)}
    lines = list(unused(verb, other | given, known))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not VERBS[verb].together:
        raise DigitError(f"{verb} runs in one process: start it without torchrun")
    return Command(verb, lambda: function(**call), as_json, processes, whole, lines)


@contextlib.contextmanager
def _told(verb: str) -> Iterator[None]:
    """A DigitError inside names the verb and its help."""
    try:
        yield
    except DigitError as error:
        raise DigitError(f"{verb}: {error} (`digit {verb} --help` explains)") from None


def _known(verb: str, names: list[str], known: list[Option], arguments: list[str]) -> None:
    """DigitError for the first option that the verb has not, of `names`, or that only a file sets."""
    in_file = {name: setting for setting in known if setting.in_file for name in setting.names}
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and len(option) > 2 and option not in names:
            if option == "--processes":
                raise DigitError("it runs in one process, without --processes")
            if option in in_file:
                line = settings.example(in_file[option])
                raise DigitError(f"{option} is set by --config FILE: give it the line {line}")
            old = renamed(verb, option)
            raise DigitError(old or f"there is no option {option}{nearest(option, [*names, *in_file])}")


def _no_member(arguments: list[str]) -> str:
    """What to say to `digit train`, `digit train horse` and `digit train base ...`."""
    group, *rest = arguments
    known = [name.split()[1] for name in members(group)]
    if not rest:
        return f"{group} what? {', '.join(known)}; `digit {group} --help` tells more"
    new = OLD_VERBS.get(f"{group} {rest[0]}")
    if new:
        return f"this is now: digit {new} {shlex.join(rest[1:])}".strip()
    near = nearest(rest[0], known) or ";"
    return f"there is no verb {group} {rest[0]}{near} `digit {group} --help` lists them"


def _value(arguments: list[str], option: str) -> str | None:
    """The value of an option before the parser sees it; None where it is not given."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else (arguments[place + 1 :] or [""])[0]
    return None


def _early(arguments: list[str], written: dict[str, Any], name: str) -> Any:
    """What an option decides before the others are parsed: a text or a switch, typed or out of a file."""
    value = written.get(name)
    if name in ("flow", "masked"):
        return f"--{name}" in arguments or (value is True and f"--no-{name}" not in arguments)
    typed = _value(arguments, f"--{name}")
    return typed if typed is not None else value if isinstance(value, str) else None


def _fail(sentence: str) -> int:
    process = os.environ.get("RANK", "0")
    if process != "0":  # what the main process says of itself is not said again: torchrun ends this one first
        time.sleep(ALIKE)
    put(f"digit: {sentence}" if process == "0" else f"digit: (process {process}) {sentence}", error=True)
    return 2


def _is_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or of a GPU is used up, which torch says in several ways."""
    says = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in says)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.item()  # a numpy or torch scalar
