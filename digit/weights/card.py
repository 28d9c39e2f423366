"""What lies beside a model for people and for other programs: its card, and a pipeline for diffusers."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digit.entries import Text, entries
from digit.errors import DigitError
from digit.files import read_json, write_text_atomic
from digit.nn.backbone import DINOV3_LICENCE
from digit.opening import read_file
from digit.printing import readable

CARD, GRID, RESULTS = "README.md", "grid.png", "results"
PAPER, HOME = "arxiv:2410.12490", "https://arxiv.org/abs/2410.12490"
MOST = 2**20  # bytes of a card
CLASSES = 20  # names of classes that are written out at most
_OWN = re.compile(rb"\n<!-- written by digit, ([0-9a-f]{64}): changed by hand, it stays as it is -->\n$")
_RESULT: dict[str, Any] = {  # of a result's file
    "measurement": Text,
    "protocol": str,
    "counts": dict[str, int],
    "values": dict[str, float | None],
}
_WORDS = {"prior": "prior", "vqgan": "VQGAN", "tokenizer": "tokenizer", "renderer": "autoregressive renderer"}
_WORDS |= {"renderer_masked": "masked renderer", "renderer_flow": "flow renderer"}


def write_beside(folder: Path, config: Mapping[str, Any], artifacts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write README.md, model_index.json and pipeline.py; a card that somebody changed stays as it is."""
    for name, text in beside(folder, config, artifacts).items():
        write_text_atomic(folder / name, text)


def beside(
    folder: Path,
    config: Mapping[str, Any],
    artifacts: Mapping[str, Mapping[str, Any]],
    *,
    pictured: bool = False,
    name: str = "OWNER/NAME",
) -> dict[str, str]:
    """The files by their names, without a README.md where one was changed by hand; arguments as of `card`."""
    index = {"_class_name": ["pipeline", "DigitDiffusionPipeline"], "_diffusers_version": "0.30.0"}
    code = read_file(Path(__file__).with_name("diffusers_pipeline.py")).decode()
    files = {"model_index.json": json.dumps(index, indent=2) + "\n", "pipeline.py": code}
    if not _is_changed(folder / CARD):
        files[CARD] = card(folder, config, artifacts, pictured=pictured, name=name)
    return files


def _is_changed(path: Path) -> bool:
    """Whether there is a card that is not as digit wrote it."""
    try:
        text = read_file(path, links=False, most=MOST)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    found = _OWN.search(text)
    return not found or hashlib.sha256(text[: found.start()]).hexdigest() != found[1].decode()


def card(
    folder: Path,
    config: Mapping[str, Any],
    artifacts: Mapping[str, Mapping[str, Any]],
    *,
    pictured: bool = False,
    name: str = "OWNER/NAME",
) -> str:
    """The card of a model as Markdown under YAML, as the hub reads it.

    Args:
        folder: of the model, whose `results` may hold results of `digit evaluate`.
        config: its config.json, which may state the licence of what was trained for it and the datasets.
        artifacts: the config.json of each part.
        pictured: grid.png lies beside it.
        name: of the repository.

    Raises:
        DigitError: a result that is none.
    """
    parts = {name: _licence(artifact, config.get("licence")) for name, artifact in artifacts.items()}
    datasets = config.get("datasets") or []
    results = _results(folder / RESULTS)
    front = {**_front_licence([*parts.values()]), "library_name": "digit"}
    front |= {"pipeline_tag": "unconditional-image-generation", "tags": ["digit", PAPER]}
    bases = [base for each in artifacts.values() if (base := (each.get("extra") or {}).get("base_model"))]
    front |= {"datasets": list(datasets)} if datasets else {}
    front |= {"base_model": sorted({*map(str, bases)})} if bases else {}
    kinds = {name.split("-")[0].lower() for _, result in results for name in result["values"]}
    front |= {"metrics": sorted(kinds)} if kinds else {}
    text = "\n".join(
        (
            "---",
            *(f"{name}: {json.dumps(value)}" for name, value in front.items()),  # JSON is YAML
            "---",
            "",
            *_use(name, pictured=pictured),
            *_body(config, artifacts, parts, results, datasets),
        )
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}\n<!-- written by digit, {digest}: changed by hand, it stays as it is -->\n"


def _use(name: str, *, pictured: bool) -> list[str]:
    """How to draw with it, and what it draws."""
    said = json.dumps(name)
    lines = ["# A digit model", ""]
    lines += [
        f"Image generation on discriminative tokens ([DiGIT]({HOME})), for the package digit-image:",
        "",
    ]
    lines += ["```python", "import digit", "", f"pipeline = digit.DigitPipeline.from_pretrained({said})"]
    lines += ['pipeline(seeds=[0]).images[0].save("picture.png")', "```", ""]
    lines += ["Or by diffusers, which runs the `pipeline.py` of the repository:", "", "```python"]
    lines += ["from diffusers import DiffusionPipeline", ""]
    how = f"custom_pipeline={said}, trust_remote_code=True"
    lines += [f"pipeline = DiffusionPipeline.from_pretrained({said}, {how})", "```", ""]
    shown = [
        f"![16 pictures that it draws]({GRID})",
        "",
        "*Seeds 0 to 15 by its own settings; nothing picked.*",
        "",
    ]
    return lines + shown if pictured else lines


def _body(
    config: Mapping[str, Any],
    artifacts: Mapping[str, Mapping[str, Any]],
    licences: Mapping[str, str | None],
    results: Sequence[tuple[str, Mapping[str, Any]]],
    datasets: Sequence[str],
) -> list[str]:
    """Classes, weights, data, settings and scores."""
    classes, lines = config["classes"], []
    if classes:
        more = f" and {len(classes) - CLASSES:,} more" if len(classes) > CLASSES else ""
        lines += [f"Classes: {', '.join(map(_plain, classes[:CLASSES]))}{more}.", ""]
    lines += ["## Weights", "", "| part | id | licence | made by |", "|---|---|---|---|"]
    for name, artifact in artifacts.items():
        made = artifact.get("made_by") or {}
        by = ", ".join(f"{_plain(key)} {_plain(value)}" for key, value in made.items())
        told = licences[name] or "not stated: ask who made them"
        lines.append(f"| {_WORDS[name]} | `{_plain(artifact['id'][:12])}` | {_plain(told, 300)} | {by} |")
    lines += ["", "## Data", ""]
    lines += [f"Trained on {', '.join(map(_plain, datasets))}." if datasets else "Not stated by its maker."]
    for name, artifact in artifacts.items():
        source = (artifact.get("extra") or {}).get("source")
        if isinstance(source, str):
            lines += ["", f"The {_WORDS[name]}'s pictures have the fingerprint `{_plain(source[:12])}`."]
    lines += ["", "## Settings", "", "How it draws unless told otherwise:", ""]
    lines += [
        "```json",
        json.dumps(config["sampling"], indent=1),
        "```",
        "",
        "And how its parts are built:",
        "",
    ]
    own = {name: artifact["config"] for name, artifact in artifacts.items()}
    lines += ["```json", json.dumps(own, indent=1), "```", "", "## Scores", ""]
    if not results:
        lines += [f"None: results of `digit evaluate` in the folder `{RESULTS}` beside it would stand here."]
    for file, result in results:
        counts = ", ".join(f"{number:,} {_plain(name)}" for name, number in result["counts"].items())
        lines += [f"{_plain(result['measurement'])} (`{_plain(file)}`), {counts}:", "", "| | |", "|---|---|"]
        lines += [
            f"| {_plain(name)} | {'none' if value is None else f'{value:.6g}'} |"
            for name, value in result["values"].items()
        ]
        lines += ["", f"Protocol: {_plain(result['protocol'], 2000)}", ""]
    return [*lines, ""]


def _licence(artifact: Mapping[str, Any], own: str | None) -> str | None:
    """What a part says of its licence, or that of its maker."""
    told = (artifact.get("extra") or {}).get("licence")
    return told if isinstance(told, str) else own


def _front_licence(licences: Sequence[str | None]) -> dict[str, str]:
    """The card's licence: that of all parts, or a word for several; unknown where a part's is."""
    if DINOV3_LICENCE in licences:
        link = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
        return {"license": "other", "license_name": "dinov3-license", "license_link": link}
    if None in licences:
        return {"license": "unknown"}
    if len(set(licences)) == 1:
        return {"license": str(licences[0])}
    return {"license": "other", "license_name": "several-see-the-card"}


def _results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The results of `digit evaluate` in a folder, by their files' names."""
    found = []
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if not isinstance(value, dict) or value.get("kind") != "result":
            raise DigitError(f"{path} is no result of `digit evaluate`: move it out of {folder}")
        found.append((path.name, entries(value, _RESULT, where=path, remedy="measure it again")))
    return found


def _plain(text: object, most: int = 80) -> str:
    """A text that may come out of anybody's file, as Markdown shows it and nothing obeys it."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!&~$])", r"\\\1", readable(text, most))
