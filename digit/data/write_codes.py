"""pictures -> codes on disk: parts of pictures by all processes, then one tokenised data set of them.

Unfinished work lies in `parts/`, a file with its own checksum for each block of pictures. The same call takes
it up, in as many processes as there are then; what comes out does not depend on their number.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.arrays import READERS_RAISE
from digit.calls import checked
from digit.data.codes import FORMAT, Codes
from digit.data.identity import of_images
from digit.data.images import ImageSource
from digit.data.loader import Report, in_blocks, stream
from digit.distributed import by_main, from_main, gather, on_main, rank, wait, world_size
from digit.entries import Text, entries
from digit.errors import DigitError, LineageError
from digit.files import (
    atomic_file,
    check_writable,
    clean_up,
    make_inner,
    read_bytes,
    read_json,
    remove,
    write_bytes_atomic,
    write_json_atomic,
)
from digit.locks import locked
from digit.opening import sha256_of
from digit.printing import readable
from digit.progress import say

PART = 512  # images in one resumable part
GIB = 2**30


@dataclass(frozen=True)
class CodeKind:
    """One kind of code to be written: where codes come from and what they are."""

    encode: Callable[[UInt8[Tensor, "b 3 h w"]], Int[Tensor, "b n"]]  # pixels from 0 to 255 -> codes
    vocabulary: int  # number of different codes, at most 65,536
    artifact: str  # id of the tokenizer or VQGAN, kept as lineage


@checked
def write_codes(
    source: ImageSource,
    out: Path,
    kinds: dict[str, CodeKind],
    *,
    size: int,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Codes, Report]:
    """Tokenise every picture of `source` into `out`; a repeated call goes on where the last one stopped.

    Of several processes each makes its parts, and the main one joins them.

    Args:
        source: the pictures; broken ones are left out and reported, or stop the run under `strict`.
        out: the directory to write.
        kinds: of codes, by the name of their array: "codes" and/or "vq_codes".
        size: side in pixels of the square pictures that are encoded.
        views: 1 = centre crop, 2 = and its mirror, more = random crops (`digit.data.transforms.render`).
        seed: of the random crops.
        batch_size: pictures encoded at once (times `views`).
        device: where the modules behind `kinds` are.
        threads: that decode pictures; where left out one per processor, or processes if there are many.
        strict: stop at the first broken picture.
        progress: called with the number of pictures done since, by all processes together.

    Returns:
        The opened set and the report of the pictures left out.

    Raises:
        DigitError: `out` holds codes of other pictures, another tokenizer or other settings, another command
            writes there, or there is no readable picture.
    """
    plan = _plan(source, kinds, size=size, views=views, seed=seed)
    device = torch.device(device)
    out.mkdir(parents=True, exist_ok=True)
    if from_main((out / "meta.json").exists()):
        return _opened(out, plan)
    with by_main(_begun(out, plan, device.type)):
        if from_main((out / "meta.json").exists()):  # another command has written it since
            return _opened(out, plan)
        blocks = in_blocks(len(source), PART)
        found = gather(
            [block.start for block in blocks[rank() :: world_size()] if not _is_whole(out, block, plan)]
        )
        absent = [blocks[start // PART] for start in sorted(start for share in found for start in share)]
        mine = absent[rank() :: world_size()]
        reading = {"batch_size": batch_size, "threads": threads, "strict": strict}
        done, there = 0, len(source) - sum(map(len, absent))
        for count, _ in enumerate(
            _write_parts(source, out, kinds, mine, plan=plan, device=device, **reading)
        ):
            before, done = (
                done,
                min(there + PART * (count + 1) * world_size(), len(source)),
            )  # others do alike
            progress(done - before)
        wait()
        on_main(lambda: _assemble(source, out, plan, blocks))
    return _opened(out, plan)


def dry_run_of(source: ImageSource, out: Path, lengths: dict[str, int], *, views: int) -> dict[str, Any]:
    """What `write_codes` would write, in GiB, and what is there; `lengths` are codes per picture, by kind.

    Raises:
        DigitError: nothing can be written at `out`.
    """
    free = shutil.disk_usage(check_writable(out)).free / GIB
    sizes = {name: len(source) * views * length * 2 / GIB for name, length in lengths.items()}
    most = 2 * sum(sizes.values())  # while the parts are joined they are there twice
    state = "is finished: nothing would be done"
    if not (out / "meta.json").exists():
        done = len(list((out / "parts").glob("*.npz")))
        state = f"goes on after {done} parts" if done else "starts anew"
    return {
        "inputs": source.counts(),
        "state": state,
        "parts": -(-len(source) // PART),
        "processes": world_size(),
        "codes_gib": sizes,
        "disk": {"most_gib": most, "free_gib": free, "fits": most <= free},
    }


def _plan(
    source: ImageSource, kinds: dict[str, CodeKind], *, size: int, views: int, seed: int
) -> dict[str, Any]:
    """All that decides the codes; DigitError for codes that 16 bits cannot hold."""
    for name, kind in kinds.items():
        if kind.vocabulary > 65536:
            raise DigitError(
                f"{name} has {kind.vocabulary} different codes, more than 16 bits can hold: use fewer"
            )
    return {
        "format": FORMAT,
        "source": source.fingerprint,
        "content": of_images(source)["content"],
        "size": size,
        "views": views,
        "seed": seed,
        "part": PART,
        "streams": {
            name: {"vocabulary": kind.vocabulary, "artifact": kind.artifact} for name, kind in kinds.items()
        },
    }


@contextlib.contextmanager
def _begun(out: Path, plan: dict[str, Any], device: str) -> Iterator[None]:
    """Hold `out` for this command, with its parts cleaned up and of this plan."""
    with locked(out, f"another process is tokenizing into {out}: wait for it, or choose another --out"):
        if not (out / "meta.json").exists():
            parts = out / "parts"
            make_inner(parts)
            clean_up(parts)
            if (parts / "plan.json").exists():
                types = {"device": Text | None, "streams": dict[str, Any]}
                path = parts / "plan.json"
                there = entries(read_json(path), types, where=path, remedy=f"delete {out} to start again")
                _check_plan(there, plan, out)
                if (there.get("device") or device) != device:
                    say(f"codes are made on {device} from here, they were on {there['device']}: a few differ")
            write_json_atomic(parts / "plan.json", {**plan, "device": device}, checksum=True)
        yield


def _check_plan(there: dict[str, Any], here: dict[str, Any], out: Path) -> None:
    """LineageError where codes in `out` were made otherwise."""
    for key, value in here.items():
        if key in there and there[key] != value:  # an older set does not know the pictures' content
            was, now = (
                text if len(text) <= 60 else hashlib.sha256(text.encode()).hexdigest()[:12]
                for text in (json.dumps(there.get(key)), json.dumps(value))
            )
            what = {"streams": "tokenizer or VQGAN", "content": "content of the pictures"}.get(key, key)
            raise LineageError(
                f"{out} holds codes made with another {what} ({was}, not {now}): choose a new --out, or "
                "delete the folder to start again"
            )


def _part(out: Path, block: range) -> Path:
    return out / "parts" / f"{block.start:010d}.npz"


def _is_whole(out: Path, block: range, plan: dict[str, Any]) -> bool:
    """Whether the part of a block is there and can be one of this plan; another one is made again."""
    try:
        _read_part(out, block, plan)
    except DigitError:
        return False
    return True


def _read_part(out: Path, block: range, plan: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a block's part, and `skipped` as (name, reason); DigitError if it is absent or damaged.

    Also one that is whole may be somebody's who means harm: its pictures are those of the block, its codes
    have the plan's views and lie within their vocabulary.
    """
    path = _part(out, block)
    try:
        with np.load(BytesIO(read_bytes(path)), allow_pickle=False) as file:
            part: dict[str, Any] = dict(file)
        index, part["skipped"] = part["index"], dict(json.loads(str(part["skipped"])))
        fits = index.dtype == np.int64 and index.ndim == 1 and bool(np.all(np.diff(index) > 0))
        fits = fits and set(index[[0, -1]] if len(index) else ()) <= set(block)
        fits = fits and all(isinstance(text, str) for row in part["skipped"].items() for text in row)
        for name, kind in plan["streams"].items():
            codes = part[name]
            fits = fits and codes.dtype == np.uint16 and codes.shape[:-1] == (len(index), plan["views"])
            fits = fits and (not codes.size or int(codes.max()) < kind["vocabulary"])
    except (*READERS_RAISE, MemoryError) as error:
        raise DigitError(f"{path} is no part of codes ({readable(error, 100)}): delete it") from None
    if not fits:
        raise DigitError(f"{path} holds other codes than its name says: delete it")
    return part


def _write_parts(
    source: ImageSource,
    out: Path,
    kinds: dict[str, CodeKind],
    blocks: Sequence[range],
    *,
    plan: dict[str, Any],
    device: torch.device | str,
    batch_size: int,
    **reading: Any,
) -> Iterator[range]:
    """Write the part of each block and yield it, while the next block's pictures are decoded already.

    A part has the arrays index (m,) of the readable pictures, for each kind uint16 (m, views, codes), and
    skipped: the broken pictures as JSON. `reading` are options of the loader's `stream`.
    """
    report, views = Report(), plan["views"]
    how = {"views": views, "seed": plan["seed"], "blocks": blocks, "report": report, "empty": True}
    batches = stream(source, plan["size"], batch_size=batch_size, **how, **reading)
    for block in blocks:
        before = len(report.skipped)
        rows = [np.zeros(0, np.int64)]
        codes: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
        for index, pixels in islice(batches, math.ceil(len(block) / batch_size)):
            if not len(index):
                continue
            rows.append(index)
            flat = pixels.to(device, non_blocking=True).flatten(0, 1)
            for name, kind in kinds.items():
                encoded = kind.encode(flat).cpu().numpy().astype(np.uint16)
                codes[name].append(encoded.reshape(len(index), views, -1))
        empty = np.zeros((0, views, 0), np.uint16)
        arrays = {name: np.concatenate(chunks) if chunks else empty for name, chunks in codes.items()}
        file, skipped = BytesIO(), np.array(json.dumps(report.skipped[before:]))
        # pyright takes one of the arrays for savez's own allow_pickle; none has that name
        np.savez(file, index=np.concatenate(rows), **arrays, skipped=skipped)  # pyright: ignore[reportArgumentType]
        write_bytes_atomic(_part(out, block), file.getvalue())
        yield block


def _opened(out: Path, plan: dict[str, Any]) -> tuple[Codes, Report]:
    """The finished set, compared with its checksums and `plan` by the main process, and its report."""

    def check() -> None:
        there = Codes(out).meta.get("plan") or {}
        _check_plan({**there, "part": plan["part"]}, plan, out)  # how large its parts were does not matter

    on_main(check)
    codes = Codes(out, verify=False)
    return codes, Report(dict(codes.meta.get("skipped") or ()))


def _assemble(source: ImageSource, out: Path, plan: dict[str, Any], blocks: Sequence[range]) -> None:
    """Join the parts into the final arrays, one part in memory at a time, and write meta.json last."""
    report, index, files = Report(), [], {}
    lengths: dict[str, int] = {}
    for block in blocks:
        part = _read_part(out, block, plan)
        index.append(part["index"])
        report.reasons.update(part["skipped"])
        if len(part["index"]):
            here = {name: part[name].shape[2] for name in plan["streams"]}
            if lengths not in ({}, here):
                raise DigitError(f"{out / 'parts'} holds codes of several lengths: delete it and repeat")
            lengths = here
    rows = np.concatenate(index)
    if not len(rows):
        raise DigitError(f"{source.path} holds no picture that can be read: {report.summary()}")
    for name in plan["streams"]:
        header = {"descr": "<u2", "fortran_order": False, "shape": (len(rows), plan["views"], lengths[name])}
        # Plain writes: through a memory map a full disk is no error but a signal that kills the process.
        with atomic_file(out / f"{name}.npy") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in (_read_part(out, block, plan) for block in blocks):
                if len(part["index"]):
                    file.write(part[name].astype("<u2", copy=False).tobytes())
            files[f"{name}.npy"] = sha256_of(file)
    if source.labels is not None:
        with atomic_file(out / "labels.npy") as file:
            np.save(file, source.labels[rows].astype(np.int32))
            files["labels.npy"] = sha256_of(file)
    meta = {
        "format": FORMAT,
        "plan": plan,
        "images": len(rows),
        **{key: plan[key] for key in ("views", "size", "streams")},
        "labelled": source.labels is not None,
        "classes": source.classes,
        "source": {
            "name": Path(source.path).name,
            "fingerprint": source.fingerprint,
            "pictures": len(source),
            "read_as": source.summary,
        },
        "skipped": report.skipped,
        "files": files,
    }
    write_json_atomic(out / "meta.json", meta, checksum=True)
    remove(out / "parts")
