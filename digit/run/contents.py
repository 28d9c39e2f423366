"""What a folder or file of digit's holds: a record for machines, and tables of it for people."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from digit.data.codes import Codes
from digit.data.samples import rows_in
from digit.errors import DigitError
from digit.files import read_json
from digit.opening import name_of, open_regular
from digit.run.best import BEST, LOSS, best_of
from digit.run.table import Cell
from digit.training.checkpoint import paths
from digit.training.log import read, read_status
from digit.weights.artifact import describe
from digit.weights.model_folder import locate, read_config

UNKNOWN = "unknown: the model is older than this entry"
NAMES = 12  # class names that are written out at most
SAMPLERS = {
    "prior": "prior, with classes",
    "prior_unconditional": "prior, without",
    "renderer": "renderer, autoregressive",
    "masked": "renderer, masked",
}
_LOSS = re.compile("loss|held_out|psnr")  # in the names of a log's values that tell how good it is
_HASH = re.compile("[0-9a-f]{64}")
Row = Mapping[str, Sequence[Cell]]


class Table(NamedTuple):
    """Rows by name under columns."""

    title: str
    rows: Row
    columns: Sequence[str] = ("value",)


class Contents(NamedTuple):
    """What was found."""

    record: dict[str, Any]
    tables: list[Table]


def contents(path: str | None) -> Contents:
    """The contents of a folder, a JSON file or a model by its name; of the bundled model if None.

    Raises:
        DigitError: nothing that digit wrote, or damaged.
    """
    if path is not None and Path(path).is_file():
        return _file(Path(path))
    folder = locate(path)
    if (folder / "meta.json").exists() or (folder / "parts").is_dir():
        return _codes(folder)
    if not (folder / "config.json").exists() and (folder / "samples.json").exists():
        return _samples(folder)
    training = _training(folder)
    if not (folder / "config.json").exists() and training:
        return Contents({"kind": "run", "training": training}, [_of_training(folder, training)])
    if not (folder / "config.json").exists():
        raise DigitError(
            f"{folder} is nothing that digit wrote (no config.json, no meta.json): give such a folder"
        )
    if _object(folder / "config.json").get("kind") == "pipeline":
        return _model(folder)
    record = _artifact(folder) | ({"training": training} if training else {})
    tables = [*_of_artifact(folder, record), *([_of_training(folder, training)] if training else [])]
    return Contents(record, tables)


def _file(path: Path) -> Contents:
    """A result, or any JSON."""
    record = _object(path)
    values = record.get("values")
    if record.get("kind") != "result" or not isinstance(values, dict):
        rows = {name: [_short(value)] for name, value in _flat(record)}
        return Contents(record, [Table(str(path), rows)])
    told = {name: record.get(name) for name in ("counts", "seed", "features", "settings", "made_by")}
    about = {name: [_short(value)] for name, value in _flat(told)}
    title = f"{record.get('measurement')} in {path}"
    return Contents(record, [Table("how it was measured", about), Table(title, _column(values))])


def _codes(folder: Path) -> Contents:
    """A tokenised data set."""
    codes = Codes(folder)
    meta = codes.meta
    names = ("images", "views", "size", "streams", "classes", "source")
    record = {"kind": "codes", **{name: meta.get(name) for name in names}}
    rows = {
        name.replace("vq_codes", "VQ codes"): [
            int(codes.length(name)),
            part["vocabulary"],
            part["artifact"][:12],
        ]
        for name, part in meta["streams"].items()
    }
    source = meta.get("source") or {}
    about: dict[str, Any] = {
        "pictures": meta["images"],
        "views of each": meta.get("views"),
        "side, px": meta.get("size"),
        "left out, broken": len(meta.get("skipped") or ()),
        "made from": source.get("name"),
        "classes": _classes(meta["classes"]),
    }
    columns = ("codes per picture", "different codes", "made by")
    return Contents(record, [Table(f"codes in {folder}", _column(about)), Table("arrays", rows, columns)])


def _samples(folder: Path) -> Contents:
    """Pictures that `digit sample` drew."""
    record = {"kind": "samples", **_object(folder / "samples.json")}
    rows = rows_in(record)
    if rows is None:
        raise DigitError(f"{folder / 'samples.json'} lists no pictures of `digit sample`: draw them again")
    seeds = [row["seed"] for row in rows if row.get("seed") is not None]
    classes = Counter(str(row.get("class", row.get("label"))) for row in rows)
    about = {
        "model": record.get("model"),
        "pictures": len(rows),
        "seeds": f"{min(seeds)} to {max(seeds)}" if seeds else None,
        "classes": _classes([f"{name} ({count})" for name, count in classes.items()]),
        **({"completions of": len(record["strips"])} if isinstance(record.get("strips"), list) else {}),
    }
    told = record.get("settings")
    settings = {name: _short(value) for name, value in _flat(told if isinstance(told, dict) else {})}
    return Contents(
        record, [Table(f"samples in {folder}", _column(about)), Table("drawn with", _column(settings))]
    )


def _model(folder: Path) -> Contents:
    """A whole model."""
    config = read_config(folder)
    parts = {name: _artifact(folder / name) for name in config["parts"]}
    sampling = config["sampling"]
    record = {"kind": "pipeline", "classes": config["classes"], "sampling": sampling, "parts": parts}
    rows = {
        name: [part["values"], part["megabytes"], part["stored_as"], part["id"][:12]]
        for name, part in parts.items()
    }
    names = list(dict.fromkeys(name for how in sampling.values() if isinstance(how, dict) for name in how))
    drawn = {
        words: [_short(sampling[name].get(each)) for each in names]
        for name, words in SAMPLERS.items()
        if isinstance(sampling.get(name), dict)
    }
    others = {
        name.replace("_", " renderer's ", 1): value
        for name, value in sampling.items()
        if not isinstance(value, dict)
    }
    drawn_by = sampling.get("draw") or UNKNOWN
    return Contents(
        record,
        [
            Table(f"model in {folder}", rows, ("weights", "MB", "stored as", "id")),
            Table("how it draws if nothing else is said", drawn, [name.replace("_", "-") for name in names]),
            Table("besides", _column({"classes": _classes(config["classes"]), **others, "draw": drawn_by})),
        ],
    )


def _artifact(folder: Path) -> dict[str, Any]:
    """The record of one artifact."""
    config = describe(folder)
    weights = folder / "model.safetensors"
    try:
        with open_regular(weights) as opened, safe_open(name_of(opened), "numpy") as file:
            names = [name for name in file.keys() if not name.endswith(".scale")]  # noqa: SIM118
            values = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise DigitError(f"{weights} is no whole safetensors file ({error}): copy the folder again") from None
    kept = ("kind", "id", "config", "lineage", "stored_as", "classes", "made_by", "extra")
    size = weights.stat().st_size / 1e6
    return {**{key: config[key] for key in kept if config.get(key)}, "values": values, "megabytes": size}


def _of_artifact(folder: Path, record: dict[str, Any]) -> Iterator[Table]:
    """An artifact in tables: what it is, and its settings."""
    made_by = record.get("made_by") or {}
    version = made_by.get("digit")
    about = {
        "id": record["id"][:12],
        "weights": record["values"],
        "MB": record["megabytes"],
        "stored as": record["stored_as"],
        **{f"made with the {kind}": id[:12] for kind, id in record.get("lineage", {}).items()},
        "made by digit": "a version that was not installed" if version == "not installed" else version,
        "with torch": made_by.get("torch"),
        "classes": _classes(record.get("classes", [])),
        **{name: _short(value) for name, value in _flat(record.get("extra") or {})},
    }
    yield Table(f"{record['kind']} in {folder}", _column(about))
    yield Table("settings", {name: [_short(value)] for name, value in _flat(record.get("config", {}))})


def _training(folder: Path) -> dict[str, Any]:
    """What a training's folder knows of it; empty if there was none."""
    status = read_status(folder)
    rows = _last_rows(folder / "log.jsonl")
    if status is None and not rows:
        return {}
    known: dict[str, Any] = {} if status is None else asdict(status)
    states = paths(folder / "state")
    settings = _object(states[-1] / "state.json").get("config") if states else None
    settings = settings if isinstance(settings, dict) else {}
    best = best_of(folder)
    return {**known, "last": rows, "settings": settings, **({} if best is None else {BEST: best})}


def _last_rows(log: Path) -> dict[str, Any]:
    """The newest value of each name in a training's log."""
    found: dict[str, Any] = {}
    for record in read(log)[-1000:]:
        found |= record
    return found


def _of_training(folder: Path, training: dict[str, Any]) -> Table:
    """A training in a table."""
    last, settings, best = training["last"], training["settings"], training.get(BEST)
    optimizer = settings.get("optimizer")
    optimizer = optimizer if isinstance(optimizer, dict) else {}
    done, steps = training.get("step", last.get("step")), training.get("steps", settings.get("steps"))
    about = {
        "updates": done if steps is None else f"{done:,} of {steps:,}",
        "state": training.get("reason"),
        "time, s": training.get("seconds", last.get("seconds")),
        **{name.replace("_", " "): value for name, value in last.items() if _LOSS.search(name)},
        "lowest held-out loss": best and f"{best[LOSS]:.4f} at update {best['step']:,}, in {BEST}/",
        "learning rate now": last.get("lr"),
        "learning rate, peak": optimizer.get("lr"),
        "warm-up, updates": optimizer.get("warmup"),
        "batch, all processes": settings.get("batch"),
        "precision": settings.get("precision"),
        "seed": settings.get("seed"),
        "samples per second": last.get("samples_per_second"),
    }
    return Table(f"training in {folder}", _column({k: v for k, v in about.items() if v is not None}))


def _column(values: Mapping[str, Any]) -> dict[str, list[Cell]]:
    """A table of one column."""
    return {name: [_short(value)] for name, value in values.items()}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `outer.inner`."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _short(value: Any) -> Cell:
    """A value as a cell of a table: hashes by their beginning, long ones by their length."""
    if value is None or (isinstance(value, str | float | int) and not isinstance(value, bool)):
        return value if not isinstance(value, str) or len(value) <= 100 else f"{value[:97]}..."
    if isinstance(value, list | dict):
        text = ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
        return text if len(text) <= 60 else f"{len(value)} entries"
    return str(value)


def _classes(names: Sequence[str]) -> str:
    """The classes' names, or how many there are."""
    if not names:
        return "no classes"
    count = f"{len(names)} class{'es' * (len(names) != 1)}"
    return count if len(names) > NAMES else f"{count}: {', '.join(names)}"


def _object(path: Path) -> dict[str, Any]:
    """A JSON file's content."""
    value = read_json(path)
    return value if isinstance(value, dict) else {"content": value}
