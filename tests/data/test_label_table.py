"""Classes out of a table: every form that people have, and what hostile or damaged ones give."""

import json

import pytest
from PIL import Image

from digit.data.images import open_images
from digit.errors import DigitError

NAMES = ["a.png", "b.png", "sub/c.png"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name)
    return tmp_path


PAIRS = list(zip(NAMES, ["cat", "dog", "cat"], strict=True))
FORMS = {
    "labels.csv": "file_name,label\n" + "".join(f"{a},{b}\n" for a, b in PAIRS),
    "metadata.csv": "\ufeffLabel;text;File\r\n" + "".join(f"{b};x;{a}\r\n" for a, b in PAIRS),
    "metadata.jsonl": "\n".join(json.dumps({"file_name": a, "label": b, "text": "t"}) for a, b in PAIRS),
    "labels.json": json.dumps(dict(PAIRS)),
    "dataset.json": json.dumps({"labels": [[f"./{a}", b] for a, b in PAIRS]}),
    "labels.jsonl": "\n\n".join(json.dumps({"image": a, "class": b}) for a, b in PAIRS) + "\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_table_gives_the_classes_and_is_said(folder, name):
    (folder / name).write_text(FORMS[name], encoding="utf-8")
    source = open_images(folder)
    assert source.classes == ["cat", "dog"] and source.labels is not None
    assert dict(zip(source.names, (source.classes[i] for i in source.labels), strict=True)) == dict(PAIRS)
    assert f"classes of {name}" in source.read_as and not source.ignored


def test_whole_numbers_are_the_labels(folder):
    (folder / "labels.json").write_text(json.dumps({"a.png": 0, "b.png": 3, "sub/c.png": 0}))
    source = open_images(folder)
    assert source.classes == ["0", "1", "2", "3"] and list(source.labels) == [0, 3, 0]


def test_each_split_may_have_its_own(folder):
    for split, label in (("train", "cat"), ("test", "dog")):
        (folder / split).mkdir()
        Image.new("RGB", (4, 4)).save(folder / split / "x.png")
        (folder / split / "metadata.csv").write_text(f"file_name,label\nx.png,{label}\n")
    for name in NAMES:
        (folder / name).unlink()
    source = open_images(folder)
    assert [source.classes[i] for i in source.labels] == ["dog", "cat"]
    assert open_images(folder, under="train").classes == ["cat"]


def test_what_a_table_lacks_or_has_too_many_is_said(folder):
    (folder / "labels.csv").write_text("file_name,label\na.png,cat\nb.png,dog\nz.png,dog\nsub/c.png,\n")
    (folder / "labels.json").write_text("{}")
    source = open_images(folder)
    assert source.names == ["a.png", "b.png"]
    assert "1 files in it are not there, such as z.png" in source.read_as
    assert "labels.json is not read (labels.csv is)" in source.read_as
    assert ("sub/c.png", "a picture without the label that others have") in source.ignored
    with pytest.raises(DigitError, match=r"sub/c.png in .* has no class"):
        open_images(folder, strict=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,text\na.png,a cat\n", "no columns file_name and label"),
        ("", "no columns file_name and label"),
        ("file_name,label\nq.png,cat\n", "states a class of none of these"),
    ],
)
def test_a_table_that_is_none_leaves_the_folders(folder, text, words):
    (folder / "metadata.csv").write_text(text)
    assert words in open_images(folder).read_as


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("labels.csv", b"file_name,label\na.png,cat\na.png,dog\n", "says two classes of a.png"),
        ("labels.csv", b"file_name,label\na.png,\xff\n", "is damaged"),
        ("labels.csv", b'file_name,label\n"a.png,cat\n', "is damaged"),
        ("labels.csv", b"file_name,label\na.png," + b"x" * 5000, "row 1 names no file and class"),
        ("labels.csv", b"file_name,label\na.png," + b"x" * 200_000, "is damaged"),
        ("labels.json", b'{"a.png": ', "is damaged"),
        ("labels.json", b"[" * 100_000, "is damaged"),
        ("labels.json", b'{"a.png": [1]}', "row 1 names no file and class"),
        ("labels.json", b'{"a.png": true}', "row 1 names no file and class"),
        ("labels.jsonl", b'{"file": "a.png", "label": 1}\n{', "is damaged"),
    ],
)
def test_damaged_and_hostile_tables_are_one_sentence(folder, name, data, words):
    (folder / name).write_bytes(data)
    with pytest.raises(DigitError, match=words) as error:
        open_images(folder)
    assert name in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 3000


def test_a_link_or_too_large_a_table_is_not_read(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "labels.csv"
    other.write_text(FORMS["labels.csv"])
    (folder / "labels.csv").symlink_to(other)
    with (folder / "labels.json").open("wb") as file:
        file.truncate(1 << 40)
    source = open_images(folder)
    assert "labels.csv is not read" in source.read_as and "labels.json is not read" in source.read_as
    assert "classes of" not in source.read_as


def test_names_that_lead_out_name_nothing(folder):
    (folder / "labels.csv").write_text("file_name,label\n../a.png,cat\n/etc/passwd,dog\na.png,eel\n")
    source = open_images(folder)
    assert source.labels is None and "only 1 of 3 have one" in source.read_as
