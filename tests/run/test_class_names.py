"""Where two sets meet, a class is its name: held-out codes, probes, repeated runs, composed stages."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.prior import Prior, PriorConfig
from digit.run import class_names, stages
from digit.run.class_names import check_classes, labels_among
from digit.run.train import frozen
from digit.run.train.frozen import FrozenStates, top_1
from digit.training.config import TrainConfig
from digit.weights import artifact

CPU, OURS = torch.device("cpu"), ["blue", "green", "red"]


TINY = PriorConfig(codes=4, length=4, classes=3, width=8, layers=1, heads=1)


class Noting(Prior):
    """A prior whose loss is 0, and that keeps the labels it was given."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self.labels: list[int | None] = []

    def loss(self, batch):
        self.labels += [None] * len(batch.codes) if batch.labels is None else batch.labels.tolist()
        return torch.zeros(())


@pytest.fixture
def held_out(chain, monkeypatch):
    """Codes of the chain under other names of classes."""

    def codes(classes: list[str], labels: np.ndarray | None) -> Codes:
        opened = Codes(chain.root / "codes")
        opened.classes, opened.labels = classes, labels
        for reader in (stages, frozen):
            monkeypatch.setattr(reader, "open_codes", lambda path: opened)
        return opened

    return codes


def measured(held_out_codes: Codes, **known) -> list[int | None]:
    stage, lineage = Noting(), held_out_codes.lineage("codes")
    how = TrainConfig(steps=1, batch=8)
    evaluate = stages.held_out_loss(held_out_codes.path, ("codes",), lineage, CPU, how, **known)
    assert evaluate is not None and dict(evaluate(stage, 0)) == {"held_out_loss": 0.0}
    return stage.labels


def test_held_out_labels_are_mapped_by_names(held_out, capsys):
    turns = np.arange(48) % 3
    codes = held_out(["red", "blue", "green"], turns)
    assert measured(codes, classes=OURS) == [(2, 0, 1)[i] for i in turns.tolist()]
    assert not capsys.readouterr().err
    codes = held_out(["green", "red"], turns % 2)
    assert measured(codes, classes=OURS) == [(1, 2)[i] for i in (turns % 2).tolist()]
    assert "has no picture of 'blue', which this stage has" in capsys.readouterr().err


def test_held_out_codes_of_other_classes_are_refused_before_the_first_step(held_out):
    codes = held_out(["blue", "green", "pink", "red"], np.arange(48) % 4)
    with pytest.raises(DigitError, match=r"codes: class 'pink' is not among the 3 of this stage \('blue'"):
        measured(codes, classes=OURS)


def test_held_out_codes_without_labels(held_out, capsys):
    codes = held_out([], None)
    with pytest.raises(DigitError, match="has no labels, this stage has 3 classes"):
        measured(codes, classes=OURS)
    assert measured(codes, classes=OURS, unlabelled=True) == [None] * 48
    assert "the held-out loss is that of pictures without a class" in capsys.readouterr().err
    assert measured(held_out(OURS, np.arange(48) % 3)) == [None] * 48  # the stage knows no classes


def test_a_probe_is_measured_by_names(held_out, chain):
    trained_on = Codes(chain.root / "codes")
    how = TrainConfig(steps=1, batch=8)
    states = FrozenStates(chain.root / "prior", True, how, CPU)
    assert top_1(Path("x"), held_out(["red", "blue"], np.arange(48) % 2), states) is not None
    held_out(["red", "pink"], np.arange(48) % 2)
    with pytest.raises(DigitError, match="class 'pink' is not among the 3"):
        top_1(Path("x"), trained_on, states)


def test_labels_of_a_set_by_the_names_of_another(chain):
    codes = Codes(chain.root / "codes")
    expected = [("red", "green", "blue").index(codes.classes[label]) for label in codes.labels]
    assert labels_among(codes, ["red", "green", "blue"], known_to="x").tolist() == expected


def test_a_run_goes_on_with_the_classes_that_it_began_with(tmp_path):
    check_classes(tmp_path, "prior", OURS)  # nothing is there yet
    artifact.save(Prior(TINY), tmp_path, classes=OURS)
    check_classes(tmp_path, "prior", OURS)
    for now, match in (
        (["blue", "green", "pink"], "only before 'red', only now 'pink'"),
        (["red", "green", "blue"], "in another order"),
        ([], "only before 'blue', 'green', 'red'"),
    ):
        with pytest.raises(DigitError, match=f"began with other classes .{match}"):
            check_classes(tmp_path, "prior", now)


def test_composing_tells_of_classes_that_the_prior_does_not_know(chain, tmp_path, monkeypatch, capsys):
    from digit.run.compose import compose

    own = artifact.artifact_of

    def other(module):
        known = own(module)
        return {**known, "classes": ["red", "pink"]} if known["kind"] == "renderer" else known

    monkeypatch.setattr(artifact, "artifact_of", other)
    parts = {name: chain.root / name for name in ("prior", "vqgan", "renderer")}
    compose(**parts, out=tmp_path / "model")
    assert (
        "the renderer also saw pictures of 'pink', which the prior does not know" in capsys.readouterr().err
    )


def test_verbs_open_pictures_in_one_place_which_tells_what_they_are_read_as():
    root = Path(class_names.__file__).parent
    opening = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "open_images" for alias in node.names)
    }
    assert opening == {"pictures.py", "evaluate/measurement.py"}  # the latter: what samples.json lists
