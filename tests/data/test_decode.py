import random
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from odd_pictures import broken, encoded, picture, readable, rotated_jpeg
from PIL import Image

from digit.data.decode import (
    _HEADER,
    _READS,
    _SCANS,
    AVIF,
    BoundedReads,
    BrokenImage,
    TooMuch,
    check_parts,
    decode,
)
from digit.data.transforms import render

READABLE, BROKEN = readable(), broken()


@pytest.mark.parametrize("name", READABLE)
def test_odd_pictures_become_rgb(name):
    image = decode(READABLE[name])
    assert image.mode == "RGB"
    odd = {"one_pixel.png": (1, 1), "rotated.jpg": (12, 20), "rotated.avif": (12, 20)}
    assert image.size == odd.get(name, (20, 12))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pictures_give_one_reason(name):
    with pytest.raises(BrokenImage) as caught:
        decode(BROKEN[name])
    assert "\n" not in str(caught.value) and str(caught.value)


def test_size_is_checked_before_decoding():
    start = time.thread_time()  # of the processor: the machine may be busy
    with pytest.raises(BrokenImage, match="10000 x 9000"):
        decode(BROKEN["large.png"])
    with pytest.raises(BrokenImage, match="more than 239"):
        decode(READABLE["plain.png"], max_pixels=239)
    assert decode(READABLE["plain.png"], max_pixels=240).size == (20, 12)
    assert time.thread_time() - start < 0.5


@pytest.mark.skipif(not AVIF, reason="Pillow without AVIF")
def test_avif_is_bounded_and_its_damage_is_a_reason():
    data = encoded(picture(200, 120), "AVIF", quality=100)
    assert np.abs(np.asarray(decode(data)).astype(int) - np.asarray(picture(200, 120))).mean() < 2
    place = data.index(b"ispe") + 8  # width and height
    for size in ((2**31 - 1, 2**20), (60_000, 60_000), (10_000, 9_000), (0, 10)):
        with pytest.raises(BrokenImage):
            decode(data[:place] + struct.pack(">II", *size) + data[place + 8 :])
    with pytest.raises(BrokenImage, match="many megabytes"):
        decode(encoded(picture(), "AVIF", icc_profile=bytes(13_000_000)))
    chance = random.Random(0)
    for _ in range(300):
        mutant = bytearray(data)
        for _ in range(chance.choice((1, 4, 30))):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        try:
            assert decode(bytes(mutant)).mode == "RGB"
        except BrokenImage as error:
            assert "\n" not in str(error)


def test_lossless_pictures_keep_their_values():
    expected = np.asarray(picture())
    for name in ("plain.png", "plain.bmp", "plain.tif", "plain.ppm", "png_called.jpg"):
        assert np.array_equal(np.asarray(decode(READABLE[name])), expected), name


def test_cmyk_keeps_its_colours():
    expected = np.asarray(picture()).astype(int)
    for name in ("cmyk.jpg", "cmyk.tif"):
        assert np.abs(np.asarray(decode(READABLE[name])).astype(int) - expected).mean() < 4, name


def test_sixteen_bits_are_scaled_not_cut():
    expected = (np.arange(240).reshape(12, 20) * 270 + 128) // 257
    for name in ("grey16.png", "grey16.tif"):
        pixels = np.asarray(decode(READABLE[name])).astype(int)
        assert (pixels == expected[..., None]).all(), name


def test_float_grey_is_scaled():
    pixels = np.asarray(decode(READABLE["float.tif"]))
    assert pixels.min() == 0 and pixels.max() == 255


def test_transparency_lies_on_white():
    transparent = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    transparent.putpixel((1, 0), (200, 0, 0, 128))
    pixels = np.asarray(decode(encoded(transparent, "PNG")))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[0, 1].astype(int) - [227, 127, 127]).max() <= 1
    half = Image.new("P", (2, 1))
    half.putpalette([0, 0, 0, 9, 9, 9])
    half.putpixel((1, 0), 1)
    pixels = np.asarray(decode(encoded(half, "PNG", transparency=0)))
    assert pixels[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_every_orientation_is_undone():
    upright = np.asarray(decode(rotated_jpeg(1))).astype(int)
    held = {2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2)}
    held |= {6: np.rot90(upright, -1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, 1)}
    for orientation, expected in held.items():
        assert np.array_equal(np.asarray(decode(rotated_jpeg(orientation))), expected), orientation
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("TIFF", "PNG"):
        turned = decode(encoded(picture(), kind, exif=exif))
        assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture()), -1)), kind


def test_an_animation_gives_its_first_frame():
    first = np.asarray(picture()).astype(int)
    assert np.abs(np.asarray(decode(READABLE["animated.webp"])).astype(int) - first).mean() < 12


def test_warnings_stay_inside_and_filters_stay_as_they_were():
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [
            threading.Thread(target=lambda: [decode(data) for data in READABLE.values()]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not caught
    assert list(warnings.filters) == before


def test_mutated_pictures_never_crash():
    rng = random.Random(0)
    bases = list(READABLE.values())
    refused = 0
    for _ in range(600):
        data = bytearray(rng.choice(bases))
        for _ in range(rng.choice((1, 4, 16))):
            place = rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))
            match rng.randrange(4):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    data[place : place + 4] = rng.choice(
                        (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
                    )
                case 2:
                    del data[place : place + rng.randrange(1, 9)]
                case 3:
                    data[place:place] = rng.randbytes(4)
            if not data:
                break
        try:
            image = decode(bytes(data), max_pixels=1_000_000)
        except BrokenImage:
            refused += 1
            continue
        assert image.mode == "RGB"
        assert render(image, 8).shape == (3, 8, 8)
    assert 100 < refused < 590


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


@pytest.mark.parametrize("name", ["iCCP", "zTXt", "iTXt"])
def test_a_png_with_megabytes_of_profile_or_text_is_read(name):
    """Pillow inflates a megabyte of each and then refuses the picture; no pixel depends on them."""
    start = {
        "iCCP": b"ICC Profile\0\0",
        "zTXt": b"Comment\0\0",
        "iTXt": b"XML:com.adobe.xmp\0\1\0\0\0",
    }[name]
    content = name.encode() + start + zlib.compress(bytes(3 * 2**20))
    part = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    plain = encoded(picture(), "PNG")
    for place in (33, len(plain) - 12):  # behind the header; before the end
        again = decode(plain[:place] + part + plain[place:])
        assert np.array_equal(np.asarray(again), np.asarray(decode(plain)))
