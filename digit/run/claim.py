"""Whose a folder is: --out is empty, or was filled by the very command that is now repeated.

A command leaves `.digit.json` in its folder: which verb it is, all that decides the result (the identity of
the data, not its name), and in the end what it gave. What differs is refused in a sentence that names it, or
told, where a result may go on with other settings.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digit.distributed import is_main, on_main
from digit.entries import Text, entries, parsed
from digit.errors import DigitError, LineageError
from digit.files import (
    check_writable,
    clean_up,
    make_folder,
    read_json,
    refuse_link,
    sha256_file,
    write_json_atomic,
)
from digit.locks import locked
from digit.opening import read_file
from digit.progress import say
from digit.weights.artifact import CONFIG, KINDS, verify

MARK = ".digit.json"
RESULTS = "results of `digit evaluate`"
_TYPES: dict[str, Any] = {  # of what a mark holds
    "verb": Text,
    "made_of": dict[str, Any],
    "finished": bool,
    "files": dict[str, int | None] | list[str] | None,
    "record": dict[str, Any] | None,
}
IDLE = ("lost+found", "Thumbs.db", "desktop.ini")  # of file systems and of those who show them
TRAINED = {
    "train vqgan": ("vqgan",),
    "train prior": ("prior",),
    "train renderer": ("renderer", "renderer_masked", "renderer_flow"),
    "train probe": ("probe",),
}


@dataclass(frozen=True)
class Claim:
    """A folder that may be filled by `verb`."""

    out: Path
    verb: str
    made_of: dict[str, Any]
    told: list[str]  # what differs from the command that began it, and may
    record: dict[str, Any] | None  # what the command gave, if it has finished and all of it is there
    seen: str = ""  # what `_seen` said of the folder

    @contextlib.contextmanager
    def begun(self, *files: Path) -> Iterator[None]:
        """Make the folder and mark it as this command's; the mark goes where the block leaves nothing.

        What a killed command left half written goes. `files` elsewhere are its own too. DigitError where the
        folder holds a link to another one.
        """
        if is_main() and self.record is None:
            make_folder(self.out)
            _refuse_links(self.out)
            clean_up(self.out)
            # The same command in another process may sweep up the temporary: it has the lock, and marked.
            with contextlib.suppress(FileNotFoundError):
                self._write(
                    {"finished": False, "files": dict.fromkeys(str(file.absolute()) for file in files)}
                )
        try:
            yield
        finally:
            if is_main() and contents(self.out) is None:
                (self.out / MARK).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the folder for this command, which begins and finishes inside.

        DigitError while another command writes there, or where one has since the claim. A folder that is made
        for it goes again if nothing comes.
        """
        there = self.out.exists()
        make_folder(self.out)
        try:
            with locked(
                self.out, f"another command is writing into {self.out}: wait, or choose another --out"
            ):
                if _seen(self.out) != self.seen:
                    raise DigitError(
                        f"another command has written into {self.out} meanwhile: repeat this one"
                    )
                yield
        finally:
            if not there:
                with contextlib.suppress(OSError):  # it holds something
                    self.out.rmdir()

    def finish(self, record: Mapping[str, Any], files: Sequence[str | Path]) -> None:
        """Note what the command gave and the files that it left, by their names in the folder, with sizes."""
        if is_main():
            given = json.loads(json.dumps(record, default=_plain))
            paths = {str(file): self.out / file for file in files}
            left = {name: path.stat().st_size if path.is_file() else None for name, path in paths.items()}
            self._write({"finished": True, "files": left, "record": given})

    def _write(self, rest: Mapping[str, Any]) -> None:
        mark = {"verb": self.verb, "made_of": self.made_of, **rest}
        write_json_atomic(self.out / MARK, mark, checksum=True)


def claim(
    out: str | Path,
    verb: str,
    made_of: Mapping[str, Any],
    *,
    may_change: Collection[str] = (),
    files: Sequence[Path] = (),
) -> Claim:
    """See that `out` is empty or this command's own, before any work; nothing is written.

    Args:
        out: the folder.
        verb: as it is typed.
        made_of: all that decides the result, by the names of options; values are what JSON can hold.
        may_change: names in it, or of what they hold, which are told and not refused where they differ.
        files: elsewhere, which the command writes too.

    Raises:
        DigitError: it holds something else, or a file of `files` is there and not this command's.
        LineageError: it was begun with other data or settings.
    """
    made = json.loads(json.dumps(made_of, default=_plain))
    found = on_main(lambda: _look(Path(out), verb, made, may_change, [file.absolute() for file in files]))
    return Claim(Path(out), verb, made, **found)


def nothing_left(out: str | Path) -> None:
    """Say that a repeated command has nothing to do."""
    say(f"nothing is left to do: this very command has filled {out}")


def identity_of(path: str | Path | None) -> str | None:
    """The id of an artifact or model by its folder, or the sha256 of a file; None where there is neither."""
    if path is None or not Path(path).exists():
        return None
    if Path(path).is_file():
        return sha256_file(path)
    config = Path(path) / "config.json"
    return sha256_file(config) if config.is_file() else None


def contents(folder: Path) -> str | None:
    """What a folder holds, for a sentence; None if it is absent or empty."""
    if not folder.is_dir():
        return None
    names = sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name not in IDLE
    )
    if not names:
        return None
    kind = _kind(folder / "config.json")
    if kind is not None:
        return "a model" if kind == "pipeline" else f"a {kind.replace('_', ' ')}"
    if "meta.json" in names or "parts" in names:
        return "codes"
    if "samples.json" in names or (folder / ".drawn").is_dir():
        return "pictures of `digit sample`"
    if "state" in names:
        return "a training"
    if any(_kind(path) == "result" for path in folder.glob("*.json")):
        return RESULTS
    return f"other files, such as {names[0]}"


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, what it was, what it is) of all that both name and that differs, with dots for what is inside.

    What one of them does not name is no difference: a newer version may know more.
    """
    old = dict(_flat(before))
    for name, value in _flat(now):
        if name in old and old[name] != value:
            yield name, _short(old[name]), _short(value)


def _look(
    out: Path, verb: str, made_of: dict[str, Any], may_change: Collection[str], files: Sequence[Path]
) -> dict[str, Any]:
    """What a claim says of the folder as it is."""
    if out.is_file():
        raise DigitError(f"{out} is a file: choose another --out")
    check_writable(out)
    there, mark = contents(out), {}
    told: list[str] = []
    if there is not None and not (out / MARK).is_file():
        if not _older(out, verb):
            raise DigitError(f"{out} already holds {there}: choose another --out")
        told = [f"{out} is older than the record of what began it, so that this is not compared"]
    elif there is not None:
        mark = entries(read_json(out / MARK), _TYPES, where=out / MARK, remedy="choose another --out")
        if mark["verb"] != verb:
            raise DigitError(f"{out} already holds what `digit {mark['verb']}` wrote: choose another --out")
        refused = []
        for name, old, new in differences(mark["made_of"], made_of):
            if name in may_change or name.partition(".")[0] in may_change:
                told.append(f"{name} is {new} from here, it was {old}")
            else:
                refused.append(f"{name} {new} in place of {old}")
        if refused:
            raise LineageError(
                f"{out} already holds what `digit {verb}` made of something else ({', '.join(refused[:3])}): "
                "choose another --out, or give what it was begun with"
            )
    own = mark.get("files") or {}
    own = own if isinstance(own, dict) else dict.fromkeys(own)  # as it was noted before sizes were
    for file in files:
        if file.exists() and str(file) not in own:
            raise DigitError(f"{file} is there already: choose another name or delete it")
    whole = mark.get("finished") and {str(file) for file in files} <= set(own)
    if whole and (damage := _damage(out, own)) is not None:
        say(f"{damage}: `digit {verb}` is not taken for finished")
        whole = False
    return {"told": told, "record": mark.get("record") if whole else None, "seen": _seen(out)}


def _refuse_links(out: Path) -> None:
    """DigitError for folders in `out` that lie elsewhere."""
    with os.scandir(out) as entries:
        for entry in entries:
            refuse_link(entry.path)


def _seen(out: Path) -> str:
    """A digest of what a folder holds and who says to have filled it."""
    mark = out / MARK
    return hashlib.sha256(repr((contents(out), mark.is_file() and read_file(mark))).encode()).hexdigest()


def _damage(out: Path, own: Mapping[str, int | None]) -> str | None:
    """Which file of a finished command is not as it was left, by the checksum that was written with it, or
    else by its size; JSON without its checksum is somebody's own change."""
    try:
        for path, size in ((out / name, size) for name, size in own.items()):
            if not path.exists():
                return f"{path} is gone"
            if path.suffix == ".json":
                read_json(path)
            elif size is not None and path.stat().st_size != size:
                return f"{path} has {path.stat().st_size:,} bytes in place of {size:,}"
        for folder in (out, *(out / name for name in own if (out / name).is_dir())):
            if _kind(folder / CONFIG) in KINDS:
                verify(folder)
    except DigitError as error:
        return str(error).partition(": ")[0]
    return None


def _older(out: Path, verb: str) -> bool:
    """Whether a version that left no mark may have filled the folder by this verb, which can go on."""
    if verb == "tokenize":
        return contents(out) == "codes"
    kind = _kind(out / "config.json")
    return verb in TRAINED and (out / "state").is_dir() and kind in (None, *TRAINED[verb])


def _kind(path: Path) -> str | None:
    """The kind that a JSON file of digit's says it is."""
    try:
        value = parsed(read_file(path))
    except (OSError, ValueError):
        return None
    kind = value.get("kind") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _short(value: Any) -> str:
    """A value in a sentence: what is long by its hash."""
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 60 else hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item()  # a numpy or torch scalar
