"""Our reader of tar headers beside Python's own, and what its own takes too long for."""

import io
import tarfile
import time

import pytest

from digit.data.tar_headers import Damaged, read_members

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = ["a.jpg", "ä/ö.jpg", "deep/" * 18 + "b.jpg", "x" * 90 + "/" + "y" * 60 + ".jpg", "empty", "a.jpg"]
KINDS = {
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard",
    tarfile.CHRTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}


def write(path, form):
    names = NAMES if form == tarfile.USTAR_FORMAT else [*NAMES, "z" * 300, "w" * 120 + "/ü" * 80]
    with tarfile.open(path, "w", format=form) as archive:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for i, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 0 if name == "empty" else 100 * i + 500
            archive.addfile(member, io.BytesIO(bytes([i]) * member.size))
        for kind, name in KINDS.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "l" * (150 if form != tarfile.USTAR_FORMAT else 20)
            archive.addfile(member)
        last = tarfile.TarInfo("last.jpg")
        last.size = 3
        archive.addfile(last, io.BytesIO(b"end"))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_same_members_as_pythons_own(tmp_path, form):
    path = write(tmp_path / "x.tar", FORMS[form])
    with tarfile.open(path) as archive:
        theirs = [
            (
                each.name,
                "folder" if each.isdir() else "file" if each.isreg() else "other",
                each.offset_data,
                each.size,
            )
            for each in archive
        ]
    ours = [tuple(member) for member in read_members(path)]
    assert [(name, kind) for name, kind, _, _ in ours] == [(name, kind) for name, kind, _, _ in theirs]
    assert [row for row in ours if row[1] == "file"] == [row for row in theirs if row[1] == "file"]
    assert len(ours) == len(NAMES) + len(KINDS) + 2 + 2 * (form != "ustar")


def test_large_sizes_and_sparse_members(tmp_path):
    member = tarfile.TarInfo("large.jpg")
    member.size = 2**40
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        (tmp_path / "x.tar").write_bytes(member.tobuf(form))
        (found,) = read_members(tmp_path / "x.tar")
        assert (found.name, found.size) == ("large.jpg", 2**40)
    member = tarfile.TarInfo("sparse.jpg")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "sparse.jpg"}
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT))
    assert [found.kind for found in read_members(tmp_path / "x.tar")] == ["sparse"]


@pytest.mark.parametrize(
    "record", [b"1" * 60_000, b"1 " * 30_000, b"4 a=" * 15_000, b"12 hdrcharset=" * 4000]
)
def test_extended_headers_take_no_time(tmp_path, record):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, len(record)
    padded = record + bytes(-len(record) % 512)
    (tmp_path / "x.tar").write_bytes((member.tobuf(tarfile.USTAR_FORMAT) + padded) * 50)
    start = time.thread_time()  # of the processor: the machine may be busy
    with pytest.raises(Damaged, match="extended header"):
        list(read_members(tmp_path / "x.tar"))
    assert time.thread_time() - start < 0.5


def test_what_follows_the_end_is_told(tmp_path):
    one = write(tmp_path / "x.tar", tarfile.GNU_FORMAT).read_bytes()
    (tmp_path / "y.tar").write_bytes(
        one.rstrip(b"\0") + bytes(-len(one.rstrip(b"\0")) % 512) + bytes(512) + one
    )
    with pytest.raises(Damaged, match="a block of zeros before others"):
        list(read_members(tmp_path / "y.tar"))
