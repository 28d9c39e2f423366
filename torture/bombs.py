"""T13: small files that ask for much time or memory, and large ones that hold next to no picture."""

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from digit.data.decode import BrokenImage, decode
from digit.data.images import open_images
from digit.errors import DigitError
from torture.outcome import About, Outcome, memory

ABOUT = About(
    what="pictures and zips that claim 2^31 x 2^20 pixels, hold 50 MB of EXIF, profiles, comments or empty "
    "parts, ask for thousands of passes, or inflate a thousandfold",
    goal="each rejected before decoding, < 200 ms, < 50 MB more memory",
    full=50 * 2**20,
    short=26 * 2**20,
)
BEST_OF = 3  # times that a case is tried where other work on the machine may have slowed it


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, before: bytes = b"", after: bytes = b"", pixels: bytes | None = None
) -> bytes:
    """A PNG with any size in its header and other parts around its pixels."""
    if pixels is None:
        pixels = chunk(b"IDAT", zlib.compress(bytes(min(width * 3 + 1, 10**6) * min(height, 64))))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def jpeg(segments: bytes = b"", *, scans: int = 0) -> bytes:
    """A JPEG with segments behind its first marker, or with its last pass repeated."""
    image = Image.new("RGB", (4000, 4000) if scans else (16, 16), (200, 100, 50))
    data = _encoded(image, "JPEG", progressive=bool(scans))
    last = data[data.rindex(b"\xff\xda") : -2] if scans else b""
    return data[:2] + segments + data[2:-2] + last * scans + data[-2:]


def segment(kind: int, data: bytes) -> bytes:
    """A part of a JPEG."""
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data


def sized(kind: str, width: int, height: int) -> bytes:
    """A small picture of a format whose header then says another size."""
    data = bytearray(_encoded(Image.new("RGB", (16, 16)), kind))
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "JPEG2000":
        place = data.index(b"ihdr") + 4
        data[place : place + 8] = struct.pack(">II", height, width)
        place = data.index(b"\xff\x51") + 6
        data[place : place + 8] = struct.pack(">II", width, height)
    elif kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(100)
    return bytes(data)


def pictures(many: int) -> dict[str, bytes]:
    """Every bomb that is a picture file, by its name; `many` bytes are of what is no pixel."""
    exif = b"Exif\0\0II*\0\x08\0\0\0"
    small = Image.new("RGB", (16, 16))
    gif = _encoded(small, "GIF")
    start = 13 + 3 * (2 << (gif[10] & 7))
    tiny = zlib.compress(bytes(16 * 49))
    jp2 = _encoded(small, "JPEG2000")
    box = jp2.index(b"jp2h") - 4
    return {
        "PNG of 2^31 x 2^20": png(2**31 - 1, 2**20),
        "PNG of 60,000 x 60,000": png(60_000, 60_000),
        "BMP of 60,000 x 60,000": sized("BMP", 60_000, 60_000),
        "GIF of 65,535 x 65,535": sized("GIF", 65_535, 65_535),
        "JPEG of 65,535 x 65,535": sized("JPEG", 65_535, 65_535),
        "JPEG 2000 of 60,000 x 60,000": sized("JPEG2000", 60_000, 60_000),
        "PPM of 10^9 x 10^9": sized("PPM", 10**9, 10**9),
        "PNG, EXIF": png(16, 16, before=chunk(b"eXIf", exif[6:] + bytes(many))),
        "PNG, EXIF at the end": png(16, 16, after=chunk(b"eXIf", exif[6:] + bytes(many))),
        "PNG, text": png(16, 16, before=chunk(b"tEXt", b"a\0" + b"b" * many)),
        "PNG, many texts": png(16, 16, before=chunk(b"tEXt", b"a\0" + b"b" * 900_000) * (many // 900_000)),
        "PNG, profile that inflates": png(
            16, 16, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(4 * many)))
        ),
        "PNG, text that inflates": png(
            16, 16, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4 * many)))
        ),
        "PNG, own part": png(16, 16, before=chunk(b"prIv", bytes(many))),
        "PNG, empty parts": png(16, 16, before=chunk(b"prIv", b"") * (many // 12)),
        "PNG, pixels in empty parts": png(
            16, 16, pixels=chunk(b"IDAT", b"") * (many // 12) + chunk(b"IDAT", tiny)
        ),
        "JPEG, EXIF": jpeg(segment(0xE1, exif + bytes(65_000)) * (many // 65_000)),
        "JPEG, profile": jpeg(segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(65_000)) * (many // 65_000)),
        "JPEG, comments": jpeg(segment(0xFE, bytes(65_000)) * (many // 65_000)),
        "JPEG, empty segments": jpeg(segment(0xFE, b"") * (many // 4)),
        "JPEG, fill bytes": jpeg(b"\xff" * many),
        "JPEG, 100,000 passes": jpeg(scans=100_000),
        "GIF, comment": gif[:start]
        + b"\x21\xfe"
        + (b"\xff" + bytes(255)) * (many // 256)
        + b"\0"
        + gif[start:],
        "GIF, extensions": gif[:start] + b"\x21\xfe\1c\0" * (many // 5) + gif[start:],
        "PPM, comment": b"P6 16 #" + b"c" * many + b"\n16 255\n" + bytes(768),
        "PPM, blanks": b"P6 16 " + b" " * many + b"16 255\n" + bytes(768),
        "TIFF, profile": _encoded(small, "TIFF", icc_profile=bytes(many)),
        "WebP, profile": _encoded(small, "WEBP", icc_profile=bytes(many)),
        "WebP, EXIF": _encoded(small, "WEBP", exif=bytes(many)),
        "JPEG 2000, free box": jp2[:box] + struct.pack(">I4s", 8 + many, b"free") + bytes(many) + jp2[box:],
        "JPEG 2000, empty boxes": jp2[:box] + struct.pack(">I4s", 8, b"free") * (many // 8) + jp2[box:],
    }


def zips(folder: Path, many: int) -> dict[str, Path]:
    """Every bomb that is a zip file."""
    inner, found = folder / "inner.zip", {}
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("a.bmp", bytes(10 * many))
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "b.zip")
        archive.write(inner, "c.png")
    (folder / "nested.zip").write_bytes(nested.getvalue())
    found["zip, a picture that inflates a thousandfold"] = inner
    found["zip, zips in it"] = folder / "nested.zip"
    found["zip, a size that is a lie"] = folder / "lie.zip"
    data = bytearray(inner.read_bytes())
    place = data.rindex(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<I", 1000)  # its size in the directory
    found["zip, a size that is a lie"].write_bytes(data)
    return found


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """Each bomb once; `cases` is the number of bytes of the large ones."""
    outcome, slowest, largest = Outcome(), ("", 0.0), ("", 0.0)

    def tried(name: str, work: Any, call: Callable[[Any], object]) -> None:
        nonlocal slowest, largest
        outcome.cases += 1
        best, reason = (float("inf"), 0.0), ""
        for _ in range(BEST_OF):
            with memory() as measured:
                begun = time.perf_counter()
                try:
                    call(work)
                    outcome.lost(f"{name} was read")
                    reason = "none"
                except (BrokenImage, DigitError) as error:
                    reason = str(error)
                seconds = time.perf_counter() - begun
            best = min(best, (seconds, measured.growth))
            if best[0] < 0.2:
                break
        outcome.check(best[0] < 0.2, f"{name} took {1000 * best[0]:.0f} ms")
        outcome.check(best[1] < 50, f"{name} took {best[1]:.0f} MB")
        outcome.check(bool(reason) and "\n" not in reason, f"{name} gave the reason {reason!r}")
        slowest = max(slowest, (name, best[0]), key=lambda each: each[1])
        largest = max(largest, (name, best[1]), key=lambda each: each[1])

    decode(jpeg())  # what is loaded once is loaded
    decode(png(16, 16))
    for name, data in pictures(cases).items():
        tried(name, data, decode)
    for name, path in zips(folder, cases).items():
        tried(name, path, _read_all)
    outcome.figures = {
        "slowest, ms": 1000 * slowest[1],
        "which": slowest[0],
        "most, MB": largest[1],
        "that is": largest[0],
    }
    return outcome


def _read_all(path: Path) -> None:
    source = open_images(path)
    for i in range(len(source)):
        decode(source.read(i))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
