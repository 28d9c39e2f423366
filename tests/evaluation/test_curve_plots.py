"""Plots of curves: what their titles, axes and legends say, and that the curves are the values."""

import pytest
from PIL import Image

from digit.evaluation.curve_plots import described, draw_layers, draw_prefix, draw_stability
from digit.evaluation.perturbations import ALL, NOISE, SNRS
from digit.evaluation.prefix import Point
from digit.evaluation.stability import CHANGE, FEATURES, PAPER, VECTORS

FD, IS = "FD-vit_tiny_patch16_224-91137f03", "IS-vit_tiny_patch16_224-91137f03"


def of_tokenizer(perturbations=ALL, **more):
    values = {f"{name}, {how.name}": 0.5 for how in perturbations for name in (CHANGE, VECTORS, FEATURES)}
    return values | {"codes": 256.0} | more


def legend_of(thing):
    """The words of a legend; a figure keeps its legends in a list."""
    legend = thing.legends[0] if hasattr(thing, "legends") else thing.get_legend()
    return [text.get_text() for text in legend.get_texts()]


def points(length=16, model="model"):
    return [
        Point(model, n, length, {FD: 100.0 - n, IS: 2.0 + n, f"IS deviation{IS[2:]}": 0.1}) for n in (8, 0)
    ]


def test_stability_says_what_was_disturbed_and_which_way_is_better(tmp_path):
    measured = {"own": of_tokenizer(), "vqgan": of_tokenizer(PSNR=20.04, sharpness=0.5)}
    figure = draw_stability(measured, tmp_path / "s.png", title="20 pictures of test at 256 px")
    assert figure.get_suptitle() == "Which codes survive disturbed pictures: 20 pictures of test at 256 px"
    change, vectors = figure.axes[:2]
    assert change.get_ylabel() == "share of codes changed (lower is better)"
    assert vectors.get_ylabel() == "cosine of the codes' vectors (higher is better)"
    assert change.get_xlabel() == "SNR, dB (noise grows to the right)"
    assert [tick.get_text() for tick in change.get_xticklabels()] == [f"{snr:g}" for snr in SNRS]
    vqgan = "vqgan (K=256, PSNR 20.0 dB, sharpness 0.50)"
    assert legend_of(figure) == ["own (K=256, no decoder)", vqgan, *PAPER]
    assert [panel.get_xlabel() for panel in figure.axes[3:]] == [
        "blur, standard deviation in px",
        "JPEG quality",
        "shift, px",
        "brightness, factor",
    ]
    with Image.open(tmp_path / "s.png") as image:
        assert image.size == (1500, 1000)


def test_noise_alone_has_one_row_of_panels(tmp_path):
    figure = draw_stability({"own": of_tokenizer(NOISE)}, tmp_path / "s.png", title="t")
    assert len(figure.axes) == 3


def test_a_tokenizer_of_unknown_size_has_no_k():
    assert described("own", {}) == "own (no decoder)"


def test_prefix_names_networks_without_their_hash(tmp_path):
    figure = draw_prefix(points(), tmp_path / "p.png", title="20 pictures of test")
    distance, score = figure.axes
    assert distance.get_ylabel() == "FD on vit_tiny_patch16_224 (lower is better)"
    assert score.get_ylabel() == "IS on vit_tiny_patch16_224 (higher is better)"
    assert distance.get_xlabel() == "codes given, of 16"
    assert distance.lines[0].get_xydata().tolist() == [[0, 100], [8, 92]]  # in order, whatever came first
    assert (figure.get_suptitle(), legend_of(distance)) == ("20 pictures of test", ["model"])


def test_models_of_unequal_lengths_share_an_axis_of_shares(tmp_path):
    both = points() + points(64, "long")
    panel = draw_prefix(both, tmp_path / "p.png", title="t").axes[0]
    assert panel.get_xlabel() == "share of a picture's codes that is given"
    assert panel.lines[1].get_xdata() == pytest.approx([0, 0.125])
    assert legend_of(panel) == ["model (16 codes)", "long (64 codes)"]


def test_layers_are_in_per_cent_and_circles_are_explained(tmp_path):
    lines = {"prior (K=256, 1.2M)": [0.1, 0.4, 0.3]}
    figure = draw_layers(lines, tmp_path / "l.png", levels={"encoder of own": 0.6}, title="probe")
    panel = figure.axes[0]
    assert (panel.get_title(), panel.get_ylabel()) == ("probe", "top-1, % (higher is better)")
    assert panel.lines[0].get_ydata() == pytest.approx([10, 40, 30])
    assert panel.lines[1].get_xydata().tolist() == [[1, 40]]
    assert legend_of(panel) == ["prior (K=256, 1.2M)", "the best layer", "encoder of own"]
    assert "layer" in panel.get_xlabel()
