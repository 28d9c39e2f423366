"""`digit train ... --wrong-codes`: what is near each code, by the tokenizer that made them."""

from pathlib import Path
from typing import Any

from digit.data.codes import Codes
from digit.data.wrong_codes import WrongCodes, neighbours
from digit.errors import DigitError, check_lineage
from digit.tokenizer import Tokenizer
from digit.weights.artifact import artifact_of, load


def wrong_codes_of(codes: Codes, tokenizer: Path | None, rate: float) -> WrongCodes | None:
    """How many codes of a training are wrong, and by which; None for a rate of 0.

    Raises:
        DigitError: a rate above 0 without a tokenizer: codes alone do not say what is near.
        LineageError: the codes are of another tokenizer.
    """
    if rate == 0:
        return None
    if tokenizer is None:
        raise DigitError(
            f"--wrong-codes {rate:g} needs to know which codes are near, and {codes.path} holds no centroids:"
            " give --tokenizer, the artifact that made the codes"
        )
    return WrongCodes(rate, neighbours(tokenizer_of(codes, tokenizer).centroids))


def tokenizer_of(codes: Codes, path: Path) -> Tokenizer:
    """The tokenizer in `path`; LineageError if it is not the one that made the codes."""
    found: Any = load(path, kind="tokenizer")
    made = {"tokenizer": artifact_of(found)["id"]}
    check_lineage(f"{path}", made, f"{codes.path}", codes.lineage("codes"))
    return found
