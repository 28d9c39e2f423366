"""`digit train ... --wrong-codes`: what is near each code, by the tokenizer that made them."""

from pathlib import Path
from typing import Any

import torch

from digit.data.codes import Codes
from digit.data.wrong_codes import WrongCodes, neighbours
from digit.errors import DigitError, check_lineage
from digit.own_tokenizer import OwnTokenizer
from digit.picture_tokenizer import PictureTokenizer
from digit.run.own_code import id_of, open_own
from digit.tokenizer import Tokenizer
from digit.weights.artifact import load


def wrong_codes_of(codes: Codes, tokenizer: Path | PictureTokenizer | None, rate: float) -> WrongCodes | None:
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
    found = tokenizer_of(codes, tokenizer)
    return WrongCodes(rate, neighbours(found.table() if isinstance(found, OwnTokenizer) else found.centroids))


def tokenizer_of(codes: Codes, given: Path | PictureTokenizer) -> Tokenizer | OwnTokenizer:
    """The tokenizer in a folder, or of the user's own; LineageError if another one made the codes."""
    found: Any = open_own(given, torch.device("cpu")) or load(str(given), kind="tokenizer")
    name = found.name if isinstance(found, OwnTokenizer) else str(given)
    check_lineage(name, {"tokenizer": id_of(found)}, f"{codes.path}", codes.lineage("codes"))
    return found
