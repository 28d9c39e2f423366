"""What goes wrong on the user's side, each in one sentence that says what to do."""


class DigitError(Exception):
    """Bad input: the command line prints it as one sentence and exits with code 2.

    The message names the file or option and says what to do. Nothing half written is left behind.
    """


class LineageError(DigitError):
    """Artifacts that do not belong together, such as a prior and the codes of another tokenizer."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, with another exit code."""
