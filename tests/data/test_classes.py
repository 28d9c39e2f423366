"""Which class each picture has: what people's folders, zips and shards look like, and random trees."""

import io
import json
import os
import tarfile
import tempfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digit.data.classes import (
    counted,
    different,
    find_classes,
    grouped,
    in_order,
    plain,
    plainly_named,
    relabel,
)
from digit.data.images import open_images
from digit.errors import DigitError

FILES = "0.png", "1.png"


def pictures(*folders: str) -> list[str]:
    return [f"{folder}/{file}" for folder in folders for file in FILES]


def found(places: list[str], **how) -> dict[str, int]:
    """Numbers of pictures by class; by the reason for those that have none."""
    classes = find_classes(places, **how)
    names = classes.names or ["no classes"] * len(places)
    gone = classes.masks | classes.left_out
    return Counter(gone.get(i, name) for i, name in enumerate(names))


BESIDE, OUTSIDE = "beside the class folders", "beside the folders of splits"
SPLIT, MASKS = "in the folder of a split beside the classes", "in a folder of masks"
CAT_DOG = {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # one bad member does not drop the labels of the others
        ([*pictures("cat", "dog"), "preview.png"], {**CAT_DOG, BESIDE: 1}),
        ([*pictures("set/cat", "set/dog"), "set/preview.png"], {**CAT_DOG, BESIDE: 1}),
        ([*pictures("set/cat", "set/dog"), "preview.png"], {**CAT_DOG, BESIDE: 1}),
        ([*pictures("train/cat", "train/dog"), "test/0.png"], {**CAT_DOG, BESIDE: 1}),
        ([*pictures("old", "new"), *(f"{i}.png" for i in range(9))], {"no classes": 13}),
        # nested classes keep their whole path
        (
            pictures("a/bar/indoor", "m/market/indoor", "m/market/outdoor"),
            {"a/bar/indoor": 2, "m/market/indoor": 2, "m/market/outdoor": 2},
        ),
        (pictures("n01/a", "n02/a"), {"n01/a": 2, "n02/a": 2}),
        (pictures("cats/001", "cats/002", "dogs/001"), {"cats/001": 2, "cats/002": 2, "dogs/001": 2}),
        (pictures("cat", "cat/kitten", "dog"), {"cat": 2, "cat/kitten": 2, "dog": 2}),
        (pictures("cat/images", "dog/images"), CAT_DOG),
        (pictures("photos/2024"), {"no classes": 2}),
        # splits
        (pictures("train/cat", "val/dog", "test/cat"), {"cat": 4, "dog": 2}),
        (pictures("set/Training_Set/cat", "set/test_set/dog"), CAT_DOG),
        (pictures("cat/train", "cat/test", "dog/train"), {"cat": 4, "dog": 2}),
        (pictures("cat", "dog", "test"), {**CAT_DOG, SPLIT: 2}),
        (pictures("cat", "dog", "test/cat", "test/dog"), {"cat": 4, "dog": 4}),
        (pictures("train/cat", "train/dog", "docs"), {**CAT_DOG, OUTSIDE: 2}),
        (pictures("bus", "train", "truck"), {"bus": 2, "train": 2, "truck": 2}),
        (pictures("train", "val"), {"no classes": 4}),
        (pictures("train2017/images/cat", "val2017/images/dog"), CAT_DOG),
        # masks
        (pictures("cat", "dog", "masks"), {**CAT_DOG, MASKS: 2}),
        (pictures("images/cat", "images/dog", "Masks/cat", "Masks/dog"), {**CAT_DOG, MASKS: 4}),
        (pictures("cat/images", "cat/mask", "dog/images", "dog/mask"), {**CAT_DOG, MASKS: 4}),
        (pictures("mask", "no_mask"), {"mask": 2, "no_mask": 2}),
        (pictures("SegmentationClass", "JPEGImages"), {"no classes": 2, MASKS: 2}),
        (
            [*pictures("cat", "dog"), "cat/0_mask.png", "dog/1 (mask).png", "dog/1.mask_2.png"],
            {**CAT_DOG, "a mask of 0.png": 1, "a mask of 1.png": 2},
        ),
        (pictures("masks"), {"no classes": 2}),
    ],
)  # fmt: skip
def test_the_class_of_each_picture_or_the_reason_why_not(places, expected):
    assert found(places) == expected
    assert found(places[::-1]) == expected


def test_what_was_taken_how_is_noted():
    assert find_classes(pictures("train/cat", "val/dog")).notes == ["splits train, val taken together"]
    assert find_classes(pictures("bus", "train")).notes == ["the folder train is taken for a class"]
    assert find_classes(["0.png"]).notes == ["they lie in no folders"]
    assert find_classes(["a/0.png"]).notes == ["they lie in one folder"]
    assert find_classes(pictures("a", "b") + [f"{i}.png" for i in range(6)]).notes == [
        "only 4 of 10 have one"
    ]


def test_below_one_split_a_folder_called_as_another_is_a_class():
    assert found(pictures("dog", "test"), split="test") == {"dog": 2, "test": 2}
    assert found(pictures("dog"), known=["cat", "dog"]) == {"dog": 2}


def test_stated_labels_keep_their_numbers_and_negative_ones_are_none():
    places = [f"{i}.png" for i in range(4)]
    assert found(places, stated=["9", "12", "-1", None]) == {
        "9": 1, "12": 1, "its label -1 is no class": 1, "a picture without the label that others have": 1,
    }  # fmt: skip
    assert in_order(["9", "12"], stated=True) == [str(i) for i in range(13)]
    assert in_order(["10", "9", "cat"], stated=True) == ["9", "10", "cat"]
    assert in_order(["10", "9"], stated=False) == ["10", "9"]
    assert found(places, stated=["a", None, None, None]) == {"no classes": 4}


@pytest.mark.parametrize(
    "name",
    ["./caf\u00e9/a.png", "cafe\u0301\\a.png", "cafe\u0301//a.png", "caf\u00e9/./a.png", "caf\u00e9/a.png/"],
)  # fmt: skip
def test_a_name_is_the_same_whoever_wrote_it(name):
    assert plain(name) == "caf\u00e9/a.png" == plain(plain(name))


def test_two_members_of_one_plain_name_stay_two():
    names = ["cafe\u0301/0.png", "caf\u00e9/0.png", "b\\0.png"]
    assert [written for _, written in plainly_named(names)] == ["b\\0.png", *names[:2]]
    assert [name for name, _ in plainly_named(names)] == ["b/0.png", *names[:2]]


def test_labels_go_by_the_names_of_classes():
    labels = np.array([2, 0, 2])
    assert relabel(labels, ["cat", "x", "dog"], ["dog", "cat"], of="a", known_to="b").tolist() == [0, 1, 0]
    assert relabel(labels, ["cafe\u0301", "", "b"], ["b", "caf\u00e9"], of="a", known_to="b").tolist() == [
        0,
        1,
        0,
    ]
    with pytest.raises(DigitError, match=r"a: class 'dog' is not among the 1 of b \('cat'\)"):
        relabel(labels, ["cat", "x", "dog"], ["cat"], of="a", known_to="b")
    with pytest.raises(DigitError, match="classes 'cat', 'dog' are not among the 0"):
        relabel(labels, ["cat", "x", "dog"], [], of="a", known_to="b")


def test_many_are_told_in_few_words():
    assert counted(["a", "b", "c"], np.array([0, 2, 2])) == "a 1, c 2"
    many = [f"n{i}" for i in range(1000)]
    assert counted(many, np.arange(2001) % 1000) == "n0 3, n1 2, n2 2, ...: 2 to 3 each"
    assert different(many) == "'n0', 'n1', 'n2', 'n3', 'n4' and 995 more"
    rows = [("a.txt", "x"), ("b.txt", "x"), ("c", "y"), ("d", "z")]
    assert grouped(rows, most=2) == "a.txt and 1 other (x), c (y), and more for 1 other reasons"


# --- random trees, read by digit and by the small reader below ---

NAME = st.text("abC\u00e9\u4e2d1_-. ", min_size=1, max_size=4).map(lambda text: f"k{text}o")
FORMS = st.sampled_from(["NFC", "NFD"])
SUFFIX = st.sampled_from([".png", ".JPG", ".jpeg", ".JFIF", ".WebP"])
OTHERS = ["notes.txt", ".DS_Store", "k/Thumbs.db", "k/.hidden.png", "labels.csv"]


@st.composite
def trees(draw) -> list[str]:
    """Files of a set of pictures, as one system or another writes them."""
    classes = draw(st.lists(st.lists(NAME, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4))
    splits = draw(st.sampled_from([[""], ["train/", "val/"], ["Train/", "TEST/", "valid/"]]))
    around = draw(st.sampled_from(["", "set/", "a set/of mine/"]))
    masks = draw(st.sampled_from(["", "masks/"]))
    files = []
    for i in range(draw(st.integers(2, 12))):
        folder = f"{draw(st.sampled_from(splits))}{draw(st.sampled_from(classes))}/"
        files.append(f"{around}{folder}{i}{draw(SUFFIX)}")
    files += [f"{around}{masks}m{i}.png" for i in range(draw(st.integers(0, 2))) if masks]
    files += [f"{around}stray{i}.png" for i in range(draw(st.integers(0, 2)))]
    files += draw(st.lists(st.sampled_from(OTHERS), unique=True))
    return list({unicodedata.normalize(draw(FORMS), file) for file in files})


def independent(written: list[str]) -> dict[str, str] | None:
    """The class of each picture by its file's name; None: no classes. For trees as those above."""
    folders = {}
    for path in (PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))) for name in written):
        hidden = any(part.startswith(".") for part in path.parts)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".jfif", ".webp") and not hidden:
            folders[path.name] = str(path.parent)
    if all("/masks" in f"/{folder}" for folder in folders.values()):
        folders = dict.fromkeys(folders, ".")
    folders = {name: folder for name, folder in folders.items() if "/masks" not in f"/{folder}"}

    def shortened() -> dict[str, str]:
        inside = [folder for folder in folders.values() if folder != "."]
        top = os.path.commonpath(inside) if inside else "."
        return {
            n: "." if f == "." or len(f) < len(top) else os.path.relpath(f, top) for n, f in folders.items()
        }

    while (short := shortened()) != folders:  # what lies above or beside the common folder lies in it
        folders = short
    first = {folder.split("/")[0].lower() for folder in folders.values()} - {"."}
    if first and first <= {"train", "val", "valid", "test"}:
        folders = {n: f.partition("/")[2] or "." for n, f in folders.items()}
        while (short := shortened()) != folders:
            folders = short
    labelled = {name: folder for name, folder in folders.items() if folder != "."}
    return labelled if labelled and 2 * len(labelled) >= len(folders) else None


def write_folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "x" / name).write_bytes(b"?")
    return root / "x"


def write_zip(root: Path, names: list[str], *, windows: bool = False) -> Path:
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name.replace("/", "\\") if windows else f"./{name}", b"?")
    return root / "x.zip"


def write_tar(root: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(root / "x.tar", "w") as archive:
        for name, content in contents.items():
            (member := tarfile.TarInfo(f"./{name}")).size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root / "x.tar"


def by_file(source) -> dict[str, str] | None:
    if source.labels is None:
        return None
    labels = (source.classes[label] for label in source.labels)
    return {name.rpartition("/")[2]: label for name, label in zip(source.names, labels, strict=True)}


@settings(max_examples=150, deadline=None)
@given(trees())
def test_random_trees_have_the_labels_that_an_independent_reader_gives_them(names):
    expected = independent(names)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in (
            write_folder(root, names),
            write_zip(root, names),
            write_zip(root, names, windows=True),
            write_tar(root, dict.fromkeys(names, b"?")),
        ):
            source = open_images(path)
            assert by_file(source) == expected, path.name
            told = {name for name, _ in source.ignored}
            assert len(source) + len(told) == len(names), "every file is read or told"
            assert source.read_as.startswith(f"{path}: {len(source)} picture")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(NAME, st.one_of(st.integers(-2, 12), NAME), min_size=1, max_size=10),
    st.sampled_from(["cls", "json"]), st.integers(0, 3), FORMS,
)  # fmt: skip
def test_random_shards_have_the_labels_that_they_state(stated, kind, unlabelled, form):
    """Names with dots and accents, labels that are names, numbers or none, and pictures without any."""
    contents = {f"z{i}.png": b"?" for i in range(unlabelled)}
    for name, label in stated.items():
        key = unicodedata.normalize(form, name)
        text = json.dumps({"label": label}) if kind == "json" else f"{label}\r\n"
        contents |= {f"{key}.png": b"?", f"{key}.{kind}": text.encode("utf-8-sig")}
    expected = {f"{name}.png": str(label) for name, label in stated.items() if str(label)[:1] != "-"}
    if 2 * len(expected) < len(stated) + unlabelled or not expected:
        expected = None
    with tempfile.TemporaryDirectory() as folder:
        source = open_images(write_tar(Path(folder), contents))
    assert by_file(source) == expected
    if expected and all(label.isdigit() for label in expected.values()):
        assert source.labels is not None
        assert [source.classes[label] for label in source.labels] == [str(n) for n in source.labels]
