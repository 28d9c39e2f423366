"""What goes wrong on the user's side, each in one sentence that says what to do."""

from collections.abc import Mapping


class DigitError(Exception):
    """Bad input: the command line prints it as one sentence and exits with code 2.

    The message names the file or option and says what to do. Nothing half written is left behind.
    """


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
