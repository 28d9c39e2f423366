"""How published figures were measured, by name, and the paper's own figures (DiGIT, arXiv:2410.12490)."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


SOURCE = "DiGIT, arXiv:2410.12490"
CONDITIONS = (
    "ImageNet 256 px, 50,000 samples; DiGIT's rows against the validation pictures, rows of other papers as"
    " these report them, most against statistics of the training pictures"
)


class Generation(NamedTuple):
    """A row of table 3 (without labels) or 4 (by class); None where the paper has no number."""

    table: int
    kind: str
    method: str
    parameters: str
    epochs: str | None
    fid: float
    inception_score: float | None


_TABLE_3 = (
    ("GAN", "BigGAN", "70M", None, 38.6, 24.70),
    ("diffusion", "LDM", "395M", None, 39.1, 22.83),
    ("diffusion", "ADM", "554M", None, 26.2, 39.70),
    ("MIM", "MAGE", "200M", "1600", 11.1, 81.17),
    ("MIM", "MAGE", "463M", "1600", 9.10, 105.1),
    ("MIM", "MaskGIT", "227M", "300", 20.7, 42.08),
    ("MIM", "DiGIT (+MaskGIT)", "219M", "200", 9.04, 75.04),
    ("AR", "VQGAN", "214M", "200", 24.38, 30.93),
    ("AR", "DiGIT (+VQGAN)", "219M", "400", 9.13, 73.85),
    ("AR", "DiGIT (+VQGAN)", "732M", "200", 4.59, 141.29),
    ("validation pictures", "DiGIT + VQ (reconstruction)", "-", None, 1.92, 184.40),
    ("validation pictures", "VQ only (reconstruction)", "-", None, 1.67, 175.56),
)
UNCONDITIONAL = tuple(Generation(3, *row) for row in _TABLE_3)

# The star: trained with classifier-free guidance; the others are not.
_TABLE_4 = (
    ("GAN", "BigGAN", "160M", None, 6.95, 198.2),
    ("diffusion", "ADM", "554M", None, 10.94, 101.0),
    ("diffusion", "LDM-4", "400M", None, 10.56, 103.5),
    ("diffusion", "DiT-XL/2", "675M", None, 9.62, 121.50),
    ("diffusion", "L-DiT-7B", "7B", None, 6.09, 153.32),
    ("MIM", "CQR-Trans", "371M", "300", 5.45, 172.6),
    ("MIM+AR", "VAR", "310M", "200", 4.64, None),
    ("MIM+AR", "VAR*", "310M", "200", 3.60, 257.5),
    ("MIM+AR", "VAR*", "600M", "250", 2.95, 306.1),
    ("MIM", "MAGVIT-v2", "307M", "1080", 3.65, 200.5),
    ("AR", "VQVAE-2", "13.5B", None, 31.11, 45.0),
    ("AR", "RQ-Transformer", "480M", None, 15.72, 86.8),
    ("AR", "RQ-Transformer", "3.8B", None, 7.55, 134.0),
    ("AR", "ViT-VQGAN", "650M", "360", 11.20, 97.2),
    ("AR", "ViT-VQGAN", "1.7B", "360", 5.3, 149.9),
    ("MIM", "MaskGIT", "227M", "300", 6.18, 182.1),
    ("MIM", "DiGIT (+MaskGIT)", "219M", "200", 4.62, 146.19),
    ("AR", "VQGAN", "227M", "300", 18.65, 80.4),
    ("AR", "DiGIT (+VQGAN)", "219M", "200", 4.79, 142.87),
    ("AR", "DiGIT (+VQGAN)", "732M", "200", 3.39, 205.96),
)
CONDITIONAL = tuple(Generation(4, *row) for row in _TABLE_4)

# Table 2: ImageNet top-1 in per cent of a linear head on frozen features of generative models, at the layer
# that is best; which layer of DiGIT that is, the paper does not state.
PROBES: dict[str, tuple[str, int, str, float]] = {  # name: tokens, features, parameters, top-1
    "paper, iGPT-L": ("32x32", 1536, "1362M", 60.3),
    "paper, iGPT-XL": ("64x64", 3072, "6801M", 68.7),
    "paper, VIM + VQGAN": ("32x32", 1024, "650M", 61.8),
    "paper, VIM + dVAE": ("32x32", 1024, "650M", 63.8),
    "paper, VIM + ViT-VQGAN": ("32x32", 1024, "650M", 65.1),
    "paper, VIM + ViT-VQGAN, large": ("32x32", 2048, "1697M", 73.2),
    "paper, AIM": ("16x16", 1536, "0.6B", 70.5),
    "paper, DiGIT": ("16x16", 1024, "219M", 71.7),
    "paper, DiGIT, large": ("16x16", 1536, "732M", 80.3),
}


def generation_rows() -> list[dict[str, Any]]:
    """Tables 3 and 4 as dictionaries, for JSON."""
    return [row._asdict() for row in UNCONDITIONAL + CONDITIONAL]
