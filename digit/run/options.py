"""Types of options as verbs write them into their signatures, each with the word that its help shows.

Plain types need none of these: the help shows N for int, X for float, TEXT for str, PATH for Path, the
choices of a Literal, and the same for `T | None` and `tuple[T, ...]`. Every number has one of digit.bounds'
types. `Positional[Model]` makes a positional argument. Of several types the first is typed, the others are
for Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from digit.bounds import Seed, Side
from digit.picture_tokenizer import PictureTokenizer
from digit.training.config import TrainConfig
from digit.vqgan_config import VQGANConfig, VQGANLossConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Metavar:
    """The word that stands for a value in help."""

    word: str


class InFile(frozenset[str]):
    """Fields of a dataclass, and of those in it, that are no options of a verb: --config sets them."""

    def __new__(cls, *lines: str) -> "InFile":
        """The names in lines of them."""
        return super().__new__(cls, " ".join(lines).split())


POSITIONAL, IN_FILE, RUNS_CODE = "positional", "in file", "runs code"
Positional = Annotated[T, POSITIONAL]
FileOnly = Annotated[T, IN_FILE]  # the same of a parameter

Model = Annotated[str, Metavar("MODEL")]  # a folder, a bundled model's name or owner/name on the hub
Pictures = Annotated[str, Metavar("PICTURES")]  # folder, zip, tar shards or npz
Name = Annotated[str, Metavar("NAME")]
Device = Annotated[str, Metavar("DEVICE")]  # cpu, cuda, cuda:N or mps
Seeds = Annotated[str | Sequence[Seed], Metavar("SEEDS")]  # 0-63 or 1,5,9-12; in Python also a list
Label = Annotated[str | int, Metavar("CLASS")]  # a class name or number
Network = Annotated[str, Metavar("NETWORK")]  # inception, dinov2-l, timm:NAME, classifier:FOLDER, ...
Folder = Annotated[Path, Metavar("FOLDER")]
# A folder, or module:object of the user's own, which is code; in Python also the object.
Tokenizing = Annotated[Path | PictureTokenizer, Metavar("TOKENIZER"), RUNS_CODE]
Codes = Annotated[Path, Metavar("CODES")]  # folder of `digit tokenize`
File = Annotated[Path, Metavar("FILE")]
Pixels = Annotated[Side, Metavar("PIXELS")]

# Settings that few change are no options: --config sets them, docs/settings.md lists them.
Training = Annotated[
    TrainConfig,
    InFile(
        "kind betas eps epsilon nesterov decay_all warmup_from min_lr skips keep",
    ),
]
Shape = Annotated[
    VQGANConfig,
    InFile(
        "decoder_blocks attention shortcut normalized_codes codebook family latent_channels",
        "attention_levels",
    ),
]
Losses = Annotated[
    VQGANLossConfig,
    InFile(
        "l1 l2 perceptual_size perceptual_maps commitment codebook_decay dead_after continuous_steps",
        "adversarial_start adversarial_ramp adversarial_margin discriminate_patches discriminate_maps",
        "discriminator_width discriminator_layers discriminator_slope discriminator_ahead",
    ),
]
