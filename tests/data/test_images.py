import errno
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from odd_pictures import encoded, picture

from digit.data import archives
from digit.data.decode import BrokenImage
from digit.data.images import LEADS_OUT, open_images
from digit.errors import DigitError

JPEG = encoded(picture(), "JPEG")


def write_folder(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG + bytes(i))
    return root


def write_zip(path: Path, names: list[str], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for i, name in enumerate(names):
            archive.writestr(name, JPEG + bytes(i))
    return path


NAMES = ["dog/2.jpg", "cat/1.JPEG", "cat/0.png", "README.txt", "cat/.hidden.jpg"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_and_a_zip_of_it_are_the_same_source(tmp_path, method):
    folder = open_images(write_folder(tmp_path / "set", NAMES))
    archive = open_images(str(write_zip(tmp_path / "set.zip", NAMES, method=method)))
    for source in (folder, archive):
        assert source.names == ["cat/0.png", "cat/1.JPEG", "dog/2.jpg"]
        assert source.classes == ["cat", "dog"] and source.labels.tolist() == [0, 0, 1]
        assert [len(source.read(i)) for i in range(3)] == [len(JPEG) + 2, len(JPEG) + 1, len(JPEG)]
        assert sorted(name for name, _ in source.ignored) == ["README.txt", "cat/.hidden.jpg"]
    assert folder.fingerprint == archive.fingerprint
    assert (folder.kind, archive.kind) == ("folder", "zip")
    assert [folder.counts()[key] for key in ("pictures", "classes", "ignored")] == [3, 2, 2]


def test_the_fingerprint_sees_names_sizes_and_labels(tmp_path):
    prints = set()
    for i, names in enumerate(
        (["a/0.jpg", "b/1.jpg"], ["a/0.jpg", "b/2.jpg"], ["a/0.jpg", "b/1.jpg", "b/2.jpg"])
    ):
        prints.add(open_images(write_zip(tmp_path / f"{i}.zip", names)).fingerprint)
    source = open_images(tmp_path / "0.zip")
    prints.add(open_images(tmp_path / "0.zip", classes=["b", "a"]).fingerprint)
    prints.add(source.select([1, 0]).fingerprint)
    assert len(prints) == 5 and source.fingerprint in prints


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["0.jpg", "1.jpg"], [], None),
        (["photos/0.jpg", "photos/1.jpg"], [], None),
        (["set/cat/0.jpg", "set/dog/1.jpg"], ["cat", "dog"], [0, 1]),
        (["train/cat/0.jpg", "train/dog/1.jpg", "val/cat/2.jpg"], ["cat", "dog"], [0, 1, 0]),
        (["n01/images/0.jpg", "n02/images/1.jpg"], ["n01", "n02"], [0, 1]),
        (["train/0.jpg", "val/1.jpg"], [], None),
        (["cat/0.jpg", "1.jpg"], [], None),
        (["10/0.jpg", "9/1.jpg"], ["10", "9"], [0, 1]),
    ],
)
def test_labels_are_the_class_folders(tmp_path, names, classes, labels):
    for source in (
        open_images(write_folder(tmp_path / "set", names)),
        open_images(write_zip(tmp_path / "x.zip", names)),
    ):
        assert source.classes == classes
        by_name = (
            None if source.labels is None else [source.labels[source.names.index(name)] for name in names]
        )
        assert by_name == labels


def test_a_split_is_chosen_by_folder(tmp_path):
    names = ["set/train/cat/0.jpg", "set/train/dog/1.jpg", "set/test/dog/2.jpg", "set/test/test/3.jpg"]
    path = write_zip(tmp_path / "x.zip", names)
    train = open_images(path, under="train")
    assert train.names == names[:2] and train.labels.tolist() == [0, 1]
    assert open_images(path, under="set/train").fingerprint == train.fingerprint
    test = open_images(f"{path}:test", classes=["cat", "dog", "test"])
    assert test.labels.tolist() == [1, 2] and test.classes == ["cat", "dog", "test"]
    assert test.read(0) == JPEG + bytes(2)
    with pytest.raises(DigitError, match="class 'test'"):
        open_images(path, under="test", classes=train.classes)
    with pytest.raises(DigitError, match="'validation'"):
        open_images(path, under="validation")


def test_a_selection_keeps_labels_and_classes(tmp_path):
    source = open_images(write_folder(tmp_path, ["a/0.jpg", "b/1.jpg", "b/2.jpg"])).select(np.array([2, 0]))
    assert source.names == ["b/2.jpg", "a/0.jpg"] and source.labels.tolist() == [1, 0] and len(source) == 2
    assert source.read(0) == JPEG + bytes(2) and source.classes == ["a", "b"]


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    for name, match in [("absent", "does not exist"), ("a.zip", "zip file"), ("a.txt", "is no folder")]:
        if name != "absent":
            (tmp_path / name).write_bytes(b"rubbish")
        with pytest.raises(DigitError, match=match):
            open_images(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DigitError, match="no picture found"):
        open_images(tmp_path / "empty")
    with pytest.raises(DigitError, match="class folders"):
        open_images(write_folder(tmp_path / "flat", ["0.jpg"]), classes=["cat"])


@pytest.mark.parametrize("avif", [True, False])
def test_formats_of_phones_are_read_where_pillow_can_and_told_else(tmp_path, monkeypatch, avif):
    suffixes = archives.SUFFIXES - {".avif"} | ({".avif"} if avif else set())
    monkeypatch.setattr(archives, "SUFFIXES", suffixes)
    monkeypatch.setattr(archives, "_UNREAD", archives._UNREAD | {".avif"} - suffixes)
    names = ["cat/0.jpg", "cat/1.AVIF", "dog/2.jpg", "dog/3.HEIC", "dog/4.heif"]
    for source in (
        open_images(write_folder(tmp_path / "folder", names)),
        open_images(write_zip(tmp_path / "a.zip", names)),
    ):
        assert source.names == ["cat/0.jpg", *(["cat/1.AVIF"] if avif else []), "dog/2.jpg"]
        first = "dog/3.HEIC and 1 other" if avif else "cat/1.AVIF and 2 others"
        assert f"left out: {first} (a format that is not read: convert it to PNG or JPEG)" in source.read_as
    with pytest.raises(DigitError, match=r"3\.HEIC is no folder.*a format that is not read: convert"):
        open_images(tmp_path / "folder" / "dog" / "3.HEIC")


def test_a_vanished_file_and_a_loop_of_links(tmp_path):
    write_folder(tmp_path, ["a/0.jpg", "b/1.jpg"])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    source = open_images(tmp_path)
    assert source.names == ["a/0.jpg", "a/gone.jpg", "b/1.jpg"] and source.fingerprint
    with pytest.raises(BrokenImage, match="No such file"):
        source.read(1)


def test_one_picture_is_a_source_too(tmp_path):
    write_folder(tmp_path, ["cat/0.jpg"])
    source = open_images(tmp_path / "cat" / "0.jpg")
    assert (source.names, source.labels, source.kind) == (["0.jpg"], None, "file")
    assert source.read(0) == JPEG
    assert source.counts()["kind"] == "file" and source.counts()["classes"] == 0


def test_fewer_pictures_are_evenly_spread_over_the_set(chain):
    source = open_images(chain.images)
    some = source.spread(7)
    places = [source.names.index(name) for name in some.names]
    assert (places[0], places[-1], len(places)) == (0, len(source) - 1, 7)
    assert max(np.diff(places)) - min(np.diff(places)) <= 1
    assert source.spread(None) is source.spread(10**6) is source
    with pytest.raises(DigitError, match="num 0"):
        source.spread(0)


def test_one_line_says_what_a_set_is_read_as(tmp_path):
    names = ["cat/0.jpg", "dog/1.jpg", "stray.jpg", "dog/notes.txt", "dog/b.txt"]
    write_folder(tmp_path, names)
    (tmp_path / "fox").mkdir()
    source = open_images(tmp_path)
    assert source.read_as == (
        f"{tmp_path}: 2 pictures of 2 classes (cat 1, dog 1); left out: dog/b.txt and 1 other (not named "
        "like a picture), fox/ (an empty folder), stray.jpg (beside the class folders)"
    )
    assert source.counts()["read_as"] == source.read_as
    assert source.spread(1).read_as.startswith(
        f"{tmp_path}: 1 picture of 1 class (cat 1) out of 2; left out:"
    )
    flat = open_images(tmp_path, under="dog")
    assert flat.read_as == (
        f"{tmp_path}: 1 picture, no classes (they lie in no folders, below dog); left out: dog/b.txt and 1 "
        "other (not named like a picture)"
    )


def test_strict_refuses_a_picture_without_a_class_but_no_mask(tmp_path):
    names = ["cat/0.jpg", "dog/1.jpg", "masks/0.png"]
    source = open_images(write_zip(tmp_path / "x.zip", names), strict=True)
    assert source.names == names[:2] and source.ignored == [("masks/0.png", "in a folder of masks")]
    path = write_zip(tmp_path / "y.zip", [*names, "stray.jpg"])
    assert open_images(path).labels.tolist() == [0, 1]
    with pytest.raises(DigitError, match=r"stray\.jpg in .*y\.zip has no class, which others have \(beside"):
        open_images(path, strict=True)


def test_the_same_names_by_every_system_are_the_same_classes(tmp_path):
    """Composed and decomposed accents, backslashes, "./", UTF-8 in zips without the flag, .JFIF."""
    names = ["caf\u00e9/0.jpg", "cafe\u0301/1.JPG", "./caf\u00e9/2.jfif", "dog\\3.JFIF"]
    utf8 = write_zip(tmp_path / "flag.zip", names)
    data = bytearray(utf8.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(magic, place + 1)) >= 0:
            data[place + flags + 1] &= ~8
    (tmp_path / "none.zip").write_bytes(data)
    folder = write_folder(tmp_path / "set", names)
    for source in (open_images(folder), open_images(utf8), open_images(tmp_path / "none.zip")):
        assert source.names == ["caf\u00e9/0.jpg", "caf\u00e9/1.JPG", "caf\u00e9/2.jfif", "dog/3.JFIF"]
        assert source.classes == ["caf\u00e9", "dog"] and source.labels.tolist() == [0, 0, 0, 1]
        assert [source.read(i) for i in range(4)] == [JPEG + bytes(i) for i in range(4)]


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    write_folder(tmp_path, ["cat/0.jpg", "dog/1.jpg", "fox/2.jpg"])
    scan = os.scandir

    def refused(path):
        if Path(path).name == "fox":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    source = open_images(tmp_path)
    assert source.classes == ["cat", "dog"] and source.ignored == [
        ("fox/", "cannot be read: Permission denied")
    ]


def test_a_picture_takes_little_memory(tmp_path):
    """What one more costs: its name and place, at most two kilobytes; in a process that does nothing else."""
    code = "import sys, tracemalloc; from digit.data.images import open_images; tracemalloc.start();"
    code += "print(len(open_images(sys.argv[1])), tracemalloc.get_traced_memory()[1])"
    taken = []
    for count in (500, 4_500):
        names = [f"class {i % 10}/a picture of some length {i:08d}.jpg" for i in range(count)]
        path = write_zip(tmp_path / f"{count}.zip", names)
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        found, peak = map(int, done.stdout.split())
        assert found == count
        taken.append(peak)
    assert taken[1] - taken[0] < 4_000 * 2_048


@pytest.fixture
def linked(tmp_path):
    """A set of two classes, with links that stay in it and links that lead out."""
    root, away = tmp_path / "set", tmp_path / "away"
    for folder in (root / "cat", root / "dog", away):
        write_folder(folder, ["0.jpg"])
    (root / "cat" / "1.jpg").symlink_to("0.jpg")
    (root / "cat" / "2.jpg").symlink_to(away / "0.jpg")
    (root / "cat" / "3.jpg").symlink_to("../../away/0.jpg")
    (root / "bird").symlink_to(away)
    (root / "up").symlink_to(tmp_path)
    (root / "again").symlink_to("cat")
    return root


def test_links_that_lead_out_of_a_folder_are_named_and_left_out(linked):
    source = open_images(linked)
    assert source.names == ["again/0.jpg", "again/1.jpg", "dog/0.jpg"], "of two ways the first"
    away = [name for name, reason in source.ignored if reason == LEADS_OUT]
    assert away == ["again/2.jpg", "again/3.jpg", "bird", "up"]
    assert "again/2.jpg and 3 others (a link that leads out of the folder)" in source.read_as
    assert source.read(1) == source.read(0) == (linked / "cat/0.jpg").read_bytes()
    with pytest.raises(DigitError, match=r"in .* \(a link that leads out"):
        open_images(linked, strict=True)


def test_a_set_that_is_itself_a_link_is_followed(linked, tmp_path):
    (tmp_path / "way").symlink_to(linked)
    (tmp_path / "one.jpg").symlink_to(linked / "cat/0.jpg")
    assert open_images(tmp_path / "way").names == open_images(linked).names
    assert open_images(tmp_path / "one.jpg").read(0) == (linked / "cat/0.jpg").read_bytes()


def test_shards_that_are_links_are_read_where_they_are_named(tmp_path):
    write_folder(tmp_path, ["cat/a.jpg"])
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        archive.add(tmp_path / "cat/a.jpg", "cat/a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/0.tar").symlink_to(tmp_path / "0.tar")
    with pytest.raises(DigitError, match="a link that leads out of the folder"):
        open_images(tmp_path / "set")
    assert len(open_images(tmp_path / "set/0.tar")) == len(open_images(tmp_path / "set/{0..0}.tar")) == 1


@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "folder"])
def test_what_takes_a_pictures_place_is_broken_and_nothing_is_waited_for(tmp_path, kind):
    """Before the set is listed, or after."""
    root = write_folder(tmp_path / "set", ["a.jpg", "b.jpg"])
    before = open_images(root)
    (root / "b.jpg").unlink()
    match kind:
        case "pipe":
            os.mkfifo(root / "b.jpg")
        case "device":
            (root / "b.jpg").symlink_to("/dev/zero")
        case "link out":
            write_folder(tmp_path, ["c.jpg"])
            (root / "b.jpg").symlink_to(tmp_path / "c.jpg")
        case "folder":
            (root / "b.jpg").mkdir()
    with pytest.raises(BrokenImage, match="cannot be read"):
        before.read(1)
    after = open_images(root)
    assert after.read(0) == before.read(0)
    if kind == "pipe":
        with pytest.raises(BrokenImage, match="it is a pipe"):
            after.read(1)
    else:
        assert len(after) == 1 and "b.jpg" in after.read_as


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["set.zip", "set.tar", "one.png"])
def test_a_set_that_is_no_file_is_refused_at_once(tmp_path, kind, name):
    os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(DigitError, match=f"{name} is a {kind}"):
        open_images(tmp_path / name)


def test_a_folder_that_may_not_be_read_is_an_error_if_strict(tmp_path, monkeypatch):
    write_folder(tmp_path, ["bird/0.jpg", "cat/0.jpg", "dog/0.jpg"])
    scan = os.scandir

    def refused(path):
        if Path(path).name == "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    source = open_images(tmp_path)
    assert source.classes == ["bird", "cat"] and "dog/ (cannot be read: Permission denied)" in source.read_as
    with pytest.raises(DigitError, match=r"dog/ in .* is not read \(cannot be read"):
        open_images(tmp_path, strict=True)
