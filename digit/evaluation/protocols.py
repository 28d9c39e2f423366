"""The ways of measuring pictures that published figures used, by name: what decides a number beside it."""

from dataclasses import dataclass
from typing import Literal

from digit.errors import DigitError

Metric = Literal["fd", "sfd", "is", "kd", "precision_recall", "class_accuracy"]
ALL: tuple[Metric, ...] = ("fd", "sfd", "is", "kd", "precision_recall", "class_accuracy")
STREAMED: tuple[Metric, ...] = ("fd", "sfd", "is", "class_accuracy")  # no features are kept for these
FEWEST = 2048  # pictures; fewer than Inception has features give a singular covariance


@dataclass(frozen=True)
class Protocol:
    """How pictures are prepared, which are compared, and how scores are computed of their features."""

    name: str
    sentence: str  # for people, beside every number
    metrics: tuple[Metric, ...]
    count: int | None = None  # samples that its published figures have; None: at least 2,048
    size: int | None = None  # px of samples, to which the reference is rendered; None: the samples' own
    bilinear: bool = False  # render by torchvision's Resize and CenterCrop, else bicubic
    inception_only: bool = False  # its figures are of FID's InceptionV3
    statistics: bool = False  # a reference's mu and sigma count, not its pictures, where a file has both
    equal_numbers: bool = True  # precision and recall of equally many, evenly spaced pictures; else of all
    split_size: int | None = None  # pictures in a split of the inception score; None: ten splits
    shuffle: int | None = 2020  # seed of the shuffle before the splits; None: as they come


OWN = Protocol(
    name="own",
    sentence=(
        "all pictures of both sets; files are resized to the samples' size by their short side (bicubic,"
        " antialiased) and centre-cropped; precision and recall with k = 3 on equal numbers of evenly spaced"
        " pictures; kernel distance of 100 subsets of up to 1,000; inception score in 10 splits, shuffled by"
        " numpy's seed 2020"
    ),
    metrics=STREAMED,
)
DIGIT_PAPER = Protocol(
    name="digit-paper",
    sentence=(
        "50,000 samples of 256 px against the 50,000 validation pictures (short side to 256 bilinear,"
        " antialiased, centre crop), torch-fidelity's InceptionV3; inception score in 10 splits, shuffled by"
        " numpy's seed 2020 (DiGIT, section 4)"
    ),
    metrics=("fd", "is"),
    count=50_000,
    size=256,
    bilinear=True,
    inception_only=True,
)
ADM = Protocol(
    name="adm",
    sentence=(
        "50,000 samples against the statistics (mu, sigma) of a reference .npz, on the same InceptionV3;"
        " precision and recall with k = 3 between all samples and the pictures in the reference; inception"
        " score of consecutive 5,000 (arXiv:2105.05233, its evaluation program)"
    ),
    metrics=("fd", "sfd", "is", "precision_recall"),
    count=50_000,
    inception_only=True,
    statistics=True,
    equal_numbers=False,
    split_size=5000,
    shuffle=None,
)
PROTOCOLS = {protocol.name: protocol for protocol in (OWN, DIGIT_PAPER, ADM)}


def check_number(name: str, n: int, protocol: Protocol, *, few: bool, reference: bool = False) -> None:
    """DigitError if a set has fewer pictures than make a distance, or another number than the protocol's.

    `few` lets any number pass; of a reference as ADM's the protocol names no number.
    """
    if few:
        return
    if protocol.count not in (None, n) and not (reference and protocol.statistics):
        raise DigitError(
            f"{name} has {n} pictures, the protocol {protocol.name} takes {protocol.count}: give as many, "
            "choose another protocol, or pass --few"
        )
    if n < FEWEST:
        raise DigitError(f"{name} has {n} pictures, too few for a distance: give {FEWEST}, or pass --few")
