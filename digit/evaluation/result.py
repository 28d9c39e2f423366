"""What every measurement writes: one form of JSON, so that results can be read, kept and set side by side."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from digit.errors import DigitError
from digit.files import read_json, write_json_atomic

FORMAT = 1


def result(
    measurement: str,
    values: Iterable[tuple[str, float]],
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
    doubled = {name for name, _ in named if sum(name == other for other, _ in named) > 1}
    assert not doubled, f"two values are called {sorted(doubled)}"
    return {
        "kind": "result",
        "format": FORMAT,
        "measurement": measurement,
        "protocol": protocol,
        "counts": dict(counts),
        "features": [dict(row) for row in features],
        "seed": seed,
        "settings": dict(settings or {}),
        "made_by": {
            "digit": importlib.metadata.version("digit-image"),
            "torch": torch.__version__,
            "device": device,
        },
        "values": {name: float(value) for name, value in named},
    }


def write_result(path: Path, value: Mapping[str, Any]) -> None:
    """Write a result as JSON, whole or not at all; not-a-number values are written as null."""
    values = {name: number if number == number else None for name, number in value["values"].items()}
    write_json_atomic(path, {**value, "values": values})


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
        raise DigitError(f"{path} was written by another version of digit (format {value.get('format')})")
    return value
