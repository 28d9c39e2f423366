"""What ordinary files hold beside their pixels is read; what no picture holds is refused at once."""

import struct
import zlib

import pytest
from odd_pictures import encoded, picture
from PIL import Image

from digit.data.bounds import _HEADER, _READS, _SCANS, BoundedReads, TooMuch, check_parts
from digit.data.decode import decode

JPEG, PNG, WEBP = (encoded(picture(), kind) for kind in ("JPEG", "PNG", "WEBP"))


def segments(kind: int, content: bytes, count: int) -> bytes:
    return (b"\xff" + bytes([kind]) + struct.pack(">H", len(content) + 2) + content) * count


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(chunks: bytes) -> bytes:
    return PNG[:33] + chunks + PNG[33:]


ORDINARY = {
    "a depth map of 5 MB": JPEG[:2]
    + segments(0xE1, b"http://ns.adobe.com/xmp/" + bytes(64_000), 80)
    + JPEG[2:],
    "a film at the end": JPEG + bytes(range(256)) * 80_000,
    "a profile of 3 MB": JPEG[:2] + segments(0xE2, b"ICC_PROFILE\0" + bytes(64_000), 46) + JPEG[2:],
    "texts of 2 MB": with_chunks(chunk(b"tEXt", b"a\0" + b"b" * 250_000) * 8),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_are_read(name):
    assert decode(ORDINARY[name]).size == (20, 12)


def test_pixels_may_come_in_small_parts():
    data = zlib.compress(bytes(bytearray(range(256)) * 12 * 400), 0)
    raw = b"".join(chunk(b"IDAT", data[i : i + 1024]) for i in range(0, len(data), 1024))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1023, 1200, 8, 0, 0, 0, 0))
    assert decode(PNG[:8] + header + raw + chunk(b"IEND", b"")).size == (1023, 1200)


@pytest.mark.parametrize("far", [False, True])
def test_passes_are_counted_up_to_the_end_of_the_picture(far):
    progressive = encoded(picture(), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    both = progressive[:-2], progressive[-2:]
    check_parts(both[0] + scan * 20 + both[1] + scan * _SCANS)
    with pytest.raises(TooMuch, match="passes"):
        check_parts(both[0] + bytes(3 * 2**20 if far else 0) + scan * _SCANS + both[1])


@pytest.mark.parametrize("rest", [JPEG[2:], b""])
def test_what_pillow_would_read_byte_by_byte_is_refused_before(rest):
    for between in (bytes(_READS), b"\xff\0" * (_READS // 2)):
        data = JPEG[:2] + segments(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0", 1) + between
        check_parts(data + rest)
        with pytest.raises(TooMuch, match="kilobytes before its pixels"):
            check_parts(data + b"\0" + rest)
        with pytest.raises(TooMuch, match="small parts"), Image.open(BoundedReads(data + b"\0" + rest)):
            pass


def test_reads_are_counted():
    file = BoundedReads(b"abc" + bytes(_HEADER))
    assert (file.read(3), file.seek(1), file.read(1)) == (b"abc", 1, b"b")
    with pytest.raises(TooMuch, match="no pixels"):
        file.read()
    file.seek(0)
    file.pixels_follow()
    assert len(file.read()) == _HEADER + 3
    with pytest.raises(TooMuch, match="small parts"):
        for _ in range(10**6):
            file.read(1)
