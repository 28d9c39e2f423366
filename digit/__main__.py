"""The command `digit`, also `python -m digit`, and so `torchrun ... -m -- digit VERB`."""

from digit.run.processes import at_once, with_launcher
from digit.run.surroundings import mend_streams


def main() -> None:
    """Run the command line; a signal while its libraries are loaded, which takes seconds, ends it at once."""
    at_once()
    mend_streams()
    with_launcher()
    from digit.run.main import main as command

    command()


if __name__ == "__main__":
    main()
