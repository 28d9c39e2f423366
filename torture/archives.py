"""T11: tar and zip files made to do harm, and damaged ones, through the readers that every verb uses."""

import io
import pickle
import random
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from digit.data.decode import BrokenImage, decode
from digit.data.images import open_images
from digit.errors import DigitError
from torture.outcome import About, Outcome, memory

ABOUT = About(
    what="tars and zips with members that leave the folder, link, name devices, hold pickles that act, "
    "overlap, lie about sizes, end early, are damaged, or come a million at a time",
    goal="no canary acts, nothing is written, every hostile member reported, 0 crashes",
    full=10_000,
    short=120,
)
MILLION = 1_000_000  # members of the longest tar in a full run
Members = list[tuple[tarfile.TarInfo, bytes]]


class Canary:
    """Makes a file as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle is told to call."""
        return Path.touch, (self.path,)


class Watch:
    """Notes what this process does that reading must not: write, link, unpickle, run."""

    ACTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")
    WRITES = ("os.link", "os.symlink", "os.mkdir", "os.rename", "os.chmod", "shutil.unpack_archive")

    def __init__(self) -> None:
        """Python gives no way to take such a hook out again, so it can only be switched off."""
        self.writing = False  # whether writing is noted
        self.unpickling = False  # whether running and unpickling are noted
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (self.writing and (writes or event in self.WRITES)) or (self.unpickling and event in self.ACTS):
            self.seen.append(f"{event} {arguments[:2]}")


def picture() -> bytes:
    """A small whole picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def hostile_names(draw: random.Random, root: Path) -> list[str]:
    """Names that lead out of the folder, or are none."""
    ups = "../" * draw.randrange(1, 9)
    odd = ["C:\\evil.png", "a\\..\\..\\evil.png", "//evil.png", "./../evil.png", "a/../../evil.png"]
    return [f"{ups}evil.png", str(root / "outside" / "evil.png"), "/evil.png", *odd]


def tar_members(draw: random.Random, root: Path) -> Members:
    """Hostile members of a tar; each must be reported and never be read."""
    canary = pickle.dumps(Canary(root / "canary"))
    members: Members = []
    for name in hostile_names(draw, root):
        members.append(_member(name, picture()))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        member = tarfile.TarInfo(f"link{draw.randrange(10**6)}.png")
        member.type, member.linkname = kind, draw.choice(("/etc/passwd", "../../outside/x", "0.png"))
        members.append((member, b""))
    for suffix in ("pkl", "pyd", "pth", "pt", "npy", "png.pkl"):
        members.append(_member(f"{draw.randrange(10**6)}.{suffix}", canary))
    sparse = tarfile.TarInfo("sparse.png")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    members.append((sparse, b""))
    draw.shuffle(members)
    return members[: draw.randrange(1, len(members) + 1)]


def write_tar(path: Path, members: Members) -> None:
    """A tar of a good picture and the members."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in [_member("good.png", picture()), *members]:
            archive.addfile(member, io.BytesIO(data))


def zip_names(draw: random.Random, root: Path) -> dict[str, bytes]:
    """Hostile members of a zip by their names."""
    canary = pickle.dumps(Canary(root / "canary"))
    named = {name: picture() for name in hostile_names(draw, root)}
    named |= {f"{draw.randrange(10**6)}.{suffix}": canary for suffix in ("pkl", "pyd", "pth", "npy")}
    chosen = draw.sample(list(named), draw.randrange(1, len(named) + 1))
    return {name: named[name] for name in chosen}


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    """A zip of a good picture and the members, under exactly these names."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("good.png", picture())
        for name, data in members.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            if name.startswith("link"):
                info.external_attr = 0o120777 << 16
            archive.writestr(info, data)


def overlapping_zip(path: Path, entries: int) -> None:
    """A zip whose directory names the same few bytes many times."""
    data = zlib.compress(bytes(2**20))[2:-4]
    head = struct.pack(
        "<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(bytes(2**20)), len(data), 2**20, 5, 0
    )
    central = b""
    for i in range(entries):
        name = b"%05d.bmp" % i
        central += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, zlib.crc32(bytes(2**20)), len(data), 2**20,
            len(name), 0, 0, 0, 0, 0, 0,
        ) + name  # fmt: skip
    body = head + b"x.bmp" + data
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, len(central), len(body), 0)
    path.write_bytes(body + central + end)


def long_tar(path: Path, count: int) -> None:
    """A tar of very many empty members, half of them pictures by name."""
    with path.open("wb") as file:
        for i in range(count):
            member = tarfile.TarInfo(f"{i:07d}.{'png' if i % 2 else 'txt'}")
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))


def hostile_headers(draw: random.Random) -> bytes:
    """An extended header made to take time or memory, and a picture behind it."""
    record = draw.choice(
        (
            b"1" * 60_000,
            b"12 hdrcharset=" * 4000,
            b"999999999 path=" + b"a" * 50_000,
            b"30 mtime=" + b"9" * 20 + b"\n",
            b"%d path=%s\n" % (60_013, b"../" * 20_000),
            b"22 GNU.sparse.size=1\n" + b"1" * 60_000,
            b"18 size=-99999999\n",
            b"30 size=99999999999999999999\n",
        )
    )
    member = tarfile.TarInfo("x")
    member.type, member.size = (
        draw.choice((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)),
        len(record),
    )
    if draw.random() < 0.2:
        member.size = draw.choice((2**33, 2**62, 2**40 - 1))
    last = _member("last.png", picture())
    block = member.tobuf(tarfile.GNU_FORMAT) + record + bytes(-len(record) % 512)
    first = _member("good.png", picture())
    good = first[0].tobuf() + first[1] + bytes(-len(first[1]) % 512)
    return good + block * draw.randrange(1, 4) + last[0].tobuf() + last[1] + bytes(-len(last[1]) % 512 + 1024)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut or doubled."""
    copy = bytearray(data)
    for _ in range(draw.choice((1, 3, 9))):
        place = draw.randrange(len(copy))
        match draw.randrange(4):
            case 0:
                copy[place] = draw.randrange(256)
            case 1:
                copy[place : place + 4] = draw.choice((b"\xff" * 4, bytes(4), b"\x80" + b"\xff" * 3))
            case 2:
                del copy[place : place + draw.randrange(1, 600)]
            case 3:
                copy[place:place] = copy[place : place + draw.randrange(1, 600)]
        if not copy:
            break
    return bytes(copy)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` archives: two in ten hostile by their members, one by their headers, the others damaged."""
    outcome, draw, watch = Outcome(), random.Random(seed), Watch()
    root = folder / "a" / "b"
    root.mkdir(parents=True)
    (folder / "a" / "outside").mkdir()
    good = [folder / "good.tar", folder / "good.zip"]
    write_tar(good[0], [_member(f"{'long' * 40}/{i}.png", picture()) for i in range(3)])
    write_zip(good[1], {f"a/{i}.png": picture() for i in range(5)})
    bases = [path.read_bytes() for path in good]
    reported = refused = 0
    decode(picture())
    for i in range(cases):
        hostile: list[str] = []
        kind = ("tar", "zip")[i // 10 % 2]
        path = root / f"case.{kind}"
        if i % 10 < 2 and kind == "tar":
            members = tar_members(draw, folder / "a")
            write_tar(path, members)
            hostile = [member.name for member, _ in members]
        elif i % 10 < 2:
            named = zip_names(draw, folder / "a")
            write_zip(path, named, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
            hostile = list(named)
        elif i % 10 == 2:
            path = root / "case.tar"
            path.write_bytes(hostile_headers(draw))
        else:
            path.write_bytes(damaged(bases[kind == "zip"], draw))
        begun = time.process_time()
        ignored = _read(path, watch, outcome, f"case {i} ({kind})")
        seconds = time.process_time() - begun
        outcome.check(seconds < 1, f"case {i} ({kind}) took {seconds:.1f} s")
        refused += ignored is None
        for name in hostile:
            outcome.check(
                ignored is not None and any(name.removeprefix("./").rstrip("/") in each for each in ignored),
                f"case {i}: {name!r} was not reported",
            )
            reported += 1
    outcome.cases = cases
    path = root / "overlap.zip"
    overlapping_zip(path, 20_000)
    with memory() as measured:
        ignored = _read(path, watch, outcome, "overlapping entries", most=1)
    outcome.check(
        len(ignored or []) == 19_999, f"{len(ignored or [])} of 20,000 overlapping entries reported"
    )
    path = root / "long.tar"
    count = MILLION if cases >= ABOUT.full else 20_000
    long_tar(path, count)
    with memory() as measured:
        begun = time.process_time()
        ignored = _read(path, watch, outcome, "a tar of many members", most=2)
        seconds = time.process_time() - begun
    outcome.check(len(ignored or []) == count // 2, f"{len(ignored or [])} of {count // 2} others reported")
    outcome.cases += 2
    outcome.check(not (folder / "a" / "canary").exists(), "the canary acted")
    outside = [each for each in (folder / "a").rglob("*") if each.is_file() and each.parent != root]
    outcome.check(not outside, f"files were written: {outside}")
    outcome.figures = {
        "hostile members reported": reported,
        "archives refused": refused,
        f"seconds for {count:,} members": seconds,
        "MB for them": measured.growth,
    }
    return outcome


def _read(path: Path, watch: Watch, outcome: Outcome, name: str, *, most: int = 10) -> list[str] | None:
    """List an archive and read its first pictures; the names ignored, or None if it was refused."""
    watch.writing, watch.unpickling, watch.seen = True, True, []
    try:
        source = open_images(path)
        for i in range(min(most, len(source))):
            try:
                decode(source.read(i))
            except BrokenImage as error:
                outcome.check("\n" not in str(error), f"{name}: {error!r}")
        return [each for each, _ in source.ignored]
    except DigitError as error:
        outcome.check("\n" not in str(error), f"{name}: {error!r}")
        return None
    except Exception as error:  # whatever it is, it is a loss
        outcome.lost(f"{name} raised {type(error).__name__}: {error}")
        return None
    finally:
        watch.writing = watch.unpickling = False
        outcome.check(not watch.seen, f"{name} did {watch.seen[:3]}")


def _member(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data
