"""`digit info`: what a folder is, what it was made from, and how large it is."""

import json
from pathlib import Path
from typing import Annotated, Any

import tyro
from safetensors import safe_open

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.pipeline import locate


def info(path: Annotated[str | None, tyro.conf.Positional] = None) -> dict[str, Any]:
    """Describe an artifact, a model, a tokenised data set, a training run or a result file.

    Args:
        path: a folder or a JSON result; the bundled model if left out.
    """
    if path is not None and Path(path).is_file():
        return _json(Path(path))
    folder = locate(path)
    if (folder / "meta.json").exists() or (folder / "parts").is_dir():
        codes = Codes(folder)
        meta = codes.meta
        return {
            "kind": "codes",
            **{key: meta[key] for key in ("images", "views", "size", "streams", "classes", "source")},
        }
    if not (folder / "config.json").exists():
        raise DigitError(
            f"{folder} is nothing that digit wrote (no config.json, no meta.json): give such a folder"
        )
    config = _json(folder / "config.json")
    if config.get("kind") == "pipeline":
        parts = {name: _artifact(folder / name) for name in config["parts"]}
        return {
            "kind": "pipeline",
            "classes": config["classes"],
            "sampling": config["sampling"],
            "parts": parts,
        }
    return _artifact(folder)


def _artifact(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    weights = folder / "model.safetensors"
    parameters = 0
    with safe_open(weights, "numpy") as file:
        for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            if not name.endswith(".scale"):
                parameters += _product(file.get_slice(name).get_shape())
    kept = ("kind", "id", "config", "lineage", "stored_as", "classes", "made_by", "extra")
    size = weights.stat().st_size / 1e6
    return {**{key: config[key] for key in kept if config.get(key)}, "values": parameters, "megabytes": size}


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise DigitError(f"{path} is missing: restore it") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise DigitError(f"{path} is no JSON: give a folder that digit wrote or one of its results") from None
    return value if isinstance(value, dict) else {"content": value}
