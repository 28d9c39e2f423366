"""What the paper reports (DiGIT, NeurIPS 2024, arXiv:2410.12490), as data to print beside a result."""

from typing import Any, NamedTuple

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

UNCONDITIONAL = tuple(Generation(3, *row) for row in _TABLE_3)
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
