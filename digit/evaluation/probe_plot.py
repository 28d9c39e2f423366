"""top-1 by layer -> a plot (DiGIT, figure 3b), and the published probes of table 2 beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from digit.figure import new_figure
from digit.files import atomic_path

# Table 2: ImageNet top-1 in per cent of a linear head on frozen features of generative models, at the layer
# that is best; which layer of DiGIT that is, the paper does not state.
PAPER: dict[str, tuple[str, int, str, float]] = {  # name: tokens, features, parameters, top-1
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
CONDITIONS = "the paper's rows: ImageNet, table 2"


def draw_layers(
    lines: Mapping[str, Sequence[float]],
    path: Path,
    *,
    levels: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draw top-1 (a share) by layer, a line for each name; `levels` are single numbers, as of encoders."""
    figure = new_figure(8, 5)
    panel = figure.subplots()
    for number, (name, shares) in enumerate(lines.items()):
        best = max(range(len(shares)), key=shares.__getitem__)
        panel.plot([100 * share for share in shares], marker=".", color=f"C{number}", label=name)
        panel.plot(best, 100 * shares[best], marker="o", markersize=10, fillstyle="none", color=f"C{number}")
    for number, (name, share) in enumerate((levels or {}).items()):
        panel.axhline(100 * share, linestyle="--", linewidth=1, color=f"C{len(lines) + number}", label=name)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set(xlabel="layer (i: what block i reads; the last: what the last block gives)", ylabel="top-1, %")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
