"""Plots of maps: heat maps, the Pareto plot, and points along directions, by what they say and show."""

import numpy as np
import pytest
import torch

from digit.evaluation.map_plots import draw_features, draw_heat_map, draw_pareto, draw_toy
from digit.evaluation.projection import separability, toy_values

FD, IS = "FD-vit_tiny_patch16_224-91137f03", "IS-vit_tiny_patch16_224-91137f03"
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
