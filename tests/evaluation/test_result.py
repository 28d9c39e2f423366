import json

import pytest

from digit.errors import DigitError
from digit.evaluation.result import differences, in_words, read_result, result, which_is_better, write_result


def make(**changes):
    given = {
        "protocol": "own: all of them",
        "counts": {"samples": 3},
        "features": [{"name": "n", "sha256": "1"}],
    }
    value = result("images", [("FID", 3.0), ("IS", 2.0)], **given)
    return value | changes


def test_a_result_survives_a_file_and_what_is_not_finite_becomes_null(tmp_path):
    value = make(values={"FID": 3.0, "a": float("nan"), "b": float("inf")})
    write_result(tmp_path / "r.json", value)
    assert read_result(tmp_path / "r.json") == value | {"values": {"FID": 3.0, "a": None, "b": None}}


def test_differences_are_b_less_a_and_absent_values_have_none():
    rows = differences(make(), make(values={"FID": 2.5, "KID": None}, counts={"samples": 9}))
    assert rows == {
        "FID": {"a": 3.0, "b": 2.5, "difference": -0.5},
        "IS": {"a": 2.0, "b": None, "difference": None},
        "KID": {"a": None, "b": None, "difference": None},
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"measurement": "probe"},
            "x and y cannot be compared, their measurement differ .*'images' and 'probe'",
        ),
        ({"protocol": "adm: other"}, "protocol differ .*'own' and 'adm'"),
        ({"protocol": "own: some of them"}, "not in all details"),
        ({"features": [{"name": "n", "sha256": "2"}]}, "features differ .n 1 and n 2"),
        ({"values": {"other": 1.0}}, "no value in common"),
    ],
)
def test_what_was_measured_otherwise_is_refused(changes, words):
    with pytest.raises(DigitError, match=words):
        differences(make(), make(**changes), names=("x", "y"))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "codes"},
        {"format": 9},
        {"values": 3},
        {"values": {"FID": "3"}},
        {"features": ["n"]},
        {"counts": None},
        {"protocol": 5},
    ],
)
def test_other_json_is_no_result(tmp_path, changes):
    (tmp_path / "r.json").write_text(json.dumps(make(**changes)))
    with pytest.raises(DigitError, match=r"r\.json"):
        read_result(tmp_path / "r.json")


def test_metrics_in_words_keep_the_hash_only_where_names_would_be_alike():
    assert in_words(["FID", "IS", "FD-dinov2-l-1f0c2a77", "class accuracy-classifier-076e9f16"]) == {
        "FID": "FID",
        "IS": "IS",
        "FD-dinov2-l-1f0c2a77": "FD on dinov2-l",
        "class accuracy-classifier-076e9f16": "class accuracy on classifier",
    }
    two = ["FD-classifier-076e9f16", "FD-classifier-176e9f16"]
    assert list(in_words(two).values()) == ["FD on classifier-076e9f16", "FD on classifier-176e9f16"]


@pytest.mark.parametrize("metric", ["FID", "sFID", "KID", "FD-dinov2-l-1f0c2a77", "KD deviation-x-1f0c2a77"])
def test_distances_are_better_when_lower(metric):
    assert which_is_better(metric) == "lower"


@pytest.mark.parametrize("metric", ["IS", "precision", "recall-x-1f0c2a77", "class accuracy-x-1f0c2a77"])
def test_scores_and_shares_are_better_when_higher(metric):
    assert which_is_better(metric) == "higher"
