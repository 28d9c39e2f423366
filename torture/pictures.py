"""T9: mutated picture files through the loader that every verb uses."""

import random
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from digit.data.images import open_images
from digit.data.loader import Report, stream
from torture.outcome import About, Outcome, memory

ABOUT = About(
    what="mutated picture files (11 formats, 400 x 300, JPEG 2000 100 x 75; 8 kinds of damage) through "
    "open_images and stream",
    goal="each rejected file reported with a reason, 0 crashes, < 300 MB more memory, >= 1,500 a second",
    full=10_000,
    short=250,
)
SIZE = 64  # pixels that the loader renders


def bases() -> dict[str, bytes]:
    """Whole pictures, by the ends of their names."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:300, 0:400]
    smooth = np.stack([x / 400, y / 300, 0.5 + 0.5 * np.sin(x / 17 + y / 31)], -1)
    photo = Image.fromarray(((smooth * 0.9 + rng.random((300, 400, 3)) * 0.1) * 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [photo.quantize(64), photo.rotate(90).resize((400, 300)).quantize(64)]
    return {
        "jpg": _encoded(photo, "JPEG", quality=90, exif=exif),
        "progressive.jpg": _encoded(photo, "JPEG", progressive=True),
        "cmyk.jpg": _encoded(photo.convert("CMYK"), "JPEG"),
        "png": _encoded(photo, "PNG"),
        "palette.png": _encoded(photo.quantize(200), "PNG"),
        "webp": _encoded(photo, "WEBP"),
        "gif": _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bmp": _encoded(photo, "BMP"),
        "tif": _encoded(photo, "TIFF", compression="tiff_lzw"),
        "ppm": _encoded(photo, "PPM"),
        "jp2": _encoded(photo.resize((100, 75)), "JPEG2000"),
    }


def mutate(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """The file with one of eight kinds of damage, half of the time within its first 300 bytes."""
    copy = bytearray(data)
    place = draw.randrange(min(300, len(copy)) if draw.random() < 0.5 else len(copy))
    match draw.randrange(8):
        case 0:
            for _ in range(draw.choice((1, 4, 16))):
                copy[draw.randrange(len(copy))] ^= 1 << draw.randrange(8)
        case 1:
            for _ in range(draw.choice((1, 4, 16))):
                copy[min(place + draw.randrange(64), len(copy) - 1)] = draw.randrange(256)
        case 2:
            extremes = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")
            copy[place : place + 4] = draw.choice(extremes)
        case 3:
            del copy[place : place + draw.randrange(1, 2000)]
        case 4:
            copy[place:place] = draw.randbytes(draw.randrange(1, 2000))
        case 5:
            del copy[place:]
        case 6:
            other = draw.choice(others)
            copy[: draw.randrange(8, 600)] = other[: draw.randrange(8, 600)]
        case 7:
            length = draw.randrange(16, 4000)
            copy[place : place + length] = bytes(length)
    return bytes(copy)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` mutants, stored in a zip whose own checksums are right."""
    draw, whole = random.Random(seed), bases()
    path = folder / "mutants.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(cases):
            kind = draw.choice(list(whole))
            archive.writestr(f"{i:06d}.{kind}", mutate(whole[kind], draw, list(whole.values())))
    outcome, report, decoded = Outcome(cases), Report(), []
    source = open_images(path)
    list(stream(source, SIZE, batch_size=64, threads=1, blocks=[range(64)]))  # what is loaded once is loaded
    with memory() as measured:
        begun = time.process_time()
        for index, pixels in stream(source, SIZE, batch_size=64, threads=1, report=report):
            outcome.check(pixels.shape == (len(index), 1, 3, SIZE, SIZE), f"a batch of {tuple(pixels.shape)}")
            decoded += index.tolist()
        seconds = time.process_time() - begun
    skipped = dict(report.skipped)
    named = {source.names[i] for i in decoded}
    for name in source.names:
        outcome.check((name in named) != (name in skipped), f"{name} is neither or both decoded and reported")
    for name, reason in skipped.items():
        outcome.check(bool(reason) and "\n" not in reason, f"{name} has the reason {reason!r}")
    outcome.check(len(source) == cases, f"{cases - len(source)} files were not listed")
    outcome.check(measured.growth < 300, f"memory grew by {measured.growth:.0f} MB")
    outcome.figures = {
        "reported": len(skipped),
        "decoded in spite of the damage": len(decoded),
        "files a second of one core": cases / seconds,
        "MB more": measured.growth,
    }
    return outcome


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
