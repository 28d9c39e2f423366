"""Zips and tar shards: what is read and what is refused, of ordinary, damaged and hostile ones."""

import io
import os
import pickle
import random
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from odd_pictures import encoded, picture

from digit.data.decode import BrokenImage
from digit.data.images import open_images
from digit.errors import DigitError

JPEG = encoded(picture(), "JPEG")


def write_tar(
    path: Path, members: dict[str, bytes], *, links: dict[str, tarfile.TarInfo] | None = None
) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in (links or {}).values():
            archive.addfile(info)
    return path


def write_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, JPEG + bytes(i))
    return path


def sample(key: str, label: int | str, *, kind: str = "cls") -> dict[str, bytes]:
    text = f"{label}\n" if kind == "cls" else f'{{"label": {label}}}'
    return {f"{key}.jpg": JPEG + key.encode(), f"{key}.{kind}": text.encode()}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_reading_needs_no_pread_and_threads_share_no_position(tmp_path, monkeypatch, kind):
    monkeypatch.delattr(os, "pread", raising=False)
    members = {f"{i:03d}.jpg": JPEG + bytes([i]) * (1000 * i) for i in range(40)}
    path = tmp_path / f"set.{kind}"
    if kind == "tar":
        write_tar(path, members)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    source = open_images(path)
    with ThreadPoolExecutor(8) as pool:
        for i, data in pool.map(lambda i: (i, source.read(i)), list(range(40)) * 10):
            assert data == members[source.names[i]]


def test_shards_of_samples_read_as_one_source(tmp_path):
    for shard in range(3):
        samples = [sample(f"{i:04d}", 3 * shard + i, kind="json" if i else "cls") for i in range(2)]
        write_tar(tmp_path / f"set-{shard:03d}.tar", samples[0] | samples[1])
    source = open_images(tmp_path / "set-{000..002}.tar")
    assert source.kind == "tar shards" and source.names[:2] == [
        "set-000.tar/0000.jpg",
        "set-000.tar/0001.jpg",
    ]
    assert source.labels.tolist() == [0, 1, 3, 4, 6, 7]
    assert source.classes == [str(i) for i in range(8)] and not source.ignored
    assert source.read(3) == JPEG + b"0001"
    assert open_images(tmp_path).fingerprint == source.fingerprint
    one = open_images(str(tmp_path / "set-001.tar"))
    assert one.names == ["0000.jpg", "0001.jpg"] and one.labels.tolist() == [3, 4]
    with pytest.raises(DigitError, match=r"set-003\.tar does not exist"):
        open_images(tmp_path / "set-{000..003}.tar")


def test_labels_by_name_by_folder_and_incomplete(tmp_path):
    named = open_images(write_tar(tmp_path / "named.tar", sample("0", "dog") | sample("1", "cat")))
    assert named.classes == ["cat", "dog"] and named.labels.tolist() == [1, 0]
    folders = open_images(write_tar(tmp_path / "folders.tar", {"./dog/0.jpg": JPEG, "./cat/0.jpg": JPEG}))
    assert folders.names == ["cat/0.jpg", "dog/0.jpg"] and folders.labels.tolist() == [0, 1]
    part = open_images(write_tar(tmp_path / "part.tar", sample("0", 1) | {"1.jpg": JPEG}))
    assert part.ignored == [("1.jpg", "a picture without the label that others have")]
    assert (part.names, part.labels.tolist(), part.classes) == (["0.jpg"], [1], ["0", "1"])


class Canary:
    def __reduce__(self):
        return (Path("canary").touch, ())


def test_hostile_members_are_reported_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    links = {}
    for name, kind in [
        ("link.jpg", tarfile.SYMTYPE),
        ("hard.jpg", tarfile.LNKTYPE),
        ("device.jpg", tarfile.CHRTYPE),
    ]:
        links[name] = tarfile.TarInfo(name)
        links[name].type, links[name].linkname = kind, "/etc/passwd"
    canary = pickle.dumps(Canary())
    hostile = {"../up.jpg": JPEG, "/abs.jpg": JPEG} | {
        f"0.{kind}": canary for kind in ("pkl", "pyd", "pth", "cls")
    }
    write_tar(
        tmp_path / "x.tar", {"0.jpg": JPEG, **hostile, "1.json": b"[" * 100_000, "1.jpg": JPEG}, links=links
    )
    source = open_images(tmp_path / "x.tar")
    assert source.names == ["0.jpg", "1.jpg"] and source.labels is None
    assert len(source.ignored) == len(hostile) + len(links) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]


def test_duplicate_names_and_a_truncated_shard_are_reported(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"0.jpg": JPEG, "1.jpg": JPEG})
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
    source = open_images(path)
    assert source.ignored == [("x.tar/0.jpg", "the name appears twice")] and source.read(0) == JPEG
    data = path.read_bytes()
    path.write_bytes(data[: 512 + len(JPEG) + 1000])
    with pytest.raises(BrokenImage, match="ends within"):
        source.read(1)
    cut = open_images(path)
    assert cut.names == ["0.jpg"] and "x.tar/1.jpg" in cut.ignored[0]
    path.write_bytes(data[:1536] + b"\xff" * 700)
    assert any("damaged" in reason for _, reason in open_images(path).ignored)


def test_what_is_no_plain_tar_is_refused(tmp_path):
    (tmp_path / "rubbish.tar").write_bytes(b"rubbish" * 1000)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
    for name in ("rubbish.tar", "x.tar.gz"):
        with pytest.raises(DigitError, match="unpack it"):
            open_images(tmp_path / name)


def test_a_record_that_claims_gigabytes_is_not_read(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"0.jpg": JPEG})
    record = tarfile.TarInfo("long")
    record.type, record.size = tarfile.XHDTYPE, 2**33
    end = 512 + (len(JPEG) + 511) // 512 * 512
    path.write_bytes(path.read_bytes()[:end] + record.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    source = open_images(path)
    assert source.names == ["0.jpg"] and "8589934592 bytes" in source.ignored[0][1]


def test_mutated_shards_never_crash(tmp_path):
    rng = random.Random(0)
    members = {f"{'long' * 40}/{i}.jpg": JPEG for i in range(3)} | sample("é", 1)
    base = write_tar(tmp_path / "x.tar", members).read_bytes()
    path = tmp_path / "y.tar"
    for _ in range(150):
        data = bytearray(base)
        for _ in range(6):
            block = rng.randrange(len(data) // 512) * 512
            data[block + rng.randrange(512)] = rng.randrange(256)
            if rng.random() < 0.5:  # a header with any size that its checksum confirms
                data[block + 124 : block + 136] = rng.choice(
                    (b"\xff" * 12, b"77777777777\0", b"\x80" + b"\xff" * 11)
                )
                data[block + 148 : block + 156] = b" " * 8
                data[block + 148 : block + 155] = b"%06o\0" % sum(data[block : block + 512])
        path.write_bytes(data)
        try:
            source = open_images(path)
            for i in range(len(source)):
                source.read(i)
        except (DigitError, BrokenImage):
            continue


def test_damage_inside_a_zip_is_seen_by_its_checksum(tmp_path):
    path = write_zip(tmp_path / "x.zip", ["a/0.jpg", "b/1.jpg"])
    data = bytearray(path.read_bytes())
    data[data.index(JPEG) + 300] ^= 1
    path.write_bytes(data)
    source = open_images(path)
    with pytest.raises(BrokenImage, match="checksum"):
        source.read(0)
    assert source.read(1) == JPEG + b"\0"


def test_a_zip_is_not_believed(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("../a.jpg", "/b.jpg", "C:\\c.jpg", "fine/d.jpg"):
            archive.writestr(name, JPEG)
        archive.writestr("bomb/e.jpg", bytes(1_000_000))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("fine/d.jpg", JPEG)
        archive.writestr(zipfile.ZipInfo("lzma/f.jpg"), JPEG, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    place = data.index((1_000_000).to_bytes(4, "little"), data.index(b"PK\x01\x02"))
    data[place : place + 4] = (9).to_bytes(4, "little")  # a member that inflates beyond its announced size
    path.write_bytes(data)
    source = open_images(path)
    assert source.names == ["bomb/e.jpg", "fine/d.jpg"] and len(source.ignored) == 5
    with pytest.raises(BrokenImage, match="checksum"):
        source.read(0)
    assert source.read(1) == JPEG


def test_zip_members_that_share_bytes_are_left_out(tmp_path):
    """The directory may name one place a thousand times: of members that overlap the first is read."""
    path = write_zip(tmp_path / "x.zip", ["a/0.jpg", "b/1.jpg"])
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = (5).to_bytes(4, "little")  # where the second member begins
    path.write_bytes(data)
    source = open_images(path)
    assert source.names == ["a/0.jpg"]
    assert source.ignored == [("b/1.jpg", "overlaps another member")]


def test_each_picture_has_the_label_of_its_own_name(tmp_path):
    """Of names with dots too; further pictures of a sample are none, and a bad label is only its own."""
    dots = {}
    for i in range(4):
        dots |= sample(f"a.v1.{i:03d}", i)
    source = open_images(write_tar(tmp_path / "dots.tar", dots))
    assert source.labels.tolist() == [0, 1, 2, 3] and not source.ignored
    masks = sample("000", 1) | {"000.mask.png": JPEG} | sample("001", 0) | {"001.seg.jpg": JPEG}
    source = open_images(write_tar(tmp_path / "masks.tar", masks))
    assert source.names == ["000.jpg", "001.jpg"] and source.labels.tolist() == [1, 0]
    assert source.ignored == [
        (name, "a further picture of a sample") for name in ("000.mask.png", "001.seg.jpg")
    ]
    parts = {
        "000.left.jpg": JPEG,
        "000.right.jpg": JPEG,
        "000.cls": b"7",
        "001.label.cls": b"2",
        "001.jpg": JPEG,
    }
    source = open_images(write_tar(tmp_path / "parts.tar", parts))
    assert source.names == ["000.left.jpg", "000.right.jpg", "001.jpg"]
    assert source.labels.tolist() == [7, 7, 2]
    assert source.notes == ["1 samples hold several pictures, each of which counts"]
    minus = sample("0", -1) | sample("1", 9) | sample("2", 12) | {"2.cls": b"\xef\xbb\xbf12\r\n"}
    source = open_images(write_tar(tmp_path / "minus.tar", minus))
    assert source.labels.tolist() == [9, 12] and source.ignored == [("0.jpg", "its label -1 is no class")]
    with pytest.raises(DigitError, match=r"0\.jpg in .*minus\.tar has no class"):
        open_images(tmp_path / "minus.tar", strict=True)
