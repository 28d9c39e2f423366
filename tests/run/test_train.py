"""`digit train ...`: a run's folder is the artifact, the same call goes on, recipes can be changed."""

import json
import shutil

import numpy as np
import pytest

import digit
from digit.errors import DigitError
from digit.files import read_json, sha256_file, write_json_atomic
from digit.weights.artifact import describe


def test_a_finished_training_is_not_trained_again(chain, tmp_path):
    first = digit.train_prior(chain.root / "codes", tmp_path / "prior", **chain.small)
    assert first["finished"] and describe(tmp_path / "prior")["kind"] == "prior"
    weights = (tmp_path / "prior" / "model.safetensors").read_bytes()
    again = digit.train_prior(chain.root / "codes", tmp_path / "prior", **chain.small)
    assert again["step"] == first["step"]
    assert (tmp_path / "prior" / "model.safetensors").read_bytes() == weights


def test_a_recipe_with_changes_trains(chain, tmp_path):
    changes = {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "steps": 2,
        "batch": 8,
        "micro_batch": None,
        "device": "cpu",
    }
    found = digit.train_recipe("base_cond", codes=chain.root / "codes", out=tmp_path / "run", **changes)
    assert found["step"] == 2
    config = describe(tmp_path / "run")["config"]
    assert (config["width"], config["classes"], config["norm"]) == (16, 3, "post")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bass", {}, "there is no recipe 'bass'"),
        ("base", {"widht": 8}, "did you mean width"),
        ("vq_only", {"over": "codes"}, "has no setting over"),
        ("linear_probe", {}, "needs prior"),
    ],
)
def test_what_a_recipe_has_not_is_refused(chain, tmp_path, name, changes, words):
    with pytest.raises(DigitError, match=words):
        digit.train_recipe(name, codes=chain.root / "codes", out=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("part", "kind"), [("renderer", "renderer"), ("masked", "renderer_masked")])
def test_a_renderer_is_told_the_class_if_asked_to(chain, by_class, part, kind):
    told, plain = (describe(root / part) for root in (by_class.root, chain.root))
    assert told["kind"] == plain["kind"] == kind and told["classes"] == ["blue", "green", "red"]
    assert (told["config"]["classes"], told["config"]["label_dropout"]) == (3, 0.5)
    assert (plain["config"]["classes"], plain["config"]["label_dropout"]) == (0, 0.0)


def test_a_renderer_by_class_needs_labels_and_keeps_its_classes(chain, by_class, tmp_path):
    codes = shutil.copytree(chain.root / "codes", tmp_path / "codes")
    meta = json.loads((codes / "meta.json").read_text())
    meta.pop("checksum")
    (codes / "meta.json").write_text(json.dumps({**meta, "classes": ["blue", "green", "pink"]}))
    told = {"label_dropout": 0.5, **chain.small}
    with pytest.raises(DigitError, match=r"other classes .only before 'red', only now 'pink'"):
        digit.train_renderer(codes, by_class.root / "renderer", **told)
    (codes / "labels.npy").unlink()
    meta["files"].pop("labels.npy")
    (codes / "meta.json").write_text(json.dumps({**meta, "classes": [], "labelled": False}))
    with pytest.raises(DigitError, match="has no labels, which label_dropout needs"):
        digit.train_renderer(codes, tmp_path / "renderer", **told)
    assert not (tmp_path / "renderer").exists()


def test_codes_that_fill_no_square_are_refused_before_an_update(chain, tmp_path):
    codes = shutil.copytree(chain.root / "codes", tmp_path / "codes")
    meta = read_json(codes / "meta.json")
    for name in ("codes.npy", "vq_codes.npy"):
        np.save(codes / name, np.load(codes / name)[..., :8])
        meta["files"][name] = sha256_file(codes / name)
    write_json_atomic(codes / "meta.json", meta, checksum=True)
    for train in (digit.train_prior, digit.train_renderer):
        with pytest.raises(DigitError, match="8 codes per picture, which fill no square"):
            train(codes, tmp_path / "run", **chain.small)
        assert not (tmp_path / "run").exists()
