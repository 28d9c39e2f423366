"""Plots of curves: what their titles, axes and legends say, and that the curves are the values."""

import numpy as np
import pytest
import torch
from PIL import Image

from digit.evaluation.plots import (
    described,
    draw_features,
    draw_heat_map,
    draw_layers,
    draw_pareto,
    draw_prefix,
    draw_stability,
    draw_toy,
)
from digit.evaluation.prefix import Point
from digit.evaluation.projection import separability, toy_values
from digit.evaluation.stability import ALL, CHANGE, FEATURES, NOISE, PAPER, SNRS, VECTORS

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


ROWS = [
    {"setting": {"top_k": k, "top_p": p, "noise": 1.0}, "values": {FD: 10 + k + p, IS: 4.0 + k * p}}
    for k in (0, 1, 3, 9)
    for p in (0.5, 1.0)
]


def with_axis(rows, axis, numbers):
    return [{**row, "setting": {**row["setting"], axis: number}} for row in rows for number in numbers]


def words_of(panel):
    return [text.get_text() for text in panel.texts]


def test_a_heat_map_says_its_metric_and_frames_the_best(tmp_path):
    figure = draw_heat_map(ROWS, FD, tmp_path / "fd.png", title="12 pictures per setting")
    said = "FD on vit_tiny_patch16_224 (lower is better), red: the best\n12 pictures per setting"
    assert figure.get_suptitle() == said
    panel = figure.axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("top p", "top k")
    assert words_of(panel) == [f"{row['values'][FD]:.4g}" for row in ROWS]
    assert [frame.get_xy() for frame in panel.patches] == [(-0.5, -0.5)]  # the first row and column
    scores = draw_heat_map(ROWS, IS, tmp_path / "is.png", title="t")
    assert scores.get_suptitle().startswith("IS on vit_tiny_patch16_224 (higher is better)")
    assert [frame.get_xy() for frame in scores.axes[0].patches] == [(0.5, 2.5)]


def test_a_third_axis_makes_panels_and_many_of_them_the_best_of_all(tmp_path):
    more = with_axis(ROWS, "noise", (1.0, 2.0))
    figure = draw_heat_map(more, FD, tmp_path / "fd.png", title="t")
    assert [panel.get_title() for panel in figure.axes[:2]] == ["noise 1", "noise 2"]
    many = with_axis(with_axis(more, "steps", range(1, 6)), "temperature", range(1, 6))
    said = draw_heat_map(many, FD, tmp_path / "fd.png", title="t").get_suptitle()
    assert "each cell the best over" in said


@pytest.mark.parametrize("rows", [ROWS, ROWS[:-1], ROWS[:1], ROWS[:2]])
def test_grids_with_holes_and_of_one_cell(rows, tmp_path):
    draw_heat_map(rows, FD, tmp_path / "fd.png", title="t")
    draw_pareto(rows, FD, IS, tmp_path / "pareto.png", title="t")
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_the_pareto_plot_names_both_axes_and_every_value_of_the_first(tmp_path):
    panel = draw_pareto(ROWS, FD, IS, tmp_path / "p.png", title="12 pictures").axes[0]
    assert panel.get_xlabel() == "FD on vit_tiny_patch16_224 (lower is better)"
    assert panel.get_ylabel() == "IS on vit_tiny_patch16_224 (higher is better)"
    assert [t.get_text() for t in panel.get_legend().get_texts()] == [f"top k {k}" for k in (0, 1, 3, 9)]
    assert "12 pictures" in panel.get_title()
    line = panel.lines[0].get_xydata()
    assert np.all(np.diff(line[:, 0]) >= 0) and np.all(np.diff(line[:, 1]) > 0)


def test_the_toy_has_named_axes_and_units(tmp_path):
    figure = draw_toy(tmp_path / "toy.png", dict(toy_values()))
    labels = [panel.get_xlabel() for panel in figure.axes]
    assert labels.count("axis of the classes") == labels.count("position along LDA") == 5
    accuracy, angle = figure.axes[-2:]
    assert "accuracy" in accuracy.get_ylabel() and "degrees" in angle.get_ylabel()
    assert "(lower is better)" in angle.get_ylabel()
    assert accuracy.get_xlabel() == "deviation of the noise (the classes lie 2 apart)"
    assert figure.get_suptitle().startswith("PCA against LDA")


def features(classes):
    labels = torch.arange(40) % classes
    points = torch.nn.functional.one_hot(labels, 12).float() * 3
    points += torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    rows, views, truth = separability(points, labels)
    return {"no noise": views}, truth, {f"{name}, no noise": number for name, number in rows}


@pytest.mark.parametrize("classes", [2, 3])
def test_features_carry_class_names_and_named_directions(tmp_path, classes):
    names = ["airplane", "bird", "cat"][:classes]
    figure = draw_features(tmp_path / "f.png", *features(classes), names, title="PCA against LDA, K=8")
    above = figure.subfigs[0]
    assert [text.get_text() for text in above.legends[0].get_texts()] == names
    first, second = above.axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("PCA direction 1", "LDA direction 1")
    assert first.get_ylabel() == ("PCA direction 2" if classes == 3 else "")
    assert first.get_title().endswith("nearest their class")
    assert figure.subfigs[1].axes[1].get_ylabel() == "Fisher ratio, unseen pictures\n(higher is better)"
    assert figure.get_suptitle() == "PCA against LDA, K=8"


def test_many_classes_have_no_legend(tmp_path):
    labels = torch.arange(60) % 15
    points = torch.nn.functional.one_hot(labels, 15).float() + 0.1 * torch.randn(60, 15)
    rows, views, truth = separability(points, labels, shrinkage=0.5)
    values = {f"{name}, 5 dB": number for name, number in rows}
    names = [str(label) for label in range(15)]
    figure = draw_features(tmp_path / "f.png", {"5 dB": views}, truth, values, names, title="t")
    assert not figure.subfigs[0].legends
