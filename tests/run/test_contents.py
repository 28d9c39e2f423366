"""What a folder of digit's holds: each kind is recognised and told in full."""

import contextlib
import json
import shutil

import pytest
from strange_json import changed

from digit.errors import DigitError
from digit.files import read_json, write_json_atomic
from digit.nn.sampling import DRAW
from digit.run.contents import contents
from digit.weights.model_folder import locate


def told(found) -> dict:
    """All rows of all tables."""
    return {name: row for table in found.tables for name, row in table.rows.items()}


def test_a_training_tells_how_far_it_is(chain):
    found = contents(str(chain.root / "prior"))
    training = found.record["training"]
    assert (training["step"], training["steps"], training["reason"]) == (3, 3, "finished")
    rows = told(found)
    assert rows["updates"] == ["3 of 3"] and rows["batch, all processes"] == [8]
    assert rows["loss"] == [training["last"]["loss"]] and "held out loss" in rows
    assert rows["made with the tokenizer"] == [contents(str(chain.root / "tokenizer")).record["id"][:12]]


def test_a_training_without_an_artifact_yet(chain, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 7, "loss": 2.5, "lr": 0.1}\n{"step": 8, "lo')
    found = contents(str(tmp_path))
    assert found.record["kind"] == "run" and told(found)["loss"] == [2.5]
    assert told(found)["updates"] == [7]


def test_samples(chain, run, tmp_path):
    run("sample", chain.root / "model", "--num", 5, "--top-k", 4, "--out", tmp_path / "s")
    found = contents(str(tmp_path / "s"))
    rows = told(found)
    assert found.record["kind"] == "samples" and len(found.record["samples"]) == 5
    assert rows["pictures"] == [5] and rows["seeds"] == ["0 to 4"] and rows["prior.top_k"] == [4]
    assert rows["classes"] == ["3 classes: blue (2), green (2), red (1)"]
    (tmp_path / "s" / "samples.json").write_text(json.dumps({"samples": "none"}))
    with pytest.raises(DigitError, match="lists no pictures"):
        contents(str(tmp_path / "s"))


def test_codes_and_a_model(chain):
    rows = told(contents(str(chain.root / "codes")))
    assert rows["pictures"] == [48] and rows["codes"][:2] == [16, 8] and rows["VQ codes"][:2] == [16, 16]
    rows = told(contents(str(chain.root / "model")))
    assert {"prior", "renderer", "renderer_masked", "vqgan", "tokenizer"} <= set(rows)
    assert rows["classes"] == ["3 classes: blue, green, red"]


def test_a_model_says_its_draw_or_that_it_does_not(chain, tmp_path):
    shutil.copytree(chain.root / "model", tmp_path / "m")
    assert told(contents(str(tmp_path / "m")))["draw"] == [DRAW]
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["checksum"], config["sampling"]["draw"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert "older than this entry" in told(contents(str(tmp_path / "m")))["draw"][0]


def test_a_result_shows_its_values(tmp_path):
    value = {"kind": "result", "measurement": "images", "counts": {"samples": 4}, "values": {"FD": 1.5}}
    (tmp_path / "r.json").write_text(json.dumps(value))
    found = contents(str(tmp_path / "r.json"))
    assert found.record == value and told(found)["FD"] == [1.5] and told(found)["counts.samples"] == [4]


def test_what_digit_did_not_write(tmp_path):
    with pytest.raises(DigitError, match="nothing that digit wrote"):
        contents(str(tmp_path))


def test_the_bundled_model_and_a_part_of_it():
    bundled = contents(None)
    assert bundled.record["kind"] == "pipeline" and len(bundled.record["parts"]) == 5
    part = contents(str(locate(None) / "prior"))
    assert told(part)["made by digit"] == ["a version that was not installed"]
    assert told(part)["weights"] == [bundled.record["parts"]["prior"]["values"]]


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("prior", "config.json"),
        ("tokenizer", "config.json"),
        ("model", "config.json"),
        ("codes", "meta.json"),
    ],
)
def test_whatever_stands_in_a_file_it_is_told_or_refused(chain, tmp_path, folder, file):
    """Every entry replaced by strange ones or taken away, under a checksum that fits."""
    shutil.copytree(chain.root / folder, tmp_path / "there")
    path = tmp_path / "there" / file
    for value in changed(read_json(path), file):
        write_json_atomic(path, value, checksum=True)
        with contextlib.suppress(DigitError):
            assert contents(str(tmp_path / "there")).tables
