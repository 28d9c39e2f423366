"""What every measurement writes: one form of JSON, so that results can be read, kept and set side by side."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from digit.calls import checked
from digit.entries import Text, entries
from digit.errors import DigitError
from digit.files import read_json, write_json_atomic
from digit.weights.artifact import version

FORMAT = 1
_TYPES: dict[str, Any] = {  # of what a result holds
    "measurement": Text,
    "protocol": str,
    "counts": dict[str, int],
    "features": list[dict[str, Any]],
    "settings": dict[str, Any],
    "values": dict[str, float | None],
}


@checked
def result(
    measurement: str,
    values: Iterable[tuple[str, float | int]],
    *,
    protocol: str,
    counts: Mapping[str, int],
    features: Iterable[Mapping[str, str]] = (),
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """A result as it is written.

    Args:
        measurement: which one, such as images, stability, probe.
        values: (name, number) as evaluators yield them; names say unit and conditions, "token change, 30 dB".
        protocol: in a sentence, how it was measured.
        counts: how many pictures of each set, such as {"samples": 50000}.
        features: name and sha256 of the networks that measured.
        seed: of whatever was drawn, if anything was.
        settings: what else decides the values.
        device: its name, where speed or precision depend on it.
    """
    named = list(values)
    assert len(dict(named)) == len(named), f"two values have one name among {[name for name, _ in named]}"
    return {
        "kind": "result",
        "format": FORMAT,
        "measurement": measurement,
        "protocol": protocol,
        "counts": dict(counts),
        "features": [dict(row) for row in features],
        "seed": seed,
        "settings": dict(settings or {}),
        "made_by": {"digit": version(), "torch": torch.__version__, "device": device},
        "values": {name: float(value) for name, value in named},
    }


@checked
def write_result(path: Path, value: Mapping[str, Any]) -> None:
    """Write a result as JSON, whole or not at all; values that are not finite are written as null."""
    values = {name: number if math.isfinite(number) else None for name, number in value["values"].items()}
    write_json_atomic(path, {**value, "values": values})


@checked
def read_result(path: Path) -> dict[str, Any]:
    """Read a result; DigitError if the file is none."""
    value = read_json(path)
    if (
        not isinstance(value, dict)
        or value.get("kind") != "result"
        or not isinstance(value.get("values"), dict)
    ):
        raise DigitError(
            f"{path} is no result of a measurement: give a JSON file that `digit evaluate` wrote"
        )
    if value.get("format") != FORMAT:
        raise DigitError(
            f"{path} was written by another version of digit (format {str(value.get('format'))[:40]})"
        )
    return entries(value, _TYPES, where=path, remedy="measure it again")


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], *, names: tuple[str, str] = ("a", "b")
) -> dict[str, dict[str, float | None]]:
    """By name: both results' values and b - a; None where one has no such value, or it is not a number.

    Counts, seeds and settings may differ: that is what one compares. Raises DigitError, naming the files by
    `names`, if the measurement, the protocol or the features are not the same, or no value is in both.
    """
    for part in ("measurement", "protocol", "features"):
        if a[part] != b[part]:
            here, there = _short(a[part]), _short(b[part])
            differ = f"{here} and {there}" if here != there else f"both {here}, but not in all details"
            raise DigitError(
                f"{names[0]} and {names[1]} cannot be compared, their {part} differ ({differ}): measure both "
                "alike"
            )
    if not set(a["values"]) & set(b["values"]):
        raise DigitError(f"{names[0]} and {names[1]} have no value in common: measure both alike")
    rows: dict[str, dict[str, float | None]] = {}
    for name in {**a["values"], **b["values"]}:
        here, there = a["values"].get(name), b["values"].get(name)
        difference = None if here is None or there is None else there - here
        rows[name] = {"a": here, "b": there, "difference": difference}
    return rows


def _short(value: Any) -> str:
    """What of a part a sentence has room for: the name of a protocol, names and hashes of features."""
    if isinstance(value, str):
        return repr(value.partition(": ")[0][:60])
    return ", ".join(f"{row.get('name')} {str(row.get('sha256'))[:8]}" for row in value) or "none"


def in_words(metrics: Iterable[str]) -> dict[str, str]:
    """Metrics by name, as people know them: "FD on dinov2-l" for "FD-dinov2-l-1f0c2a77".

    Where two networks would have one name, the start of the hash over their weights stays.
    """
    metrics = list(metrics)
    short = {name: re.sub(r"^([^-]+)-(.+)-[0-9a-f]{8}$", r"\1 on \2", name) for name in metrics}
    unclear = {word for word in short.values() if list(short.values()).count(word) > 1}
    return {name: name.replace("-", " on ", 1) if short[name] in unclear else short[name] for name in metrics}


def which_is_better(metric: str) -> Literal["lower", "higher"]:
    """Lower for distances (FD, FID, sFID, KID, ...), higher for scores and shares."""
    kind = metric.split("-")[0].split(" ")[0]
    return "lower" if kind in ("FD", "FID", "sFD", "sFID", "KD", "KID") else "higher"
