"""`digit info`: what a folder is, what it was made from, and how large it is."""

from pathlib import Path
from typing import Annotated, Any

import tyro
from safetensors import SafetensorError, safe_open

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.files import read_json
from digit.weights.artifact import describe
from digit.weights.model_folder import locate, read_config


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
            **{key: meta.get(key) for key in ("images", "views", "size", "streams", "classes", "source")},
        }
    if not (folder / "config.json").exists():
        raise DigitError(
            f"{folder} is nothing that digit wrote (no config.json, no meta.json): give such a folder"
        )
    if _json(folder / "config.json").get("kind") == "pipeline":
        config = read_config(folder)
        parts = {name: _artifact(folder / name) for name in config["parts"]}
        return {
            "kind": "pipeline",
            "classes": config["classes"],
            "sampling": config["sampling"],
            "parts": parts,
        }
    return _artifact(folder)


def _artifact(folder: Path) -> dict[str, Any]:
    config = describe(folder)
    weights = folder / "model.safetensors"
    parameters = 0
    try:
        with safe_open(weights, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                if not name.endswith(".scale"):
                    parameters += _product(file.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise DigitError(f"{weights} is no whole safetensors file ({error}): copy the folder again") from None
    kept = ("kind", "id", "config", "lineage", "stored_as", "classes", "made_by", "extra")
    size = weights.stat().st_size / 1e6
    return {**{key: config[key] for key in kept if config.get(key)}, "values": parameters, "megabytes": size}


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {"content": value}
