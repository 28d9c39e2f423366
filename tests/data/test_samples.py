"""Grids, strips and plots that digit wrote are never pictures of a set, wherever they lie."""

import json
import shutil
import tarfile

import pytest
from PIL import Image

from digit.data.images import open_images
from digit.data.samples import listed_samples, no_samples
from digit.errors import DigitError

SHEETS = ("grid.png", "strip-000000.png", "strip-1234567.png")
SAMPLES = ("000000.png", "000007.png", "000000-000003.png")


@pytest.fixture
def drawn(tmp_path):
    """A folder of class folders, of which one is as `digit sample` leaves it."""
    for name in (*SAMPLES, *SHEETS, "mine.png"):
        for folder in ("cat", "dog"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "set" / folder / name)
    rows = [{"file": name, "class": "cat"} for name in SAMPLES]
    (tmp_path / "set" / "cat" / "samples.json").write_text(json.dumps({"samples": rows}))
    return tmp_path / "set"


def packed(folder, kind):
    """The same set as a folder, a zip or a tar."""
    return folder if kind == "folder" else shutil.make_archive(str(folder), kind, folder)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_only_samples_are_pictures(drawn, kind):
    source = open_images(packed(drawn, kind))
    mine = [] if kind == "folder" else ["cat/mine.png"]  # an archive's list is not read
    cats = [name for name in source.names if name.startswith("cat/")]
    assert cats == sorted([f"cat/{name}" for name in SAMPLES] + mine)
    assert len(source) - len(cats) == len(SAMPLES) + len(SHEETS) + 1  # nobody said that dog is digit's
    assert "a sheet or plot of digit's, no sample" in source.read_as
    assert ("samples.json beside it" in source.read_as) == (kind == "folder")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_flat_folder_and_an_interrupted_one(drawn, kind):
    flat = drawn / "cat"
    (flat / "mine.png").unlink()
    assert open_images(packed(flat, kind)).names == sorted(SAMPLES)
    (flat / "samples.json").rename(flat / ".digit.json")  # what a command leaves that was stopped
    assert open_images(flat).names == sorted(SAMPLES)


def test_several_shards(drawn):
    for number in range(2):
        with tarfile.open(drawn.parent / f"{number}.tar", "w") as archive:
            archive.add(drawn / "cat", f"part{number}")
    names = open_images(str(drawn.parent / "{0..1}.tar")).names
    assert len(names) == 2 * (len(SAMPLES) + 1) and not any(name.endswith(SHEETS) for name in names)


def test_a_set_of_sheets_alone_is_none_and_one_sheet_is_what_one_asks_for(drawn):
    flat = drawn / "cat"
    for name in (*SAMPLES, "mine.png"):
        (flat / name).unlink()
    with pytest.raises(DigitError, match=r"no picture found in .*grid\.png and 2 others \(a sheet or plot"):
        open_images(flat)
    assert open_images(flat / "grid.png").names == ["grid.png"]


@pytest.mark.parametrize("text", ["[1]", "null", "{", '{"samples": 3}', '{"samples": [{"file": 1}]}'])
def test_another_programs_list_hides_no_picture(drawn, text):
    (drawn / "cat" / "samples.json").write_text(text)
    assert listed_samples(drawn / "cat") is None
    assert "cat/mine.png" in open_images(drawn).names


def test_names_far_from_any_list_stay():
    assert no_samples(["a/grid.png", "b/x.png"], ["b/notes.txt"], None) == {}
