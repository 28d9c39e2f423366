"""Odd picture files, made in memory: what photo collections contain besides plain RGB."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from digit.data.decode import AVIF


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 20, height: int = 12, *, seed: int = 0) -> Image.Image:
    """Smooth colours, so that JPEG keeps them nearly as they are."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x / width, y / height, 0.5 + 0.5 * np.sin(x / 7 + seed)]
    return Image.fromarray((np.stack(planes, -1) * 255).astype(np.uint8))


def bomb_header(width: int, height: int) -> bytes:
    """A valid PNG header that announces any size, without pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def rotated_jpeg(orientation: int) -> bytes:
    """A 20 x 12 JPEG whose EXIF says how it was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", exif=exif, quality=95)


def readable() -> dict[str, bytes]:
    """Files that must decode, by what is odd about them."""
    colour = picture()
    transparent = colour.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(colour.size))
    palette = colour.quantize(16)
    grey16 = Image.fromarray((np.arange(240).reshape(12, 20) * 270).astype(np.uint16))
    frames = [picture(seed=seed).quantize(32) for seed in range(3)]
    return {
        "plain.jpg": encoded(colour, "JPEG", quality=95),
        "plain.png": encoded(colour, "PNG"),
        "plain.webp": encoded(colour, "WEBP"),
        "plain.bmp": encoded(colour, "BMP"),
        "plain.tif": encoded(colour, "TIFF"),
        "plain.ppm": encoded(colour, "PPM"),
        "grey.jpg": encoded(colour.convert("L"), "JPEG"),
        "grey_alpha.png": encoded(colour.convert("LA"), "PNG"),
        "one_bit.png": encoded(colour.convert("1"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette_transparent.png": encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "palette_one_transparent.png": encoded(palette, "PNG", transparency=3),
        "rgb_transparent.png": encoded(colour, "PNG", transparency=(255, 0, 0)),
        "grey_transparent.png": encoded(colour.convert("L"), "PNG", transparency=7),
        "alpha.png": encoded(transparent, "PNG"),
        "alpha.webp": encoded(transparent, "WEBP", lossless=True),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG", quality=95),
        "cmyk.tif": encoded(colour.convert("CMYK"), "TIFF"),
        "grey16.png": encoded(grey16, "PNG"),
        "grey16.tif": encoded(grey16, "TIFF"),
        "float.tif": encoded(
            Image.fromarray(np.linspace(0, 1, 240, dtype=np.float32).reshape(12, 20)), "TIFF"
        ),
        "rotated.jpg": rotated_jpeg(6),
        "damaged_exif.jpg": encoded(colour, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffrubbish"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=0),
        "animated.webp": encoded(colour, "WEBP", save_all=True, append_images=[picture(seed=1)]),
        "png_called.jpg": encoded(colour, "PNG"),
        "one_pixel.png": encoded(picture(1, 1), "PNG"),
        **(_avifs(colour, transparent) if AVIF else {}),
    }


def _avifs(colour: Image.Image, transparent: Image.Image) -> dict[str, bytes]:
    """Where Pillow is built with it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "plain.avif": encoded(colour, "AVIF"),
        "alpha.avif": encoded(transparent, "AVIF"),
        "rotated.avif": encoded(colour, "AVIF", exif=exif),
        "animated.avif": encoded(colour, "AVIF", save_all=True, append_images=[picture(seed=1)]),
    }


def broken() -> dict[str, bytes]:
    """Files that must be refused, by what is wrong with them."""
    jpeg = encoded(picture(200, 120), "JPEG", quality=95)
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": encoded(picture(200, 120), "PNG")[:-200],
        "header_only.jpg": jpeg[:30],
        "empty.jpg": b"",
        "text.jpg": b"<html>404 Not Found</html>",
        "zeros.jpg": bytes(4096),
        "bomb.png": bomb_header(2**31 - 1, 2**20),
        "large.png": bomb_header(10_000, 9_000),
        "no_width.png": bomb_header(0, 10),
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "large_values.tif": encoded(Image.fromarray(np.full((4, 4), 1 << 20, dtype=np.int32)), "TIFF"),
    }
