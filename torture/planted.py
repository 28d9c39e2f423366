"""T23: FIFOs, devices, sockets, links and programs' formats planted where digit reads and where it writes."""

import os
import random
import shutil
import socket
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from digit.files import read_json, sha256_file, write_json_atomic
from torture.guard import Canaries, Ended, Tree, by_lot, digit
from torture.outcome import About, Outcome
from torture.specimens import TRAIN, drawing, make_specimens

ABOUT = About(
    what="FIFOs, sockets, devices, folders and links under the names that seven verbs write and read, links "
    "out of sets of pictures, pictures of formats that Pillow starts programs for, unreadable folders",
    goal="0 hangs, 0 programs, 0 files touched outside the output folder; one sentence within 2 s and 1 GB, "
    "or done",
    full=300,
    short=26,
)
NOBODY = 65534
FORMATS = {  # what Pillow would know besides pictures that sets hold; for the first two it starts programs
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n",
    "EPS in DOS": b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + (90).to_bytes(4, "little") + bytes(18)
    + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n",
    "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n",
    "PSD": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(800),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "XPM": b"/* XPM */\nstatic char *a[] = {\n\"1 1 1 1\",\n\"a c #000000\",\n\"a\"};\n",
}  # fmt: skip


def plant(kind: str, path: Path, outside: Path) -> bool:
    """Put something in the place of a file; False where this system or user cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    links = {
        "link to a file": outside / "victim.txt",
        "link to a picture": outside / "folder" / "picture.png",
        "link to nothing": outside / "absent.txt",
        "link to a folder": outside / "folder",
        "link to /dev/zero": Path("/dev/zero"),
        "link to a FIFO": outside / "fifo",
        "link to itself": path,
        "link to /proc": Path("/proc"),
    }
    try:
        if kind in links:
            path.symlink_to(links[kind])
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        elif kind == "folder":
            path.mkdir()
        elif kind == "hard link":
            os.link(outside / "victim.txt", path)
        else:
            here = os.open(path.parent, os.O_RDONLY)
            with socket.socket(
                socket.AF_UNIX
            ) as bound:  # by the open folder: a socket's path may be no longer
                bound.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    except (OSError, AttributeError):
        return False
    return True


WRITTEN = (
    "FIFO", "socket", "device", "link to a file", "link to nothing", "link to a folder", "link to /dev/zero",
    "link to itself", "link to a FIFO", "folder", "hard link",
)  # fmt: skip
READ = ("FIFO", "socket", "device", "link to /dev/zero", "link to a FIFO", "link to itself", "folder")
MEMBERS = (*READ[:-1], "link to a picture", "link to nothing")


class Suite:
    """Good files, what lies outside, and the ways to plant among them."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make all that is good, and what must not change."""
        self.draw, self.folder = random.Random(seed), folder
        folder.chmod(0o755)
        folder.parent.chmod(0o755)
        self.there = make_specimens(folder / "specimens")
        self.outside, self.out, self.given = folder / "outside", folder / "out", folder / "given"
        (self.outside / "folder").mkdir(parents=True)
        (self.outside / "victim.txt").write_text("a user's own file\n")
        shutil.copyfile(self.there / "photos" / "red" / "0002.png", self.outside / "folder" / "picture.png")
        os.mkfifo(self.outside / "fifo")
        self.canaries = Canaries(folder / "canaries")
        self.lines, self.finished = self._writers(), folder / "finished"
        for verb in self.lines:
            self.out.mkdir()
            ended = digit(*self.words(verb))
            if ended.code != 0:
                raise RuntimeError(f"{verb} does not run at all: {ended.said[-500:]}{ended.error}")
            mark = self.out / ".digit.json"
            if mark.exists():  # as if it had been killed: the work is done again
                write_json_atomic(mark, read_json(mark) | {"finished": False}, checksum=True)
            self.out.rename(self._kept(verb))
        self.tree = Tree(folder, beside=(self.out, self.given, folder / "canaries"))

    def _kept(self, verb: str) -> Path:
        self.finished.mkdir(exist_ok=True)
        return self.finished / verb.replace(" ", "-")

    def _writers(self) -> dict[str, str]:
        there, out = self.there, self.out
        stages, images = there / "stages", there / "pictures.zip"
        parts = " ".join(f"--{name} {stages / name}" for name in ("prior", "renderer", "vqgan", "tokenizer"))
        tokens = f"--tokenizer {stages / 'tokenizer'} --vqgan {stages / 'vqgan'} --device cpu"
        measure = f"--reference {images} --features classifier:{stages / 'classifier'} --few --device cpu"
        return {
            "sample": f"{drawing(there)} --out {out} --npz {out / 'all.npz'}",
            "tokenize": f"tokenize --images {images} --out {out} {tokens}",
            "train": f"train prior --codes {there / 'codes'} --out {out} {TRAIN} --steps 2",
            "compose": f"compose {parts} --out {out}",
            "convert": f"convert {there / 'files' / 'vit.pth'} --encoder-heads 2 --image-size 16 --out {out}",
            "fit": f"fit --images {images} --encoder {stages / 'encoder'} --clusters 4 --size 16 "
            f"--device cpu --out {out}",
            "evaluate": f"evaluate images --samples {images} {measure} --out {out / 'result.json'}",
        }

    def words(self, verb: str) -> list[str]:
        """The command line of a verb."""
        return self.lines[verb].split()

    def writing(self) -> tuple[str, Callable[[], Ended]] | None:
        """Something under a name that a verb writes, beside what it left before it was killed."""
        verb, kind = self.draw.choice(list(self.lines)), self.draw.choice(WRITTEN)
        shutil.copytree(self._kept(verb), self.out, symlinks=True)
        names = [str(path.relative_to(self.out)) for path in sorted(self.out.rglob("*"))]
        guessed = [
            ".lock",
            ".lock-process",
            "state/.lock",
            "prior/.lock",
            ".drawn",
            "parts",
            "parts/plan.json",
        ]
        guessed += ["parts/0000000000.npz", "state/step-0000003", ".tmp-1234abcd-config.json", "result.json"]
        name = self.draw.choice([*names, *guessed])
        if self.draw.random() < 0.5:  # it had not come far
            for path in list(self.out.iterdir()):
                if path.name not in (".digit.json", "state", Path(name).parts[0]):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not plant(kind, self.out / name, self.outside):
            return None
        return f"{kind} as {name} of {verb}", lambda: digit(*self.words(verb), canaries=self.canaries)

    def reading(self) -> tuple[str, Callable[[], Ended]] | None:
        """Something in the place of a file that a verb is given."""
        kind = self.draw.choice(READ)
        tokenize = f"--tokenizer {self.there / 'stages' / 'tokenizer'} --device cpu --out {{out}}"
        model = "sample {} --num 1 --device cpu --out {out}"
        artifact = ("config.json", "*/config.json", "*/model.safetensors")
        of, patterns, words = self.draw.choice(
            (
                ("model", artifact, "info {}"),
                ("model", artifact, model),
                ("codes", ("*",), "info {}"),
                ("codes", ("*",), f"train prior --codes {{}} --out {{out}} {TRAIN} --steps 1"),
                ("run", ("config.json", "log.jsonl", "status.json", "state/*2/*"), "info {}"),
                ("run", ("config.json", "log.jsonl", "status.json", "state/*2/*", ".digit.json"),
                 f"train prior --codes {self.there / 'codes'} --out {{}} {TRAIN} --steps 3"),
                ("samples", ("samples.json", ".digit.json"), "info {}"),
                ("samples", ("samples.json", "000001.png"),
                 f"tokenize --images {{}} {tokenize}"),
                ("results", ("images.json",), "evaluate compare {}/images.json {}/sweep.json"),
                ("results", ("images.json",), "info {}/images.json"),
                ("files", ("vit.pth",), "convert {}/vit.pth --encoder-heads 2 --out {out}"),
                ("files", ("pictures.npz",),
                 "evaluate images --samples {}/pictures.npz --reference {}/pictures.npz --few --device cpu "
                 f"--features classifier:{self.there / 'stages' / 'classifier'}"),
                ("zip", ("pictures.zip",), f"tokenize --images {{}}/pictures.zip {tokenize}"),
            )
        )  # fmt: skip
        shutil.copytree(self.there / of, self.given)
        places = sorted(path for pattern in patterns for path in self.given.glob(pattern))
        place = self.draw.choice(places)
        if not plant(kind, place, self.outside):
            return None
        line = words.replace("{out}", str(self.out)).replace("{}", str(self.given)).split()
        name = f"{kind} in the place of {of}/{place.relative_to(self.given)} for {line[0]}"
        return name, lambda: digit(*line, canaries=self.canaries)

    def pictures(self) -> tuple[str, Callable[[], Ended]] | None:
        """A member of a set of pictures that is no picture, as a folder, zip or tar."""
        draw = self.draw
        shutil.copytree(self.there / "photos", self.given / "photos")
        member = self.given / "photos" / draw.choice(("red/x.png", "blue/0000.png"))
        kind = draw.choice((*MEMBERS, *FORMATS, "link to a folder", "link to /proc"))
        source = self.given / "photos"
        if kind in FORMATS:
            member.write_bytes(FORMATS[kind])
            source = self._packed(draw.choice(("folder", "zip", "tar")))
        else:
            if kind in ("link to a folder", "link to /proc"):
                member = member.parent.parent / "other"
            if not plant(kind, member, self.outside):
                return None
        verb = draw.choice(("tokenize", "fit", "complete"))
        tokenizer = (
            f"tokenize --images {source} --tokenizer {self.there / 'stages' / 'tokenizer'} --device cpu"
        )
        line = {
            "tokenize": f"{tokenizer} --out {self.out}",
            "fit": self.lines["fit"].replace(str(self.there / "pictures.zip"), str(source)),
            "complete": f"sample {self.there / 'model'} --prefix-from {source} --prefix 8 --num 1 "
            f"--device cpu --out {self.out}",
        }[verb]
        name = f"{kind} as {member.relative_to(self.given)} of a {source.suffix or 'folder'} for {verb}"

        def told() -> Ended:
            ended = digit(*line.split(), canaries=self.canaries)
            if ended.code == 0 and member.name not in ended.said:
                return Ended(1, "the member is not named", ended.said)
            return ended

        return name, told

    def _packed(self, how: str) -> Path:
        source = self.given / "photos"
        members = sorted(path for path in source.rglob("*") if path.is_file())
        if how == "zip":
            with zipfile.ZipFile(self.given / "photos.zip", "w") as archive:
                for path in members:
                    archive.write(path, path.relative_to(source))
            return self.given / "photos.zip"
        if how == "tar":
            with tarfile.open(self.given / "photos.tar", "w") as archive:
                for path in members:
                    archive.add(path, path.relative_to(source))
            return self.given / "photos.tar"
        return source

    def unfinished(self) -> tuple[str, Callable[[], Ended]] | None:
        """A drawing that somebody else began, whose list names a picture of another format as whole."""
        shutil.copytree(self.there / "drawn", self.out)
        kind = self.draw.choice(list(FORMATS))
        path = sorted((self.out / ".drawn").glob("*.json"))[0]
        value = read_json(path)
        name = sorted(value["files"])[0]
        (self.out / name).write_bytes(FORMATS[kind])
        value["files"][name] = sha256_file(self.out / name)
        write_json_atomic(path, value, checksum=True)
        line = f"{drawing(self.there)} --out {self.out}"
        return f"{kind} as a picture that is drawn", lambda: digit(*line.split(), canaries=self.canaries)

    def unreadable(self) -> tuple[str, Callable[[], Ended]] | None:
        """A class folder or a picture that this user may not read."""
        if os.geteuid() != 0:
            return None
        shutil.copytree(self.there / "photos", self.given)
        self.out.mkdir()
        os.chown(self.out, NOBODY, NOBODY)
        place = self.given / self.draw.choice(("blue", "red/0002.png"))
        place.chmod(0)
        verb = self.draw.choice(("tokenize", "fit"))
        line = self.lines[verb].replace(str(self.there / "pictures.zip"), str(self.given))

        def told() -> Ended:
            ended = digit(*line.split(), canaries=self.canaries, uid=NOBODY)
            if ended.code == 0 and place.name not in ended.said:
                return Ended(1, "what cannot be read is not named", ended.said)
            return ended

        return f"unreadable {place.name} for {verb}", told


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` plantings, each kind by lot."""
    suite = Suite(folder, seed)
    kinds = {
        suite.writing: 10,
        suite.reading: 8,
        suite.pictures: 8,
        suite.unfinished: 2,
        suite.unreadable: 2,
    }
    return by_lot(cases, suite, kinds)
