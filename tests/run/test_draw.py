"""Drawing batch by batch: what is on the disk is not drawn again, what is drawn is not read again."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from digit.errors import DigitError
from digit.files import read_json, sha256_file, write_json_atomic
from digit.pipeline import DigitPipeline
from digit.run import draw as module
from digit.run.draw import LISTS, draw, finish_drawing


@pytest.fixture
def how(chain):
    """Options of `draw` for the tiny model."""
    return {
        "labels": [0, 1, 2, 0, 1],
        "settings": {},
        "codes": False,
        "batch": 2,
        "made_with": {"id": "tiny"},
    }


@pytest.fixture
def pipeline(chain):
    return DigitPipeline.from_pretrained(chain.root / "model")


def test_what_is_drawn_is_not_read_again(pipeline, how, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("a picture that was just drawn is read from its file")

    monkeypatch.setattr(module, "_read_pixels", read)
    content = draw(pipeline, range(5), tmp_path, npz=tmp_path / "all.npz", **how)
    assert [row["seed"] for row in content["samples"]] == list(range(5))
    assert [row["label"] for row in content["samples"]] == [0, 1, 2, 0, 1]


def test_pictures_of_before_are_kept_and_only_they_are_read(pipeline, how, tmp_path, monkeypatch):
    """One of three batches is lost; grid, list and npz come out as of a command that nobody stopped."""
    whole = draw(pipeline, range(5), tmp_path / "whole", npz=tmp_path / "whole.npz", **how)
    draw(pipeline, range(5), tmp_path / "part", **how)
    (tmp_path / "part" / "000003.png").write_bytes(b"damaged")
    seen, read = [], module._read_pixels
    monkeypatch.setattr(
        module, "_read_pixels", lambda out, rows: (seen.append(len(rows)), read(out, rows))[1]
    )
    drawn, call = [], DigitPipeline.__call__

    def noting(self, *arguments, **options):
        drawn.append(list(options["seeds"]))
        return call(self, *arguments, **options)

    monkeypatch.setattr(DigitPipeline, "__call__", noting)
    again = draw(pipeline, range(5), tmp_path / "part", npz=tmp_path / "part.npz", **how)
    assert drawn == [[2, 3]] and seen == [2, 1]
    assert again == whole
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    for path in (tmp_path / "whole").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "part" / path.name).read_bytes()


def test_other_settings_and_another_rule_draw_anew(pipeline, how, tmp_path, capsys, monkeypatch):
    draw(pipeline, range(2), tmp_path, **how)
    draw(pipeline, range(2), tmp_path, **how)
    assert "2 pictures are kept" in capsys.readouterr().err
    draw(pipeline, range(2), tmp_path, **{**how, "settings": {"temperature": 0.0}})
    assert "kept" not in capsys.readouterr().err
    monkeypatch.setattr(module, "DRAW", "another")
    draw(pipeline, range(2), tmp_path, **how)
    assert "kept" not in capsys.readouterr().err


def test_an_older_list_goes_with_the_first_picture_and_the_new_one_ends_it(pipeline, how, tmp_path):
    (tmp_path / "samples.json").write_text("{}")
    content = draw(pipeline, [7], tmp_path, **{**how, "labels": [1]})
    assert not (tmp_path / "samples.json").exists() and (tmp_path / module.LISTS).is_dir()
    finish_drawing(tmp_path, {"model": "tiny", **content})
    assert json.loads((tmp_path / "samples.json").read_text())["samples"] == content["samples"]
    assert not (tmp_path / module.LISTS).exists()


def test_an_npz_holds_the_pictures_and_their_classes(pipeline, how, tmp_path):
    draw(pipeline, range(3), tmp_path, npz=tmp_path / "all.npz", **{**how, "labels": [0, 1, 2]})
    drawn = pipeline([0, 1, 2], seeds=[0, 1, 2])
    with np.load(tmp_path / "all.npz") as file:
        assert file["arr_1"].tolist() == [0, 1, 2]
        assert torch.equal(torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2), drawn.pixels)


@pytest.mark.parametrize(
    ("labels", "turn", "above"),
    [
        ([0, 1, 2, 0, 1], 3, ["blue", "green", "red"]),
        ([2, 0, 1, 2], 3, ["red", "blue", "green"]),  # any seeds in a row begin anywhere
        ([1, 2], 3, ["green", "red"]),
        ([2, 2, 2], 1, ["red"]),
        ([0, 1, 1, 2], 3, []),  # a column would hold two classes
        (None, 3, []),
        ([0] * 4, 17, []),  # too many columns
    ],
)
def test_columns_have_titles_where_classes_run_in_turn(
    pipeline, how, tmp_path, monkeypatch, labels, turn, above
):
    seen = {}

    def noted(pixels, **given):
        seen.update(given)
        return module_grid(pixels, **given)

    module_grid = module.grid
    monkeypatch.setattr(module, "grid", noted)
    draw(pipeline, range(len(labels or "1234")), tmp_path, **{**how, "labels": labels}, turn=turn)
    assert seen == {"above": above, "columns": len(above) or None}


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\nshowpage\n%%EOF\n"


def test_a_listed_picture_in_a_format_of_programs_starts_none(pipeline, how, tmp_path, monkeypatch):
    """A foreign folder whose lists fit the command, with checksums that hold."""
    draw(pipeline, range(2), tmp_path / "out", **how)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\n: > {tmp_path}/started\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    (listed,) = (tmp_path / "out/.drawn").glob("*.json")
    part = read_json(listed)
    (tmp_path / "out/000000.png").write_bytes(EPS)
    part["files"]["000000.png"] = sha256_file(tmp_path / "out/000000.png")
    write_json_atomic(listed, part, checksum=True)
    with pytest.raises(DigitError, match=r"000000\.png is no picture that digit drew"):
        draw(pipeline, range(2), tmp_path / "out", **how)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("file", ["000001.png", "000002.png"])
def test_a_picture_of_another_size_is_no_part_of_a_drawing(pipeline, how, tmp_path, file):
    """Whole by its checksum: somebody has written both."""
    draw(pipeline, range(5), tmp_path, **how)
    Image.new("RGB", (3, 5)).save(tmp_path / file)
    for path in (tmp_path / LISTS).glob("*.json"):
        part = read_json(path)
        if file in part["files"]:
            part["files"][file] = sha256_file(tmp_path / file)
            write_json_atomic(path, part, checksum=True)
    with pytest.raises(DigitError, match="has another size than"):
        draw(pipeline, range(5), tmp_path, **how)


@pytest.mark.parametrize(
    "lies", [{"prior": 3}, {"renderer": "6"}, {"renderer": ["masked"]}, {"autoregressive": "x"}]
)
def test_a_list_whose_settings_are_others_is_drawn_again(pipeline, how, tmp_path, lies, capsys):
    whole = draw(pipeline, range(5), tmp_path, **how)
    (path, *_) = sorted((tmp_path / LISTS).glob("*.json"))
    part = read_json(path)
    write_json_atomic(path, {**part, "settings": part["settings"] | lies}, checksum=True)
    assert draw(pipeline, range(5), tmp_path, **how) == whole
    assert "3 pictures are kept" in capsys.readouterr().err


def test_a_row_without_a_class_is_one_of_none(pipeline, how, tmp_path):
    draw(pipeline, range(5), tmp_path, **how)
    for path in (tmp_path / LISTS).glob("*.json"):
        part = read_json(path)
        rows = [{name: row[name] for name in ("file", "seed")} for row in part["rows"]]
        write_json_atomic(path, {**part, "rows": rows}, checksum=True)
    assert {row["label"] for row in draw(pipeline, range(5), tmp_path, **how)["samples"]} == {None}
