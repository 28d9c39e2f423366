"""What measurements share: where results go, which pictures are read, and what is said of both."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from digit.data.images import ImageSource, open_images
from digit.errors import DigitError
from digit.run.evaluate import measurement

CPU = torch.device("cpu")


def test_a_result_goes_into_the_folder_or_the_file_that_is_named(tmp_path):
    assert measurement.result_file(None, "sweep") is None
    assert measurement.result_file(tmp_path / "a" / "b", "sweep") == tmp_path / "a" / "b" / "sweep.json"
    assert measurement.result_file(tmp_path / "c" / "d.json", "sweep") == tmp_path / "c" / "d.json"
    assert (tmp_path / "a" / "b").is_dir() and (tmp_path / "c").is_dir()
    assert not list(tmp_path.rglob("*.json"))


def test_the_first_pictures_of_each_class_that_is_named(chain):
    some = measurement.of_classes(chain.images, None, ["red", "blue"], 3)
    assert some.labels is not None
    names = [some.classes[label] for label in some.labels]
    assert sorted(names) == ["blue"] * 3 + ["red"] * 3
    with pytest.raises(DigitError, match="no class 'pink'"):
        measurement.of_classes(chain.images, None, ["pink"], 3)


def test_a_list_of_samples_says_which_pictures_count(tmp_path):
    for name in ("0.png", "1.png", "grid.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    plain = str(tmp_path)
    assert measurement.generated(plain).names == ["0.png", "1.png", "grid.png"]  # a folder like any other
    rows = [{"file": "1.png", "class": "cat"}, {"file": "0.png", "class": "ant"}]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": rows}))
    found = measurement.generated(plain)
    assert isinstance(found, ImageSource) and found.labels is not None
    assert (found.names, found.classes, found.labels.tolist()) == (["1.png", "0.png"], ["ant", "cat"], [1, 0])
    (tmp_path / "0.png").unlink()
    with pytest.raises(DigitError, match=r"0\.png is named in samples\.json but missing"):
        measurement.generated(plain)


def test_folders_of_one_name_go_by_their_paths():
    assert measurement.unlike_names([Path("a/x"), Path("b/y")], "--prior") == ["x", "y"]
    assert measurement.unlike_names([Path("a/x"), Path("b/x")], "--prior") == ["a/x", "b/x"]
    with pytest.raises(DigitError, match=r"^prior names a folder twice"):
        measurement.unlike_names([Path("a"), Path("a")], "--prior")


def test_an_artifact_of_another_kind_is_refused(chain):
    with pytest.raises(DigitError, match="is a prior, this takes tokenizer or vqgan"):
        measurement.open_one(chain.root / "prior", ("tokenizer", "vqgan"), CPU)


def test_an_earlier_result_is_taken_up_only_if_it_is_of_the_same(tmp_path):
    path = tmp_path / "r.json"
    assert measurement.earlier(None, "sweep", lambda value: True) is None
    assert measurement.earlier(path, "sweep", lambda value: True) is None
    value = measurement.record("sweep", [("FID", 2.0)], CPU, protocol="p", counts={"samples": 3})
    assert value["made_by"]["device"] == "cpu"
    measurement.keep(path, value)
    before = measurement.earlier(path, "sweep", lambda value: value["counts"] == {"samples": 3})
    assert before is not None and before["values"] == {"FID": 2.0}
    for kind, alike in (("prefix", True), ("sweep", False)):
        with pytest.raises(DigitError, match="choose another out"):
            measurement.earlier(path, kind, lambda value, alike=alike: alike)


def test_files_are_named_and_a_result_that_is_not_kept_is_said(tmp_path, capsys):
    value = measurement.record("sweep", [("FID", 2.0)], CPU, protocol="p", counts={})
    drawn = []
    measurement.keep(tmp_path / "r.json", value, tmp_path / "toy.png", plot=drawn.append)
    assert drawn == [tmp_path / "r.png"]
    assert capsys.readouterr().out.splitlines() == [
        f"saved: {tmp_path / name}" for name in ("r.json", "r.png", "toy.png")
    ]
    measurement.keep(None, value, also=", and a plot")
    assert capsys.readouterr().out == "not kept: out=FOLDER keeps the full record as JSON, and a plot\n"


def test_few_pictures_are_told_and_kept_and_many_are_not(capsys):
    value = {}
    measurement.caution(value, 50_000)
    assert value == {}
    measurement.caution(value, 20)
    (sentence,) = value["warnings"]
    assert sentence.startswith("20 pictures: not comparable with distances of 50,000")
    measurement.keep(None, value)
    assert capsys.readouterr().out.startswith(f"{sentence}\n")


def test_totals_become_steps_and_a_second_set_starts_again(monkeypatch):
    steps = []

    class Bar:
        def __enter__(self):
            return steps.append

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(measurement, "progress", lambda title, total: Bar())
    with measurement.picture_count("evaluate", None) as tell:
        for done in (4, 8, 10, 4, 6):
            tell(done, None)
    assert steps == [4, 4, 2, 4, 2]


def test_pixels_come_with_the_places_of_those_that_could_be_read(chain, tmp_path, capsys):
    with zipfile.ZipFile(chain.images) as archive:
        archive.extractall(tmp_path)
    broken = sorted(tmp_path.rglob("*.png"))[3]
    broken.write_bytes(b"no picture")
    source = open_images(tmp_path)
    with measurement.reading("pictures", source, 16, CPU, 20, times=2) as (read, seen):
        first, again = torch.cat(list(read())), torch.cat(list(read()))
    assert seen == [place for place in range(len(source)) if place != 3] and len(first) == len(seen)
    assert torch.equal(first, again)
    assert first.dtype == torch.float32 and 0 <= float(first.min()) < float(first.max()) <= 1
    assert "1 picture was skipped" in capsys.readouterr().err
    assert source.labels is not None
    assert measurement.labels_at(source, seen).tolist() == [source.labels[place] for place in seen]


@pytest.mark.parametrize("text", ["[1]", "null", '"x"', '{"samples": 3}', '{"samples": [{"file": 1}]}'])
def test_another_programs_list_is_a_sentence(tmp_path, text):
    (tmp_path / "samples.json").write_text(text)
    with pytest.raises(DigitError, match="is no list of"):
        measurement.generated(str(tmp_path))
